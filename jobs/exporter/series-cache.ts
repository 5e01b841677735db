/**
 * Holds the newest series of each collection and renders what is fresh. One registry per collection, rebuilt at each
 * success, so that a series that is no longer set cannot linger. Never reads a table: a scrape costs the database
 * nothing, however often somebody asks.
 */
import { Counter, Gauge, Registry } from 'prom-client';
import { RunFailure } from '../runtime/failures.ts';
import type { Collection, CollectionSink, FilledCollection, SetSeries } from './collection.ts';
import { type MetricDeclaration, metrics } from './metrics.ts';

interface CollectionState {
  /** Nothing before the first success. */
  registry: Registry | undefined;
  succeeded: boolean;
  /** Of the last success or sign of life, by the monotonic clock in milliseconds: a clock that is set ages nothing. */
  aliveAt: number;
  /** The same as the wall clock showed it, in seconds since 1970; 0 before there was any. */
  succeededAtSeconds: number;
  tookMs: number;
}

export interface SeriesCacheOptions {
  readonly installation: string;
  readonly version: string;
  readonly maxAgeMs: number;
  /** The monotonic clock, in milliseconds; a test passes its own. */
  readonly now?: () => number;
}

export class SeriesCache implements CollectionSink {
  readonly #options: SeriesCacheOptions;
  readonly #now: () => number;
  readonly #states = new Map<FilledCollection, CollectionState>();

  /** @param collections those that are on; each says from the first scrape on whether it works */
  constructor(options: SeriesCacheOptions, collections: readonly FilledCollection[]) {
    this.#options = options;
    this.#now = options.now ?? (() => performance.now());
    for (const collection of collections) this.#stateOf(collection);
  }

  publish<C extends FilledCollection>(
    collection: C,
    fill: (set: SetSeries<C>) => void,
    tookMs: number = 0,
  ): void {
    let registry: Registry;
    try {
      registry = this.#fill(collection, fill);
    } catch (error) {
      this.lost(collection, tookMs);
      throw error;
    }
    const state = this.#stateOf(collection);
    state.registry = registry;
    state.tookMs = tookMs;
    this.#revive(state);
  }

  alive(collection: FilledCollection): void {
    // What was never known, or was not heard of for too long, has to be said anew.
    if (this.isFresh(collection)) this.#revive(this.#stateOf(collection));
  }

  lost(collection: FilledCollection, tookMs: number = 0): void {
    const state = this.#stateOf(collection);
    state.succeeded = false;
    state.tookMs = tookMs;
  }

  off(collection: FilledCollection): void {
    this.#states.delete(collection);
  }

  /** Whether what this collection published is young enough to be shown. */
  isFresh(collection: FilledCollection): boolean {
    const state = this.#states.get(collection);
    return state?.registry !== undefined && this.#now() - state.aliveAt <= this.#options.maxAgeMs;
  }

  /** All fresh series in the text format of Prometheus. */
  async render(): Promise<string> {
    const registries = [this.#ownSeries()];
    for (const [collection, { registry }] of this.#states)
      if (registry !== undefined && this.isFresh(collection)) registries.push(registry);
    return (await Promise.all(registries.map((registry) => registry.metrics()))).join('\n');
  }

  #stateOf(collection: FilledCollection): CollectionState {
    const known = this.#states.get(collection);
    if (known !== undefined) return known;
    const state = { registry: undefined, succeeded: false, aliveAt: 0, succeededAtSeconds: 0, tookMs: 0 };
    this.#states.set(collection, state);
    return state;
  }

  #revive(state: CollectionState): void {
    state.succeeded = true;
    state.aliveAt = this.#now();
    state.succeededAtSeconds = Date.now() / 1000;
  }

  #ownSeries(): Registry {
    return this.#fill('exporter', (set) => {
      set('counterfoil_exporter_info', { version: this.#options.version }, 1);
      for (const [collection, state] of this.#states) {
        set('counterfoil_collection_success', { collection }, state.succeeded ? 1 : 0);
        set('counterfoil_collection_timestamp_seconds', { collection }, state.succeededAtSeconds);
        set('counterfoil_collection_duration_seconds', { collection }, state.tookMs / 1000);
      }
    });
  }

  #fill<C extends Collection>(collection: C, fill: (set: SetSeries<C>) => void): Registry {
    const registry = new Registry();
    registry.setDefaultLabels({ installation: this.#options.installation });
    const setters = new Map<string, (labels: Readonly<Record<string, string>>, value: number) => void>();
    const seen = new Set<string>();
    fill((name, labels, value) => {
      const problem = problemOf(collection, name, labels, value);
      if (problem !== undefined) throw new RunFailure('internal', `a series cannot be set: ${problem}`);
      const series = `${name} ${metrics[name].labels.map((label) => JSON.stringify((labels as Record<string, string>)[label])).join()}`;
      if (seen.has(series)) throw new RunFailure('internal', `a series of ${name} was set twice`);
      seen.add(series);
      let setter = setters.get(name);
      if (setter === undefined) {
        setter = setterOf(name, metrics[name], registry);
        setters.set(name, setter);
      }
      setter(labels, value);
    });
    return registry;
  }
}

function setterOf(
  name: string,
  { type, help, labels: labelNames }: MetricDeclaration,
  registry: Registry,
): (labels: Readonly<Record<string, string>>, value: number) => void {
  const options = { name, help, labelNames: [...labelNames], registers: [registry] };
  if (type === 'counter') {
    const counter = new Counter(options);
    return (labels, value) => counter.inc({ ...labels }, value);
  }
  const gauge = new Gauge(options);
  return (labels, value) => gauge.set({ ...labels }, value);
}

/** Why a series is refused. The types say the same; this holds for what was computed. Never a label's value. */
function problemOf(
  collection: Collection,
  name: string,
  labels: Readonly<Record<string, unknown>>,
  value: unknown,
): string | undefined {
  const declared = Object.hasOwn(metrics, name)
    ? (metrics as Readonly<Record<string, MetricDeclaration>>)[name]
    : undefined;
  if (declared === undefined) return 'its metric is not declared in metrics.ts';
  if (declared.from !== collection) return `${name} is not from the collection ${collection}`;
  if (Object.keys(labels).sort().join() !== [...declared.labels].sort().join())
    return `${name} has other labels`;
  if (Object.values(labels).some((text) => typeof text !== 'string')) return `a label of ${name} is no text`;
  if (typeof value !== 'number' || !Number.isFinite(value)) return `the value of ${name} is no finite number`;
  if (declared.type === 'counter' && value < 0) return `${name} cannot be negative`;
  return undefined;
}
