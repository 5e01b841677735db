/**
 * Says on the Rollout itself how the repair goes, as an Event that `kubectl describe` shows. Its name is made of what it
 * says, so that it is there once however often, and by however many exporters, it is said.
 */
import { createHash } from 'node:crypto';
import type { Abort, AbortRepair, RepairProgress, RepairState } from './abort-state.ts';

const words: Partial<Record<RepairState, { readonly reason: string; readonly type: 'Normal' | 'Warning' }>> =
  {
    requested: { reason: 'CounterfoilRepairRequested', type: 'Normal' },
    clean: { reason: 'CounterfoilRepairClean', type: 'Normal' },
    not_clean: { reason: 'CounterfoilRepairNotClean', type: 'Warning' },
  };

/** An API server keeps Events for an hour: what is older was said, and would be said again. */
const EVENT_LIFE_MS = 3_300_000;

/** The Event for this state; nothing for states that are not worth one, or that were long ago. */
export function eventOf(
  abort: Abort,
  repair: AbortRepair,
  progress: Pick<RepairProgress, 'now' | 'open' | 'suspected' | 'parked'>,
  about: { readonly rolloutUid: string; readonly pod: string },
): ({ readonly name: string } & Readonly<Record<string, unknown>>) | undefined {
  const said = words[repair.state];
  if (said === undefined || progress.now - repair.since > EVENT_LIFE_MS) return undefined;
  const digest = createHash('sha256')
    .update(JSON.stringify([abort.namespace, abort.rollout, abort.hash, abort.at, repair.state]))
    .digest('hex')
    .slice(0, 16);
  const at = new Date(progress.now).toISOString().replace(/\.\d+Z$/, 'Z');
  const name = `${abort.rollout.slice(0, 230)}.${digest}`;
  return {
    name,
    apiVersion: 'v1',
    kind: 'Event',
    metadata: { name, namespace: abort.namespace },
    involvedObject: {
      apiVersion: 'argoproj.io/v1alpha1',
      kind: 'Rollout',
      name: abort.rollout,
      namespace: abort.namespace,
      uid: about.rolloutUid,
    },
    type: said.type,
    reason: said.reason,
    message: messageOf(abort, repair.state, progress),
    source: { component: 'counterfoil-exporter' },
    reportingComponent: 'counterfoil/exporter',
    reportingInstance: about.pod,
    firstTimestamp: at,
    lastTimestamp: at,
    count: 1,
  };
}

function messageOf(
  { hash, at }: Abort,
  state: RepairState,
  { open, suspected, parked }: Pick<RepairProgress, 'open' | 'suspected' | 'parked'>,
): string {
  const version = `version ${hash}, aborted at ${at}`;
  switch (state) {
    case 'requested':
      return `What ${version}, left undone is asked to be replayed and verified`;
    case 'clean':
      return `What ${version}, did is verified: every bill is there once and right`;
    default:
      return `Of what ${version}, did, ${open + suspected} findings and ${parked} parked events are left to a person`;
  }
}
