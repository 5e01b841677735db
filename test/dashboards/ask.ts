/** Asks the queries of a dashboard as Grafana does, and reads what its panels then say. */
import { RATE_INTERVAL } from './days.ts';
import type { RunningPrometheus, Sample } from './prometheus.ts';

/** What we read of the JSON that Grafana reads. */
export interface BuiltPanel {
  readonly id: number;
  readonly type: string;
  readonly title: string;
  readonly description: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly datasource: { readonly type: string; readonly uid: string };
  readonly options: { readonly textMode?: string; readonly legend?: { readonly showLegend: boolean } };
  readonly fieldConfig: {
    readonly defaults: { readonly unit?: string; readonly noValue?: string };
    readonly overrides: readonly Override[];
  };
  readonly links?: readonly { readonly title: string; readonly url: string }[];
  readonly targets: readonly Target[];
}

export interface Override {
  readonly matcher: { readonly id: string; readonly options: string };
  readonly properties: readonly { readonly id: string; readonly value?: unknown }[];
}

export interface Target {
  readonly refId: string;
  readonly expr: string;
  readonly legendFormat: string;
  readonly instant: boolean;
  readonly range: boolean;
  readonly datasource: { readonly uid: string };
}

export interface BuiltDashboard {
  readonly uid: string;
  readonly title: string;
  readonly description: string;
  readonly editable: boolean;
  readonly timezone: string;
  readonly refresh: string;
  readonly schemaVersion: number;
  readonly time: { readonly from: string; readonly to: string };
  readonly panels: readonly BuiltPanel[];
  readonly links: readonly { readonly title: string; readonly url: string; readonly keepTime: boolean }[];
  readonly templating: {
    readonly list: readonly {
      readonly name: string;
      readonly type: string;
      readonly query: string;
      readonly current?: { readonly value: string };
    }[];
  };
}

export interface Answer {
  readonly target: Target;
  readonly series: readonly Sample[];
}

/** With the values that its variables have when nobody has chosen any. */
export const filledIn = (expr: string): string =>
  expr
    .replaceAll('$namespace', 'counterfoil')
    .replaceAll('$installation', 'counterfoil')
    .replaceAll('$__rate_interval', RATE_INTERVAL);

const HOUR = 3_600;
/** Points across a panel. */
const POINTS = 180;

/** Seconds that a dashboard shows when it is opened: `now-6h` are 21,600. */
export function shownSeconds({ time }: Pick<BuiltDashboard, 'time'>): number {
  const hours = /^now-(\d+)h$/.exec(time.from)?.[1];
  if (hours === undefined || time.to !== 'now') throw new Error(`no such range: ${time.from} to ${time.to}`);
  return Number(hours) * HOUR;
}

/** @param now seconds since 1970 */
export async function ask(
  prometheus: RunningPrometheus,
  dashboard: Pick<BuiltDashboard, 'time'>,
  panel: BuiltPanel,
  now: number,
): Promise<Answer[]> {
  const seconds = shownSeconds(dashboard);
  return await Promise.all(
    panel.targets.map(async (target) => ({
      target,
      series: target.range
        ? await prometheus.range(filledIn(target.expr), now - seconds, now, Math.ceil(seconds / POINTS))
        : await prometheus.instant(filledIn(target.expr), now),
    })),
  );
}

/** What is written on it: the name of each series, and its newest value as its mapping puts it. */
export function readings(panel: BuiltPanel, answers: readonly Answer[]): string[] {
  return answers.flatMap(({ target, series }) =>
    series.map(({ metric, values }) => {
      const name = target.legendFormat.replaceAll(
        /\{\{(\w+)\}\}/g,
        (_, label: string) => metric[label] ?? '',
      );
      const value = values.at(-1)?.[1] ?? '';
      if (panel.options.textMode === 'name') return name;
      return `${name} = ${mapped(panel, target.refId, value) ?? rounded(value)}`;
    }),
  );
}

function mapped(panel: BuiltPanel, refId: string, value: string): string | undefined {
  const properties = panel.fieldConfig.overrides
    .filter(({ matcher }) => matcher.id === 'byFrameRefID' && matcher.options === refId)
    .flatMap((override) => override.properties);
  const mappings = properties.find(({ id }) => id === 'mappings')?.value as
    | { options: Record<string, { text: string }> }[]
    | undefined;
  return mappings?.[0]?.options[value]?.text;
}

const rounded = (value: string) => String(Math.round(Number(value) * 10_000) / 10_000);
