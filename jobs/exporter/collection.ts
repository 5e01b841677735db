/**
 * How series reach a scrape: a collection hands in its newest set of them as a whole, and says when it is cut off.
 * The types allow no metric that metrics.ts does not declare for this collection, and no other labels.
 *
 * A set is exported while the last sign of life of its collection is younger than the maximum age
 * (`CF_MAX_AGE_SECONDS`); then its series vanish until the next `publish`. So nothing stale is exported as fresh, even
 * where nobody notices that a connection is half open.
 */
import type { Collection, MetricName, metrics } from './metrics.ts';

export type { Collection } from './metrics.ts';

/** A collection that somebody else than the exporter's own cache fills. */
export type FilledCollection = Exclude<Collection, 'exporter'>;

/** The metrics that this collection has to set. */
export type MetricOf<C extends Collection> = {
  [Name in MetricName]: (typeof metrics)[Name]['from'] extends C ? Name : never;
}[MetricName];

/** The labels of a metric, all of them, without `installation`, which every series gets. */
export type LabelsOf<Name extends MetricName> = Readonly<
  // Of a metric without labels an empty record would take any.
  [LabelOf<Name>] extends [never] ? Record<string, never> : Record<LabelOf<Name>, string>
>;

type LabelOf<Name extends MetricName> = (typeof metrics)[Name]['labels'][number];

/**
 * Sets one series. A counter is set too, to all it has counted.
 * @throws RunFailure `internal` for what is not declared, for a series that was set before, and for no finite number
 */
export type SetSeries<C extends Collection> = <Name extends MetricOf<C>>(
  name: Name,
  labels: LabelsOf<Name>,
  value: number,
) => void;

/** Where collections put what they know. */
export interface CollectionSink {
  /**
   * The newest set of series, whole: what is not set in it is no longer exported. Counts as a success and as a sign of
   * life. Where `fill` throws, nothing of it is taken, the last set stays, the collection counts as failed, and the
   * error is thrown on.
   * @param tookMs how long it took to find out; 0 where it was told
   */
  publish<C extends FilledCollection>(
    collection: C,
    fill: (set: SetSeries<C>) => void,
    tookMs?: number,
  ): void;
  /** A sign of life without news, such as a bookmark of a watch: what was published, and is not too old yet, is still so. */
  alive(collection: FilledCollection): void;
  /** The last attempt failed, or the watch is cut off. What was published stays until it is too old. */
  lost(collection: FilledCollection, tookMs?: number): void;
  /** Switched off, or it cannot be measured here: no series of its own, and none that says that it fails. */
  off(collection: FilledCollection): void;
}

/** What `/rollout` and `/gate` say of the guarded rollout. */
export interface RolloutView {
  readonly rollout: string;
  /** The pod template hash of the canary while there is one, else of the stable version. */
  readonly version: string;
  /** Per cent of the traffic that the canary gets; 0 while there is none. */
  readonly weight: number;
  readonly phase: string;
  readonly stableHash: string | undefined;
  readonly canaryHash: string | undefined;
  readonly aborted: boolean;
  /** When the ReplicaSet of the canary was made, as text in UTC. */
  readonly canaryStartedAt: string | undefined;
  /** Since when it is judged this time, as text in UTC: a version that is tried again leaves its past behind. */
  readonly canaryJudgedSince: string | undefined;
}

/** The watches on the API server, once started; they end when the signal of the run is aborted. */
export interface Watches {
  /** Nothing where no rollout is guarded, or where what is known of it is older than the maximum age. */
  view(): RolloutView | undefined;
  /** Settles when all has ended. Rejects only for what a person has to change. */
  readonly ended: Promise<void>;
}
