/**
 * What the API server says of the guarded Rollout, its analysis and its pods, as series and as the view that `/rollout`
 * and `/gate` give. One watch per kind; a set of series is published only while every watch behind it is alive, so
 * that half of the truth is never shown as all of it.
 */
import type { Logger } from '../runtime/logger.ts';
import { AbortRepairs, type VersionPods } from './abort-repair.ts';
import type { AbortRepair } from './abort-state.ts';
import { type AnalysisRun, readAnalysisRun } from './analysis-read.ts';
import type { CollectionSink, RolloutView, Watches } from './collection.ts';
import type { ExporterContext } from './env.ts';
import { ApiServer, type Query } from './kubernetes-api.ts';
import { paceFor, type WatchPace, watchObjects } from './kubernetes-watch.ts';
import { type Pod, readPod } from './pods-read.ts';
import { RestartCounter } from './pods-restarts.ts';
import { setPodSeries } from './pods-series.ts';
import { hashLabel, type ReplicaSet, type Rollout, readReplicaSet, readRollout } from './rollout-read.ts';
import { type RouterError, readRouterError } from './rollout-router.ts';
import { canaryStartedAt, setRolloutSeries, viewOf } from './rollout-series.ts';

/** Changes come in flocks: a pod that starts is five of them. */
const FLOCK_MS = 100;
/** Some series change by the passing of time alone. */
const REFRESH_MS = 15_000;

export interface WatchingPace extends WatchPace {
  /** How often a repair that is not finished is looked at. */
  readonly repairMs: number;
}

/** What one watch last said, and whether it can still be believed. */
class Part<Kept> {
  objects: ReadonlyMap<string, Kept> | undefined;
  connected = false;
  /** Refused for want of a right: left out instead of waited for. */
  forbidden = false;

  get usable(): boolean {
    return this.connected && this.objects !== undefined;
  }

  values(): Kept[] {
    return [...(this.objects?.values() ?? [])];
  }
}

/**
 * Starts the watches; nothing where no rollout is named.
 * @param pace a test passes a faster one
 */
export function startWatches(
  context: ExporterContext,
  sink: CollectionSink,
  pace: WatchingPace = { ...paceFor(context.settings.CF_MAX_AGE_SECONDS), repairMs: 5_000 },
): Watches {
  const { CF_ROLLOUT_NAME: name } = context.settings;
  if (name === undefined) {
    context.logger.info('no rollout is guarded: CF_ROLLOUT_NAME is not set');
    sink.off('rollout');
    sink.off('pods');
    return { view: () => undefined, ended: Promise.resolve() };
  }
  const guarded = new GuardedRollout(context, sink, name, pace);
  return { view: () => guarded.view(), ended: guarded.run() };
}

class GuardedRollout {
  readonly #context: ExporterContext;
  readonly #sink: CollectionSink;
  readonly #name: string;
  readonly #pace: WatchingPace;
  readonly #logger: Logger;
  readonly #signal: AbortSignal;
  readonly #rollouts = new Part<Rollout>();
  readonly #replicaSets = new Part<ReplicaSet>();
  readonly #runs = new Part<AnalysisRun>();
  readonly #routerErrors = new Part<RouterError>();
  readonly #pods = new Part<Pod>();
  readonly #restarts = new RestartCounter(Date.now());
  #repairs: AbortRepairs | undefined;
  /** Aborts that the controller said were for want of progress, which it says only for a moment. */
  readonly #timedOut = new Set<string>();
  #flock: NodeJS.Timeout | undefined;
  #aliveAt = Number.NEGATIVE_INFINITY;
  #noted: string | undefined;

  constructor(context: ExporterContext, sink: CollectionSink, name: string, pace: WatchingPace) {
    this.#context = context;
    this.#sink = sink;
    this.#name = name;
    this.#pace = pace;
    this.#logger = context.logger.child({ rollout: name });
    this.#signal = context.signal;
  }

