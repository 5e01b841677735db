/**
 * What is kept of a Rollout and of its ReplicaSets. Their objects are not ours and grow with each version of Argo:
 * what is missing or of another type gives nothing, and never an error.
 */
import { z } from 'zod';
import { lenient, type ObjectHead, objectHead, time } from './kubernetes-object.ts';

/** A phase of Argo, or `Invalid` where the spec is refused. */
export type RolloutPhase = string;

export interface Rollout extends ObjectHead {
  readonly phase: RolloutPhase | undefined;
  /** Pod template hashes. The stable one is empty until the first version is up. */
  readonly stableHash: string | undefined;
  readonly currentHash: string | undefined;
  readonly step: number | undefined;
  readonly steps: number;
  /** Per cent that the canary is meant to get now. */
  readonly weight: number;
  /** Per cent by the step that it is at. */
  readonly weightDue: number;
  readonly aborted: boolean;
  /** When the controller saw the abort; it comes a moment after `aborted`. */
  readonly abortedAt: number | undefined;
  /** Whether it says that no progress in time is why; lost at the controller's next look. */
  readonly timedOut: boolean;
  readonly pausedFor: ReadonlySet<PauseReason>;
  /** When the update that is under way began. */
  readonly updateStartedAt: number | undefined;
  /** When the controller last changed a condition: it got past the router then. */
  readonly settledAt: number;
  /** Label selector of the service's pods. */
  readonly selector: string | undefined;
  /** Names of the analysis runs that the controller looks at. */
  readonly currentRuns: readonly string[];
}

export const pauseReasons = ['step', 'inconclusive', 'manual'] as const;
export type PauseReason = (typeof pauseReasons)[number];

export interface ReplicaSet extends ObjectHead {
  readonly hash: string;
  /** Pods that exist, those that are ending not counted. */
  readonly replicas: number;
}

export const hashLabel = 'rollouts-pod-template-hash';

const run = lenient(z.object({ name: z.string() }));
const rolloutShape = z.object({
  metadata: z.object({ generation: lenient(z.number()) }),
  spec: lenient(
    z.object({
      paused: lenient(z.boolean()),
      selector: lenient(z.object({ matchLabels: lenient(z.record(z.string(), z.string())) })),
      strategy: lenient(
        z.object({
          canary: lenient(
            z.object({
              steps: lenient(z.array(z.object({ setWeight: lenient(z.number()) }))),
              trafficRouting: lenient(z.object({ maxTrafficWeight: lenient(z.number().positive()) })),
            }),
          ),
        }),
      ),
    }),
  ),
  status: lenient(
    z.object({
      phase: lenient(z.string()),
      observedGeneration: lenient(z.string()),
      abort: lenient(z.boolean()),
      abortedAt: lenient(time),
      currentPodHash: lenient(z.string().min(1)),
      stableRS: lenient(z.string().min(1)),
      currentStepIndex: lenient(z.number()),
      selector: lenient(z.string().min(1)),
      controllerPause: lenient(z.boolean()),
      pauseConditions: lenient(z.array(z.object({ reason: lenient(z.string()) }))),
      conditions: lenient(
        z.array(
          z.object({
            type: lenient(z.string()),
            status: lenient(z.string()),
            reason: lenient(z.string()),
            lastUpdateTime: lenient(time),
            lastTransitionTime: lenient(time),
          }),
        ),
      ),
      canary: lenient(
        z.object({
          weights: lenient(z.object({ canary: lenient(z.object({ weight: lenient(z.number()) })) })),
          currentBackgroundAnalysisRunStatus: run,
          currentStepAnalysisRunStatus: run,
        }),
      ),
    }),
  ),
});
type Shape = z.output<typeof rolloutShape>;

