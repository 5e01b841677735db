/** What the page is given for each dashboard: its JSON, and what a real Prometheus has answered. */
import type { BuiltDashboard } from '../../test/dashboards/ask.ts';
import type { Sample } from '../../test/dashboards/prometheus.ts';

export interface Answers {
  readonly dashboard: BuiltDashboard;
  /** Seconds since 1970. */
  readonly from: number;
  readonly to: number;
  /** Between two points of a chart. */
  readonly step: number;
  /** By panel id, then by refId. */
  readonly series: Readonly<Record<number, Readonly<Record<string, readonly Sample[]>>>>;
}
