/**
 * The kinds of panel that we use, each complete: id and refIds, unit, legend, and what it says without data. The
 * builders of the SDK leave these out. Colours of limits come from queries, never from a number written here: what is
 * within its threshold series and what is beyond are two queries.
 */
import {
  BigValueColorMode,
  BigValueGraphMode,
  BigValueTextMode,
  GraphDrawStyle,
  LegendDisplayMode,
  LegendPlacement,
  ReduceDataOptionsBuilder,
  ScaleDistribution,
  ScaleDistributionConfigBuilder,
  SortOrder,
  TableCellHeight,
  TooltipDisplayMode,
  VisibilityMode,
  VizLegendOptionsBuilder,
  VizOrientation,
  VizTextDisplayOptionsBuilder,
  VizTooltipOptionsBuilder,
} from '@grafana/grafana-foundation-sdk/common';
import {
  DashboardLinkBuilder,
  type DataTransformerConfig,
  type DynamicConfigValue,
  FieldColorBuilder,
  FieldColorModeId,
  MappingType,
  type Panel,
  type ValueMapping,
} from '@grafana/grafana-foundation-sdk/dashboard';
import { DataqueryBuilder, PromQueryFormat } from '@grafana/grafana-foundation-sdk/prometheus';
import { PanelBuilder as Stat } from '@grafana/grafana-foundation-sdk/stat';
import { PanelBuilder as Table } from '@grafana/grafana-foundation-sdk/table';
import { PanelBuilder as TimeSeries } from '@grafana/grafana-foundation-sdk/timeseries';
import { unmeasured } from './selectors.ts';

/** What a panel says where nothing answers. */
export const NOT_MEASURED = 'NOT MEASURED';

/** green: looked at, and right. yellow: wait. orange: look soon. red: wrong. purple: nobody knows. blue: no judgement. */
export type Colour = 'green' | 'yellow' | 'orange' | 'red' | 'purple' | 'blue' | 'text';
/** Where several lines of one kind must be told apart: names of colours as Grafana has them. */
type Shade = Colour | `${'light' | 'semi-dark' | 'dark'}-${'orange' | 'blue' | 'yellow'}`;

/** A value, and what is shown in its place. */
export type Words = Readonly<Record<string, readonly [text: string, colour: Colour]>>;

export interface Query {
  /** Unique in its panel; a word that says what it stands for. */
  readonly refId: string;
  readonly expr: string;
  readonly legend: string;
  readonly colour?: Colour;
  /** Of several lines: each has a shade of its colour. */
  readonly shades?: boolean;
  readonly unit?: string;
  readonly decimals?: number;
  readonly words?: Words;
  /** A threshold: drawn as a broken line. */
  readonly limit?: boolean;
}

export interface PanelText {
  readonly title: string;
  readonly description: string;
  readonly unit: string;
  /** Left, top, width and height on a grid of 24 columns. */
  readonly at: readonly [x: number, y: number, w: number, h: number];
  readonly queries: readonly Query[];
  /** Alerts whose runbooks belong to it. */
  readonly runbooks?: readonly string[];
  readonly decimals?: number;
}

/** Set once more by the dashboard: ids count up in reading order. */
export type PanelOf = (id: number) => Panel;

const datasource = { type: 'prometheus', uid: `$\{datasource}` };
const linkTo = (title: string, url: string) =>
  new DashboardLinkBuilder(title).url(url).targetBlank(true).tooltip(title);
export const runbookUrl = (alert: string) => `$\{runbooks}/${alert}.md`;

