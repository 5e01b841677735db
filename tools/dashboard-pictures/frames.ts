/** Answers of Prometheus as the data frames that Grafana's data source makes of them. */
import {
  applyFieldOverrides,
  cacheFieldDisplayNames,
  type DataFrame,
  type Field,
  FieldConfigOptionsRegistry,
  type FieldConfigPropertyItem,
  FieldType,
  type GrafanaTheme2,
  toDataFrame,
} from '@grafana/data';
import type { BuiltPanel, Target } from '../../test/dashboards/ask.ts';
import type { Sample } from '../../test/dashboards/prometheus.ts';
import type { Answers } from './answers.ts';

const legendOf = ({ legendFormat }: Target, { metric }: Sample) =>
  legendFormat.replaceAll(/\{\{(\w+)\}\}/g, (_, label: string) => metric[label] ?? '');

export function framesOf(panel: BuiltPanel, answers: Answers): DataFrame[] {
  const series = answers.series[panel.id] ?? {};
  if (panel.type === 'table') {
    const answered = panel.targets.filter(({ refId }) => (series[refId] ?? []).length > 0);
    return answered.map((target) => tableFrame(target, series[target.refId] ?? [], answered.length === 1));
  }
  return panel.targets.flatMap((target) =>
    (series[target.refId] ?? []).map((sample) => seriesFrame(target, sample, answers)),
  );
}

function seriesFrame(target: Target, sample: Sample, { from, to, step }: Answers): DataFrame {
  const values = new Map(sample.values.map(([time, value]) => [Math.round(time), Number(value)]));
  const times: number[] = [];
  // A gap stays a gap.
  if (target.range) for (let time = from; time <= to; time += step) times.push(time);
  else times.push(...values.keys());
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, values: times.map((time) => time * 1_000), config: {} },
      {
        name: 'Value',
        type: FieldType.number,
        labels: sample.metric,
        values: times.map((time) => values.get(time) ?? null),
        config: { displayNameFromDS: legendOf(target, sample) },
      },
    ],
  });
}

function tableFrame(target: Target, samples: readonly Sample[], alone: boolean): DataFrame {
  const labels = [...new Set(samples.flatMap(({ metric }) => Object.keys(metric)))];
  return toDataFrame({
    refId: target.refId,
    fields: [
      {
        name: 'Time',
        type: FieldType.time,
        values: samples.map(({ values }) => (values[0]?.[0] ?? 0) * 1_000),
      },
      ...labels.map((label) => ({
        name: label,
        type: FieldType.string,
        values: samples.map(({ metric }) => metric[label] ?? ''),
      })),
      {
        name: alone ? 'Value' : `Value #${target.refId}`,
        type: FieldType.number,
        values: samples.map(({ values }) => Number(values[0]?.[1] ?? Number.NaN)),
      },
    ],
  });
}

const standard = ['unit', 'decimals', 'min', 'max', 'mappings', 'thresholds', 'color', 'links', 'noValue'];
const custom = [
  ...[
    'lineStyle',
    'lineWidth',
    'fillOpacity',
    'drawStyle',
    'showPoints',
    'axisSoftMin',
    'spanNulls',
    'scaleDistribution',
  ],
  ...['width', 'cellOptions', 'align'],
];
const item = (path: string, isCustom: boolean): FieldConfigPropertyItem =>
  ({
    id: isCustom ? `custom.${path}` : path,
    path,
    isCustom,
    name: path,
    process: (value: unknown) => value,
    shouldApply: (field: Field) => isCustom || field.type !== FieldType.time,
  }) as unknown as FieldConfigPropertyItem;
const registry = new FieldConfigOptionsRegistry(() => [
  ...standard.map((path) => item(path, false)),
  ...custom.map((path) => item(path, true)),
]);

/** Units, colours, mappings and links, as the JSON has them. */
export function withConfig(frames: DataFrame[], panel: BuiltPanel, theme: GrafanaTheme2): DataFrame[] {
  const overridden = applyFieldOverrides({
    data: frames,
    fieldConfig: panel.fieldConfig as never,
    replaceVariables: (text) => text,
    theme,
    timeZone: 'utc',
    fieldConfigRegistry: registry,
  });
  cacheFieldDisplayNames(overridden);
  return overridden;
}
