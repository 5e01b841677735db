/** The five dashboards, by name. */
import type { Dashboard } from '@grafana/grafana-foundation-sdk/dashboard';
import { canary } from './canary.ts';
import type { DashboardName } from './frame.ts';
import { onCall } from './on-call.ts';
import { reconciliation } from './reconciliation.ts';
import { replay } from './replay.ts';
import { service } from './service.ts';

export const dashboards: Readonly<Record<DashboardName, () => Dashboard>> = {
  'on-call': onCall,
  reconciliation,
  replay,
  canary,
  service,
};

/** As it is committed under `dashboards/built`. */
export const textOf = (dashboard: Dashboard) => `${JSON.stringify(dashboard, null, 2)}\n`;
