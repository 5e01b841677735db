/** The series of the service's pods. */
import type { SetSeries } from './collection.ts';
import type { Pod } from './pods-read.ts';

export function setPodSeries(
  set: SetSeries<'pods'>,
  pods: Iterable<Pod>,
  restarts: ReadonlyMap<string, number>,
): void {
  const ready = new Map<string, { yes: number; no: number }>();
  for (const hash of restarts.keys()) ready.set(hash, { yes: 0, no: 0 });
  for (const pod of pods) {
    const counts = ready.get(pod.hash);
    if (counts === undefined || pod.finished) continue;
    counts[pod.ready ? 'yes' : 'no'] += 1;
  }
  for (const [hash, counts] of ready) {
    set('application_restart_total', { published_hash: hash }, restarts.get(hash) ?? 0);
    for (const word of ['yes', 'no'] as const)
      set('counterfoil_service_pods', { published_hash: hash, ready: word }, counts[word]);
  }
}