export function readRollout(object: unknown): Rollout | undefined {
  const head = objectHead(object);
  const parsed = rolloutShape.safeParse(object);
  if (head === undefined || !parsed.success) return undefined;
  const { spec, status } = parsed.data;
  const conditions = status?.conditions ?? [];
  const steps = spec?.strategy?.canary?.steps ?? [];
  const canary = status?.canary;
  const labels = Object.entries(spec?.selector?.matchLabels ?? {});
  return {
    ...head,
    phase: phaseOf(parsed.data),
    stableHash: status?.stableRS,
    currentHash: status?.currentPodHash,
    step: status?.currentStepIndex,
    steps: steps.length,
    weight: weightOf(parsed.data),
    weightDue: weightDueOf(parsed.data),
    aborted: status?.abort === true,
    abortedAt: status?.abortedAt,
    timedOut: conditions.some(({ reason }) => reason === 'ProgressDeadlineExceeded'),
    pausedFor: new Set(reasonsOf(parsed.data)),
    updateStartedAt: conditions.find((one) => one.type === 'Completed' && one.status === 'False')
      ?.lastTransitionTime,
    settledAt: Math.max(0, ...conditions.map(({ lastUpdateTime }) => lastUpdateTime ?? 0)),
    // With `workloadRef` the spec has none, and the controller writes the one that it found.
    selector:
      status?.selector ??
      (labels.length === 0 ? undefined : labels.map(([key, value]) => `${key}=${value}`).join(',')),
    currentRuns: [canary?.currentBackgroundAnalysisRunStatus, canary?.currentStepAnalysisRunStatus].flatMap(
      (one) => (one === undefined ? [] : [one.name]),
    ),
  };
}

/** Of an update that is under way: the version that is judged. */
export function canaryOf(rollout: Rollout): string | undefined {
  const { stableHash, currentHash } = rollout;
  return stableHash === undefined || stableHash === currentHash ? undefined : currentHash;
}

function phaseOf({ metadata, status }: Shape): RolloutPhase | undefined {
  if (status?.conditions?.some(({ type }) => type === 'InvalidSpec') === true) return 'Invalid';
  // What the controller has not seen yet is on its way, whatever the status says of what was before.
  const observed = Number(status?.observedGeneration ?? metadata.generation);
  if (metadata.generation !== undefined && observed < metadata.generation) return 'Progressing';
  if (status?.controllerPause === true && (status.pauseConditions ?? []).length === 0) return 'Progressing';
  return status?.phase;
}

/** The words of the controller's own reasons, and of a person's. */
function reasonsOf({ spec, status }: Shape): PauseReason[] {
  const own = (status?.pauseConditions ?? []).map(({ reason }) =>
    reason === 'InconclusiveAnalysis' ? 'inconclusive' : 'step',
  );
  return spec?.paused === true ? [...own, 'manual'] : own;
}

/**
 * With a router, what the controller last set; without one there is no weight, and the step says which share of the
 * pods it is working towards.
 */
function weightOf(rollout: Shape): number {
  const routing = rollout.spec?.strategy?.canary?.trafficRouting;
  if (routing === undefined) return weightDueOf(rollout);
  const { canary, stableRS, currentPodHash } = rollout.status ?? {};
  if (stableRS === undefined || stableRS === currentPodHash) return 0;
  return perCent(rollout, canary?.weights?.canary?.weight ?? 0);
}

function weightDueOf(rollout: Shape): number {
  const { stableRS, currentPodHash, abort, currentStepIndex } = rollout.status ?? {};
  if (stableRS === undefined || stableRS === currentPodHash || abort === true) return 0;
  const steps = rollout.spec?.strategy?.canary?.steps ?? [];
  const reached = currentStepIndex ?? 0;
  if (reached >= steps.length) return 100;
  const last = steps.slice(0, reached + 1).findLast(({ setWeight }) => setWeight !== undefined);
  return perCent(rollout, last?.setWeight ?? 0);
}

const perCent = ({ spec }: Shape, weight: number): number =>
  (weight * 100) / (spec?.strategy?.canary?.trafficRouting?.maxTrafficWeight ?? 100);

const replicaSetShape = z.object({
  metadata: z.object({ labels: z.object({ [hashLabel]: z.string().min(1) }) }),
  status: lenient(z.object({ replicas: lenient(z.number()) })),
});

/** A ReplicaSet of a Rollout; nothing for any other one. */
export function readReplicaSet(object: unknown): ReplicaSet | undefined {
  const head = objectHead(object);
  const parsed = replicaSetShape.safeParse(object);
  if (head?.owner === undefined || !parsed.success) return undefined;
  return {
    ...head,
    hash: parsed.data.metadata.labels[hashLabel],
    replicas: parsed.data.status?.replicas ?? 0,
  };
}
