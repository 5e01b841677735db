/** The kinds of panel that our dashboards use, put together from the parts of Grafana as Grafana does it. */
import {
  type DataFrame,
  dateTime,
  type FieldDisplay,
  getDisplayValueAlignmentFactors,
  getFieldDisplayValues,
  standardTransformers,
  standardTransformersRegistry,
  transformDataFrame,
} from '@grafana/data';
import { BigValue, PanelChrome, TimeSeries, useTheme2, VizRepeater } from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import { type ReactNode, useEffect, useState } from 'react';
import type { BuiltPanel } from '../../test/dashboards/ask.ts';
import type { Answers } from './answers.ts';
import { framesOf, withConfig } from './frames.ts';

standardTransformersRegistry.setInit(() =>
  [
    standardTransformers.mergeTransformer,
    standardTransformers.filterFieldsByNameTransformer,
    standardTransformers.organizeFieldsTransformer,
  ].map((info) => ({ ...info, transformation: () => Promise.resolve(info) }) as never),
);

interface Size {
  readonly width: number;
  readonly height: number;
}

interface PanelProps {
  readonly panel: BuiltPanel;
  readonly answers: Answers;
}

// biome-ignore lint/suspicious/noExplicitAny: options are as free as the JSON is
const optionsOf = (panel: BuiltPanel) => panel.options as any;

export function Panel({ panel, answers, width, height }: PanelProps & Size) {
  const links =
    (panel.links ?? []).length > 0 ? <span style={{ opacity: 0.6, paddingRight: 8 }}>↗</span> : undefined;
  return (
    <PanelChrome title={panel.title} titleItems={links} width={width} height={height}>
      {(innerWidth: number, innerHeight: number): ReactNode => {
        const size = { width: innerWidth, height: innerHeight };
        switch (panel.type) {
          case 'timeseries':
            return <Chart panel={panel} answers={answers} {...size} />;
          case 'table':
            return <Rows panel={panel} answers={answers} {...size} />;
          case 'stat':
            return <Stat panel={panel} answers={answers} {...size} />;
          default:
            throw new Error(`no such panel: ${panel.type}`);
        }
      }}
    </PanelChrome>
  );
}

function useFrames({ panel, answers }: PanelProps): DataFrame[] {
  return withConfig(framesOf(panel, answers), panel, useTheme2());
}

function useValues(props: PanelProps): FieldDisplay[] {
  const theme = useTheme2();
  return getFieldDisplayValues({
    fieldConfig: props.panel.fieldConfig as never,
    reduceOptions: optionsOf(props.panel).reduceOptions,
    replaceVariables: (text) => text,
    theme,
    data: useFrames(props),
    timeZone: 'utc',
  });
}

function Stat({ panel, answers, width, height }: PanelProps & Size) {
  const theme = useTheme2();
  const values = useValues({ panel, answers });
  const options = optionsOf(panel);
  return (
    <VizRepeater
      getValues={() => values}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, count, alignmentFactors }) => (
        <BigValue
          value={value.display}
          count={count}
          colorMode={options.colorMode}
          graphMode={options.graphMode}
          justifyMode={options.justifyMode}
          textMode={options.textMode}
          text={options.text}
          alignmentFactors={alignmentFactors}
          disableWideLayout={!options.wideLayout}
          width={width}
          height={height}
          theme={theme}
        />
      )}
      width={width}
      height={height}
      source={values}
      itemSpacing={3}
      renderCounter={0}
      autoGrid={true}
      orientation={options.orientation}
    />
  );
}

function Chart({ panel, answers, width, height }: PanelProps & Size) {
  const frames = useFrames({ panel, answers });
  if (frames.length === 0) return <p>{panel.fieldConfig.defaults.noValue}</p>;
  const [from, to] = [dateTime(answers.from * 1_000), dateTime(answers.to * 1_000)];
  return (
    <TimeSeries
      frames={frames}
      width={width}
      height={height}
      timeRange={{ from, to, raw: { from, to } }}
      timeZone="utc"
      legend={optionsOf(panel).legend}
    />
  );
}

function Rows({ panel, answers, width, height }: PanelProps & Size) {
  const theme = useTheme2();
  const [frame, setFrame] = useState<DataFrame>();
  useEffect(() => {
    const transformations = (panel as unknown as { transformations: never[] }).transformations;
    const ended = transformDataFrame(transformations, framesOf(panel, answers)).subscribe((frames) =>
      setFrame(withConfig(frames, panel, theme)[0]),
    );
    return () => ended.unsubscribe();
  }, [panel, answers, theme]);
  if (frame === undefined) return null;
  return <TableNG data={frame} width={width} height={height} cellHeight={'sm' as never} />;
}