/** Lines over time, with thresholds as broken lines beside them. */
export function chart(
  text: PanelText & {
    readonly max?: number;
    readonly log?: boolean;
    /** By name of the line; without it the first line would be green whatever it says. */
    readonly colours?: Readonly<Record<string, Shade>>;
  },
): PanelOf {
  const panel = new TimeSeries()
    .drawStyle(GraphDrawStyle.Line)
    .lineWidth(2)
    .fillOpacity(6)
    .showPoints(VisibilityMode.Never)
    .colorScheme(new FieldColorBuilder().mode(FieldColorModeId.PaletteClassic))
    .legend(
      new VizLegendOptionsBuilder()
        .displayMode(LegendDisplayMode.List)
        .placement(LegendPlacement.Bottom)
        .showLegend(true)
        .calcs([]),
    )
    .tooltip(new VizTooltipOptionsBuilder().mode(TooltipDisplayMode.Multi).sort(SortOrder.Descending));
  if (text.max !== undefined) panel.max(text.max);
  if (text.log === true)
    panel.scaleDistribution(new ScaleDistributionConfigBuilder().type(ScaleDistribution.Log).log(10));
  else panel.axisSoftMin(0);
  for (const [name, colour] of Object.entries(text.colours ?? {}))
    panel.overrideByName(name, [{ id: 'color', value: { mode: 'fixed', fixedColor: colour } }]);
  return finish(panel, text, 'range');
}

/** Pixels. */
const NAME_SIZE = 14;
const VALUE_SIZE = 24;
const ROW_SIZE = 18;

const textModes = {
  both: BigValueTextMode.ValueAndName,
  /** What is said is in the legend; that there is a value says that it is so. */
  names: BigValueTextMode.Name,
  values: BigValueTextMode.Value,
};

/** One value each, large. A name stays beside its value even where it is the only one: no money without a currency. */
export function stat(
  text: PanelText & {
    readonly shows?: keyof typeof textModes;
    readonly filled?: boolean;
    readonly size?: number;
  },
): PanelOf {
  const panel = new Stat()
    .graphMode(BigValueGraphMode.None)
    .colorMode(text.filled === true ? BigValueColorMode.BackgroundSolid : BigValueColorMode.Value)
    .textMode(textModes[text.shows ?? 'both'])
    .orientation(text.shows === 'names' ? VizOrientation.Auto : VizOrientation.Horizontal)
    .reduceOptions(lastValue())
    .colorScheme(fixed('text'));
  // Left to itself a text shrinks with the number of values, until nobody can read it.
  if (text.shows !== 'names')
    panel.text(new VizTextDisplayOptionsBuilder().titleSize(NAME_SIZE).valueSize(text.size ?? VALUE_SIZE));
  return finish(panel, text, 'instant');
}

/** Names on the left, numbers on the right; as many rows as there are. */
export const list = (text: PanelText): PanelOf => stat({ ...text, size: ROW_SIZE });

export interface Column {
  /** The label it comes from, or the refId of the query whose value it shows. */
  readonly from: string;
  readonly title: string;
  readonly unit?: string;
  readonly decimals?: number;
  readonly width?: number;
  readonly words?: Words;
  /** The cell is the name of an alert and leads to its runbook. */
  readonly runbook?: boolean;
}

/** One row for each set of labels that the queries share, in the order of the columns. */
export function table(
  text: Omit<PanelText, 'queries'> & {
    readonly queries: readonly Omit<Query, 'legend'>[];
    readonly columns: readonly Column[];
  },
): PanelOf {
  const [only, ...more] = text.queries;
  const field = ({ from }: Column) =>
    from === only?.refId && more.length === 0
      ? 'Value'
      : text.queries.some(({ refId }) => refId === from)
        ? `Value #${from}`
        : from;
  const shown = text.columns.map(field);
  const transformations: DataTransformerConfig[] = [
    { id: 'merge', options: {} },
    { id: 'filterFieldsByName', options: { include: { names: shown } } },
    {
      id: 'organize',
      options: {
        indexByName: Object.fromEntries(shown.map((name, index) => [name, index])),
        renameByName: Object.fromEntries(text.columns.map((column) => [field(column), column.title])),
      },
    },
  ];
  const panel = new Table()
    .showHeader(true)
    .cellHeight(TableCellHeight.Sm)
    .transformations(transformations)
    .colorScheme(fixed('text'));
  for (const column of text.columns) {
    panel.overrideByName(column.title, [
      ...(column.unit === undefined ? [] : [{ id: 'unit', value: column.unit }]),
      ...(column.decimals === undefined ? [] : [{ id: 'decimals', value: column.decimals }]),
      ...(column.width === undefined ? [] : [{ id: 'custom.width', value: column.width }]),
      ...(column.words === undefined
        ? []
        : [
            { id: 'mappings', value: mappingsOf(column.words) },
            { id: 'custom.cellOptions', value: { type: 'color-text' } },
          ]),
      ...(column.runbook === true
        ? [
            {
              id: 'links',
              value: [{ title: 'Runbook', url: runbookUrl(`$\{__value.raw}`), targetBlank: true }],
            },
          ]
        : []),
    ]);
  }
  return finish(
    panel,
    { ...text, queries: text.queries.map((query) => ({ legend: '', ...query })) },
    'table',
  );
}

