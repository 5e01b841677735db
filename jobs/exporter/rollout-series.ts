/** The series of the guarded rollout, from what the watches know. */

import { type AbortRepair, repairStates } from './abort-state.ts';
import { abortingMetric, currentRuns } from './analysis-current.ts';
import { type AnalysisRun, analysisPhases } from './analysis-read.ts';
import type { RolloutView, SetSeries } from './collection.ts';
import { canaryOf, pauseReasons, type ReplicaSet, type Rollout } from './rollout-read.ts';
import { hasRouterError, type RouterError } from './rollout-router.ts';

export interface RolloutKnowledge {
  readonly rollout: Rollout;
  readonly replicaSets: readonly ReplicaSet[];
  readonly runs: readonly AnalysisRun[];
  /** What the controller said of the router; undefined where we may not read Events. */
  readonly routerErrors: readonly RouterError[] | undefined;
  /** Whether the abort of now was said to be for want of progress. */
  readonly timedOut: boolean;
  readonly repair: AbortRepair | undefined;
}

const phases = ['Healthy', 'Progressing', 'Paused', 'Degraded', 'Invalid'] as const;

/**
 * When the canary's first pod can have been made at the earliest. A ReplicaSet is used again when a version comes
 * back, so the begin of the update counts where that is later.
 */
export function canaryStartedAt(
  rollout: Rollout,
  replicaSets: Iterable<ReplicaSet>,
  hash: string | undefined = canaryOf(rollout),
): number | undefined {
  const made = [...replicaSets].find((one) => one.owner === rollout.uid && one.hash === hash)?.createdAt;
  const begun = hash === canaryOf(rollout) ? rollout.updateStartedAt : undefined;
  if (hash === undefined || made === undefined) return undefined;
  return Math.max(made, begun ?? 0);
}

export function viewOf(
  rollout: Rollout,
  replicaSets: Iterable<ReplicaSet>,
  runs: Iterable<AnalysisRun>,
): RolloutView {
  const canaryHash = canaryOf(rollout);
  const startedAt = canaryStartedAt(rollout, replicaSets);
  // A retry keeps the ReplicaSet and the begin of the update, but has a background run of its own.
  const analysisAt = currentRuns(rollout, runs).find(({ kind }) => kind === 'background')?.createdAt;
  const judgedSince =
    startedAt === undefined && analysisAt === undefined
      ? undefined
      : Math.max(startedAt ?? 0, analysisAt ?? 0);
  return {
    rollout: rollout.name,
    version: canaryHash ?? rollout.stableHash ?? 'unknown',
    weight: rollout.weight,
    phase: rollout.phase ?? 'unknown',
    stableHash: rollout.stableHash,
    canaryHash,
    aborted: rollout.aborted,
    canaryStartedAt: startedAt === undefined ? undefined : new Date(startedAt).toISOString(),
    canaryJudgedSince: judgedSince === undefined ? undefined : new Date(judgedSince).toISOString(),
  };
}

export function setRolloutSeries(set: SetSeries<'rollout'>, known: RolloutKnowledge, now: number): void {
  const { rollout, replicaSets, runs } = known;
  const labels = { rollout: rollout.name };
  if (rollout.phase !== undefined)
    for (const phase of phases)
      set('counterfoil_rollout_phase', { ...labels, phase }, phase === rollout.phase ? 1 : 0);
  const canary = canaryOf(rollout);
  if (rollout.stableHash !== undefined)
    set('counterfoil_rollout_version', { ...labels, role: 'stable', published_hash: rollout.stableHash }, 1);
  if (canary !== undefined)
    set('counterfoil_rollout_version', { ...labels, role: 'canary', published_hash: canary }, 1);
  set('counterfoil_rollout_weight', labels, rollout.weight);
  set('counterfoil_rollout_steps', labels, rollout.steps);
  if (rollout.step !== undefined) set('counterfoil_rollout_step', labels, rollout.step);
  const startedAt = canaryStartedAt(rollout, replicaSets);
  if (startedAt !== undefined) set('counterfoil_rollout_started_timestamp_seconds', labels, startedAt / 1000);
  for (const reason of pauseReasons)
    set('counterfoil_rollout_paused', { ...labels, reason }, rollout.pausedFor.has(reason) ? 1 : 0);
  if (known.routerErrors !== undefined) {
    const failing = hasRouterError(rollout, known.routerErrors, now);
    set('counterfoil_rollout_router_error', labels, failing ? 1 : 0);
  }
  setAbort(set, known);
  for (const run of currentRuns(rollout, runs)) setRun(set, rollout.name, run);
}

function setAbort(set: SetSeries<'rollout'>, { rollout, runs, timedOut, repair }: RolloutKnowledge): void {
  const labels = { rollout: rollout.name };
  set('counterfoil_rollout_aborted', labels, rollout.aborted ? 1 : 0);
  const { abortedAt, currentHash } = rollout;
  if (rollout.aborted && abortedAt !== undefined && currentHash !== undefined) {
    const metric = abortingMetric(rollout, runs) ?? (timedOut ? 'progress_deadline' : 'person');
    set('counterfoil_rollout_aborted_timestamp_seconds', labels, abortedAt / 1000);
    set('counterfoil_rollout_abort_info', { ...labels, published_hash: currentHash, metric }, 1);
  }
  if (repair === undefined) return;
  const version = { ...labels, published_hash: repair.hash };
  for (const state of repairStates)
    set('counterfoil_abort_repair', { ...version, state }, state === repair.state ? 1 : 0);
  set('counterfoil_abort_repair_since_timestamp_seconds', version, repair.since / 1000);
}

function setRun(set: SetSeries<'rollout'>, rollout: string, run: AnalysisRun): void {
  for (const metric of run.metrics) {
    const labels = { rollout, published_hash: run.hash, analysis: run.kind, metric: metric.name };
    if (metric.value !== undefined) set('counterfoil_analysis_measurement', labels, metric.value);
    if (metric.limit !== undefined) set('counterfoil_analysis_limit', labels, metric.limit);
    for (const phase of analysisPhases)
      set('counterfoil_analysis_phase', { ...labels, phase }, phase === metric.phase ? 1 : 0);
  }
}
