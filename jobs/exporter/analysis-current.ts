/** Which analysis runs are about the canary of now, and which of them ended it. */
import type { AnalysisRun } from './analysis-read.ts';
import { canaryOf, type Rollout } from './rollout-read.ts';

/** At most one background and one step run: the one that the controller names, else the newest. */
export function currentRuns(rollout: Rollout, runs: Iterable<AnalysisRun>): AnalysisRun[] {
  const canary = canaryOf(rollout);
  const ours = [...runs].filter((run) => run.owner === rollout.uid && run.hash === canary);
  return (['background', 'step'] as const).flatMap((kind) => {
    const ofKind = ours
      .filter((run) => run.kind === kind)
      .toSorted((one, other) => other.createdAt - one.createdAt);
    const run = ofKind.find(({ name }) => rollout.currentRuns.includes(name)) ?? ofKind[0];
    return run === undefined ? [] : [run];
  });
}

/** The controller aborts within a reconcile or two after the run has ended. */
const ABORTS_WITHIN_MS = 120_000;

/** The metric that made the controller abort; nothing where no analysis did. */
export function abortingMetric(rollout: Rollout, runs: Iterable<AnalysisRun>): string | undefined {
  const { abortedAt } = rollout;
  if (abortedAt === undefined) return undefined;
  const [last] = [...runs]
    .filter(
      ({ owner, hash, phase, completedAt }) =>
        owner === rollout.uid &&
        hash === rollout.currentHash &&
        (phase === 'Failed' || phase === 'Error') &&
        completedAt !== undefined &&
        // Both are whole seconds.
        completedAt <= abortedAt + 1_000 &&
        completedAt >= abortedAt - ABORTS_WITHIN_MS,
    )
    .toSorted((one, other) => (other.completedAt ?? 0) - (one.completedAt ?? 0));
  const metrics = (last?.metrics ?? []).filter(({ dryRun }) => !dryRun);
  return (metrics.find(({ phase }) => phase === 'Failed') ?? metrics.find(({ phase }) => phase === 'Error'))
    ?.name;
}