/** Says that nobody knows, by a query that answers only then. */
export function notMeasured(metric: string, legend: string, matchers = ''): Query {
  return {
    refId: 'unmeasured',
    expr: unmeasured(metric, matchers),
    legend,
    words: { 1: [NOT_MEASURED, 'purple'] },
  };
}

/** The same on a chart: a name in the legend and no line, since a line at any height would be a number. */
export function notDrawn(selector: string): Query {
  return {
    refId: 'unmeasured',
    expr: `absent(${selector}) * NaN`,
    legend: NOT_MEASURED,
    colour: 'purple',
  };
}

const lastValue = () => new ReduceDataOptionsBuilder().calcs(['lastNotNull']).values(false);
const fixed = (colour: Colour) => new FieldColorBuilder().mode(FieldColorModeId.Fixed).fixedColor(colour);

export function mappingsOf(words: Words): ValueMapping[] {
  const options = Object.entries(words).map(([value, [text, color]], index) => [
    value,
    { text, color, index },
  ]);
  return [{ type: MappingType.ValueToText, options: Object.fromEntries(options) }];
}

function finish(
  panel: TimeSeries | Stat | Table,
  text: PanelText,
  kind: 'range' | 'instant' | 'table',
): PanelOf {
  const [x, y, w, h] = text.at;
  panel
    .title(text.title)
    .description(text.description)
    .unit(text.unit)
    .noValue(NOT_MEASURED)
    .datasource(datasource)
    .gridPos({ x, y, w, h });
  if (text.decimals !== undefined) panel.decimals(text.decimals);
  if (text.runbooks !== undefined)
    panel.links(text.runbooks.map((alert) => linkTo(`Runbook: ${alert}`, runbookUrl(alert))));
  for (const query of text.queries) {
    const target = new DataqueryBuilder()
      .datasource(datasource)
      .refId(query.refId)
      .expr(query.expr)
      .legendFormat(query.legend);
    if (kind === 'range') target.range();
    else target.instant();
    if (kind === 'table') target.format(PromQueryFormat.Table);
    panel.withTarget(target);
    const properties = propertiesOf(query);
    if (properties.length > 0)
      panel.withOverride({ matcher: { id: 'byFrameRefID', options: query.refId }, properties });
  }
  return (id) => panel.id(id).build();
}

function propertiesOf(query: Query): DynamicConfigValue[] {
  const properties: DynamicConfigValue[] = [];
  const colour = query.colour ?? (query.limit === true ? 'red' : undefined);
  if (colour !== undefined)
    properties.push({
      id: 'color',
      value: { mode: query.shades === true ? 'shades' : 'fixed', fixedColor: colour },
    });
  if (query.unit !== undefined) properties.push({ id: 'unit', value: query.unit });
  if (query.decimals !== undefined) properties.push({ id: 'decimals', value: query.decimals });
  if (query.words !== undefined) properties.push({ id: 'mappings', value: mappingsOf(query.words) });
  if (query.limit === true)
    properties.push(
      { id: 'custom.lineStyle', value: { fill: 'dash', dash: [8, 6] } },
      { id: 'custom.lineWidth', value: 1 },
      { id: 'custom.fillOpacity', value: 0 },
    );
  return properties;
}