  view(): RolloutView | undefined {
    const [rollout] = this.#rollouts.values();
    if (
      rollout === undefined ||
      performance.now() - this.#aliveAt > this.#context.settings.CF_MAX_AGE_SECONDS
    )
      return undefined;
    return viewOf(rollout, this.#replicaSets.values(), this.#runs.values());
  }

  async run(): Promise<void> {
    const { settings } = this.#context;
    let api: ApiServer;
    try {
      api = await ApiServer.load();
    } catch (error) {
      this.#logger.error(
        { code: (error as { code?: unknown }).code },
        'neither a service account nor a kubeconfig can be read: the rollout is not seen',
      );
      this.#lost('rollout');
      this.#lost('pods');
      return;
    }
    const namespace = settings.CF_ROLLOUT_NAMESPACE ?? api.namespace ?? 'default';
    const refresh = setInterval(() => this.#changed('rollout'), REFRESH_MS);
    try {
      await Promise.all([
        ...this.#watchRollout(api, namespace),
        this.#watchPods(api, namespace),
        this.#repair(api, namespace),
      ]);
    } finally {
      clearInterval(refresh);
      clearTimeout(this.#flock);
      await api.close();
    }
  }

  #watchRollout(api: ApiServer, namespace: string): Promise<void>[] {
    const argo = `/apis/argoproj.io/v1alpha1/namespaces/${namespace}`;
    const ofRollouts = { labelSelector: hashLabel };
    const named = `metadata.name=${this.#name}`;
    const said = `involvedObject.kind=Rollout,involvedObject.name=${this.#name},type=Warning`;
    const start = <Kept>(
      part: Part<Kept>,
      kind: { name: string; path: string; query: Query; keep: (object: unknown) => Kept | undefined },
    ) => this.#watch(api, part, 'rollout', kind, this.#signal);
    return [
      start(this.#rollouts, {
        name: 'rollouts',
        path: `${argo}/rollouts`,
        query: { fieldSelector: named },
        keep: readRollout,
      }),
      start(this.#runs, {
        name: 'analysisruns',
        path: `${argo}/analysisruns`,
        query: ofRollouts,
        keep: readAnalysisRun,
      }),
      start(this.#replicaSets, {
        name: 'replicasets',
        path: `/apis/apps/v1/namespaces/${namespace}/replicasets`,
        query: ofRollouts,
        keep: readReplicaSet,
      }),
      start(this.#routerErrors, {
        name: 'events',
        path: `/api/v1/namespaces/${namespace}/events`,
        query: { fieldSelector: said },
        keep: readRouterError,
      }),
    ];
  }

  /** Follows the pods that the Rollout selects, from the moment it says which; anew when it says others. */
  async #watchPods(api: ApiServer, namespace: string): Promise<void> {
    while (!this.#signal.aborted) {
      const selector = this.#selector();
      const other = new AbortController();
      this.#selectorChanged = () => {
        if (this.#selector() !== selector) other.abort();
      };
      const signal = AbortSignal.any([this.#signal, other.signal]);
      if (selector === undefined) {
        await new Promise<void>((resolve) => {
          if (signal.aborted) resolve();
          signal.addEventListener('abort', () => resolve(), { once: true });
        });
        continue;
      }
      await this.#watch(
        api,
        this.#pods,
        'pods',
        {
          name: 'pods',
          path: `/api/v1/namespaces/${namespace}/pods`,
          query: { labelSelector: selector },
          keep: readPod,
        },
        signal,
      );
      this.#pods.connected = false;
      this.#pods.objects = undefined;
    }
  }

  #selectorChanged: () => void = () => undefined;

  /** What was selected stays so while the Rollout is away: its pods are still there for a while. */
  #selector(): string | undefined {
    const [rollout] = this.#rollouts.values();
    this.#lastSelector = rollout?.selector ?? this.#lastSelector;
    return this.#lastSelector;
  }

  #lastSelector: string | undefined;

  async #watch<Kept>(
    api: ApiServer,
    part: Part<Kept>,
    collection: 'rollout' | 'pods',
    kind: { name: string; path: string; query: Query; keep: (object: unknown) => Kept | undefined },
    signal: AbortSignal,
  ): Promise<void> {
    await watchObjects<Kept>(
      api,
      {
        ...kind,
        changed: (objects) => {
          part.objects = objects;
          this.#changed(collection);
        },
        alive: () => {
          part.connected = true;
          part.forbidden = false;
          this.#alive(collection);
        },
        lost: (status) => {
          part.connected = false;
          part.forbidden = status === 403;
          this.#lost(collection);
        },
      },
      { logger: this.#logger, signal, pace: this.#pace },
    );
  }

  /** Whether every watch behind a collection can be believed. Without a right to read Events one series is left out. */
  #usable(collection: 'rollout' | 'pods'): boolean {
    if (collection === 'pods') return this.#pods.usable;
    return (
      [this.#rollouts, this.#runs, this.#replicaSets].every((part) => part.usable) &&
      (this.#routerErrors.usable || this.#routerErrors.forbidden)
    );
  }

  #alive(collection: 'rollout' | 'pods'): void {
    if (!this.#usable(collection)) return;
    this.#sink.alive(collection);
    if (collection === 'rollout') this.#aliveAt = performance.now();
  }

  #lost(collection: 'rollout' | 'pods'): void {
    if (!this.#usable(collection)) this.#sink.lost(collection);
  }

  #changed(collection: 'rollout' | 'pods'): void {
    if (collection === 'pods') this.#restarts.update(this.#pods.values());
    else this.#selectorChanged();
    this.#flock ??= setTimeout(() => {
      this.#flock = undefined;
      this.#publish();
    }, FLOCK_MS);
  }

  #publish(): void {
    const now = Date.now();
    if (this.#usable('rollout')) {
      this.#aliveAt = performance.now();
      const [rollout] = this.#rollouts.values();
      if (rollout !== undefined) this.#seeAbort(rollout);
      this.#noteAbsence(rollout);
      this.#sink.publish('rollout', (set) => {
        if (rollout === undefined) return;
        setRolloutSeries(
          set,
          {
            rollout,
            replicaSets: this.#replicaSets.values(),
            runs: this.#runs.values(),
            routerErrors: this.#routerErrors.usable ? this.#routerErrors.values() : undefined,
            timedOut: this.#timedOut.has(abortKey(rollout)),
            repair: this.#repairOf(rollout),
          },
          now,
        );
      });
    }
    if (this.#usable('pods'))
      this.#sink.publish('pods', (set) => setPodSeries(set, this.#pods.values(), this.#restarts.totals()));
    this.#repairs?.poke();
  }

  #noteAbsence(rollout: Rollout | undefined): void {
    const now = rollout === undefined ? 'absent' : 'there';
    if (this.#noted === now) return;
    if (rollout === undefined) this.#logger.warn('there is no rollout of this name: it has no series');
    else this.#logger.info({ uid: rollout.uid }, 'the rollout is watched');
    this.#noted = now;
  }

  #seeAbort(rollout: Rollout): void {
    if (!rollout.aborted) return;
    if (rollout.timedOut) this.#timedOut.add(abortKey(rollout));
    const { abortedAt, currentHash } = rollout;
    if (abortedAt === undefined || currentHash === undefined) return;
    this.#repairs?.seen({
      namespace: this.#namespace,
      rollout: rollout.name,
      hash: currentHash,
      at: new Date(abortedAt).toISOString(),
    });
  }

  #namespace = 'default';

  #repairOf(rollout: Rollout): AbortRepair | undefined {
    if (this.#repairs !== undefined) return this.#repairs.state();
    const { aborted, abortedAt, currentHash } = rollout;
    return aborted && abortedAt !== undefined && currentHash !== undefined
      ? { hash: currentHash, state: 'off', since: abortedAt }
      : undefined;
  }

  async #repair(api: ApiServer, namespace: string): Promise<void> {
    const { settings, database } = this.#context;
    this.#namespace = namespace;
    if (!settings.CF_REPAIR_AFTER_ABORT) return;
    this.#repairs = new AbortRepairs({
      database,
      logger: this.#logger,
      signal: this.#signal,
      installation: settings.CF_INSTALLATION,
      eventsTable: settings.CF_EVENTS_TABLE,
      pod: settings.CF_POD_NAME,
      rollout: { namespace, name: this.#name },
      maxAgeMs: settings.CF_MAX_AGE_SECONDS,
      busyPauseMs: this.#pace.repairMs,
      podsOf: (hash) => this.#podsOf(hash),
      rolloutUid: () => this.#rollouts.values()[0]?.uid,
      say: async (event) => await api.post(`/api/v1/namespaces/${namespace}/events`, event, this.#signal),
      changed: () => this.#changed('rollout'),
    });
    await this.#repairs.run();
  }

  #podsOf(hash: string): VersionPods | undefined {
    const [rollout] = this.#rollouts.values();
    if (!this.#usable('rollout')) return undefined;
    const replicaSets = this.#replicaSets.values();
    const meant = replicaSets.find((one) => one.hash === hash && one.owner === rollout?.uid);
    const left = this.#pods.values().some((pod) => pod.hash === hash && !pod.finished);
    return {
      startedAt: rollout === undefined ? undefined : canaryStartedAt(rollout, replicaSets, hash),
      gone: this.#usable('pods') && !left && (meant?.replicas ?? 0) === 0,
      promoted: rollout?.stableHash === hash,
    };
  }
}

const abortKey = ({ uid, currentHash, abortedAt }: Rollout): string =>
  `${uid} ${currentHash ?? ''} ${abortedAt ?? ''}`;
