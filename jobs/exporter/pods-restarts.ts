/**
 * Counts restarts of containers by version, so that the count only grows: a pod that is replaced takes its own count
 * with it, a list that is read again brings the same counts, and a kubelet may forget some.
 */
import type { Pod } from './pods-read.ts';

/** Versions whose counts are kept; of more, the ones without pods go first. */
const MOST_VERSIONS = 20;

export class RestartCounter {
  readonly #since: number;
  /** By pod and container, what the kubelet last said. */
  #known = new Map<string, ReadonlyMap<string, number>>();
  /** By version, in the order in which they last had a pod. */
  readonly #totals = new Map<string, number>();

  /** @param since restarts of pods that are older, and that we did not see happen, are not counted */
  constructor(since: number) {
    this.#since = since;
  }

  /** Takes in all pods as they are now. */
  update(pods: Iterable<Pod>): void {
    const known = new Map<string, ReadonlyMap<string, number>>();
    for (const pod of pods) {
      const before = this.#known.get(pod.uid);
      known.set(pod.uid, pod.restarts);
      let added = 0;
      for (const [container, count] of pod.restarts) {
        const unseen = pod.createdAt < this.#since ? count : 0;
        added += Math.max(0, count - (before?.get(container) ?? (before === undefined ? unseen : 0)));
      }
      const total = (this.#totals.get(pod.hash) ?? 0) + added;
      this.#totals.delete(pod.hash);
      this.#totals.set(pod.hash, total);
    }
    this.#known = known;
    for (const hash of this.#totals.keys()) {
      if (this.#totals.size <= MOST_VERSIONS) break;
      this.#totals.delete(hash);
    }
  }

  /** Restarts so far by version; a version is there, at 0, from its first pod on. */
  totals(): ReadonlyMap<string, number> {
    return this.#totals;
  }
}
