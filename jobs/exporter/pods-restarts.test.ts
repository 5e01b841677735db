import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { Pod } from './pods-read.ts';
import { RestartCounter } from './pods-restarts.ts';

const START = 1_000_000;
const pod = (uid: string, restarts: number, more: Partial<Pod> = {}): Pod => ({
  uid,
  createdAt: START + 1_000,
  hash: 'abc',
  ready: true,
  finished: false,
  restarts: new Map([['app', restarts]]),
  ...more,
});
const old = { createdAt: START - 1_000 };
const count = (counter: RestartCounter, hash = 'abc') => counter.totals().get(hash);

describe('restarts of the service', () => {
  it('are 0 as soon as a version has a pod, and not before', () => {
    const counter = new RestartCounter(START);
    expect(count(counter)).toBeUndefined();
    counter.update([pod('a', 0)]);
    expect(count(counter)).toBe(0);
  });

  it('that happened before the exporter began are not counted, those after are', () => {
    const counter = new RestartCounter(START);
    counter.update([pod('a', 7, old)]);
    expect(count(counter)).toBe(0);
    counter.update([pod('a', 8, old)]);
    expect(count(counter)).toBe(1);
  });

  it('of a pod that came and crashed while the watch was away are counted', () => {
    const counter = new RestartCounter(START);
    counter.update([]);
    counter.update([pod('new', 3)]);
    expect(count(counter)).toBe(3);
  });

  it('are not counted twice by a list that is read again, nor down when a pod is replaced', () => {
    const counter = new RestartCounter(START);
    counter.update([pod('a', 0), pod('b', 0)]);
    counter.update([pod('a', 2), pod('b', 0)]);
    counter.update([pod('a', 2), pod('b', 0)]);
    expect(count(counter)).toBe(2);
    counter.update([pod('b', 0), pod('c', 0)]);
    expect(count(counter)).toBe(2);
    counter.update([]);
    expect(count(counter)).toBe(2);
  });

  it('that a kubelet forgets and counts anew do not count down, and the next one counts', () => {
    const counter = new RestartCounter(START);
    counter.update([pod('a', 5, old)]);
    counter.update([pod('a', 3, old)]);
    expect(count(counter)).toBe(0);
    counter.update([pod('a', 4, old)]);
    expect(count(counter)).toBe(1);
  });

  it('belong to the version of their pod, and to each of its containers', () => {
    const counter = new RestartCounter(START);
    counter.update([
      pod('a', 0, {
        restarts: new Map([
          ['app', 1],
          ['proxy', 2],
        ]),
      }),
      pod('b', 4, { hash: 'def' }),
    ]);
    expect(count(counter)).toBe(3);
    expect(count(counter, 'def')).toBe(4);
  });

  it('of at most twenty versions are kept, those that still run first', () => {
    const counter = new RestartCounter(START);
    for (let version = 0; version < 30; version += 1)
      counter.update([pod('stays', 1, { hash: 'stays' }), pod(`p${version}`, 0, { hash: `v${version}` })]);
    expect(counter.totals().size).toBe(20);
    expect(count(counter, 'stays')).toBe(1);
    expect(count(counter, 'v29')).toBe(0);
    expect(count(counter, 'v3')).toBeUndefined();
  });

  it('only ever grow, and never beyond what the kubelets have counted', () => {
    const step = fc.array(fc.record({ uid: fc.constantFrom('a', 'b', 'c'), more: fc.nat({ max: 3 }) }), {
      maxLength: 3,
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 20 }), (steps) => {
        const counter = new RestartCounter(START);
        const kubelets = new Map<string, number>();
        let total = 0;
        let before = 0;
        for (const present of steps) {
          const pods = new Map<string, Pod>();
          for (const { uid, more } of present) {
            // A pod of this test that goes is another one when it comes back.
            kubelets.set(uid, (kubelets.get(uid) ?? 0) + more);
            total += more;
            pods.set(uid, pod(uid, kubelets.get(uid) ?? 0));
          }
          for (const [uid, restarts] of kubelets) if (!pods.has(uid)) pods.set(uid, pod(uid, restarts));
          counter.update(pods.values());
          const now = count(counter) ?? 0;
          expect(now).toBeGreaterThanOrEqual(before);
          before = now;
        }
        expect(before).toBe(total);
      }),
    );
  });
});
