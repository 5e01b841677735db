/** What is asked of every release that is aborted, whatever is wrong with it. */
import { expect } from 'vitest';
import { eventually } from './cluster.ts';
import { figure } from './figures.ts';
import { query } from './prometheus.ts';
import type { Abort, Shop } from './shop.ts';

/** Traefik takes a new weight over within two seconds; and what was on its way then has been answered. */
const ROUTED_SECONDS = 5;

/** When an expression was first true within the last half hour, to 5 s; by the clock of the cluster, in milliseconds. */
export async function firstTrue(promql: string): Promise<number> {
  const [found] = await query(`min(min_over_time((0 * (${promql}) + time())[30m:5s]))`);
  if (found === undefined) throw new Error(`never true: ${promql}`);
  return Number(found.value[1]) * 1_000;
}

/** When it was sent to its customers, and what it may take from then, or from the condition, to no traffic at all. */
export interface Stated {
  readonly journey: string;
  readonly deployedAt: number;
  /** When the condition was first true in the data. */
  readonly conditionAt: number;
  /** The rule's own `for`, in seconds. */
  readonly lasting: number;
}

/** It was stopped in the stated time, at 1 %. */
export function inTime(abort: Abort, { journey, deployedAt, conditionAt, lasting }: Stated): void {
  const taken = (abort.weightZeroAt - conditionAt) / 1_000;
  figure(journey, 'condition true to weight 0', taken, 's', lasting + 60);
  figure(journey, 'deployed to weight 0', (abort.weightZeroAt - deployedAt) / 1_000, 's');
  figure(journey, 'heaviest weight', abort.heaviest, '%', 1);
  expect(taken).toBeGreaterThan(0);
  expect(taken).toBeLessThanOrEqual(lasting + 60);
  expect(abort.heaviest).toBe(1);
}

/** Only the version before it serves, and is what Argo keeps. */
export async function backOnStable(shop: Shop, abort: Abort): Promise<void> {
  const since = new Date(abort.weightZeroAt + ROUTED_SECONDS * 1_000).toISOString();
  const { own, all } = await eventually('customers are served after the abort', 120, async () => {
    const seen = await shop.completed(abort.canary, since);
    return seen.all >= 100 && seen;
  });
  expect({ own, served: all > 0 }).toEqual({ own: 0, served: true });
  expect((await shop.versions()).stable).toBe(abort.stable);
  expect(await shop.routerWeight()).toBe(0);
}

/**
 * What it broke was mended by itself, and nobody is billed wrongly or not at all.
 * @param stated within so many seconds of the weight 0 it is to be repaired and verified
 */
export async function mended(shop: Shop, abort: Abort, journey: string, stated = 300): Promise<void> {
  expect(await shop.repaired(abort.canary, 2 * stated)).toBe('clean');
  const taken = (Date.now() - abort.weightZeroAt) / 1_000;
  figure(journey, 'weight 0 to repaired and verified', taken, 's', stated);
  await allBilled(shop, journey);
}

/** The customers go home, and what they have completed is billed once. */
export async function allBilled(shop: Shop, journey: string): Promise<void> {
  const { completed } = await shop.service.customers();
  await shop.namespace.kubectl('delete', 'pod', 'customers');
  const wrong = await eventually('every session is billed', 120, async () => {
    const now = await shop.wronglyBilled();
    if (now > 0) throw new Error(`${now} of more than ${completed}`);
    return { now };
  });
  figure(journey, 'sessions completed', completed);
  figure(journey, 'sessions unbilled or billed wrongly at the end', wrong.now, '', 0);
  expect(completed).toBeGreaterThan(0);
}
