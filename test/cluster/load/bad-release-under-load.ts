/** What a release that is bad in two of a hundred is asked, under so many customers that its share can be judged. */
import { expect } from 'vitest';
import { backOnStable, inTime } from '../bad-release.ts';
import type { DeployOptions } from '../billing-service.ts';
import { figure } from '../figures.ts';
import type { Abort, Shop } from '../shop.ts';
import { type FirstTrue, met } from './judged-rows.ts';

/** A bad release that Argo has aborted. */
export interface Stopped {
  readonly abort: Abort;
  readonly deployedAt: number;
  /** Of the database, when its router weight became more than nothing. */
  readonly since: string;
}

/** Sends a release to the customers and waits until it is aborted. */
export async function deployBad(shop: Shop, version: DeployOptions, seconds = 720): Promise<Stopped> {
  const deployedAt = Date.now();
  await shop.service.deploy(version);
  await shop.atWeight(1, 240);
  const since = await shop.now();
  return { abort: await shop.aborted(seconds), deployedAt, since };
}

/** It was stopped in the stated time, few customers met it, and all of them are served by the version before it. */
export async function stoppedInTime(
  shop: Shop,
  { abort, deployedAt, since }: Stopped,
  { journey, first, lasting }: { journey: string; first: FirstTrue; lasting: number },
): Promise<void> {
  inTime(abort, { journey, deployedAt, conditionAt: first.conditionAt, lasting });
  figure(journey, 'first bad event to weight 0', (abort.weightZeroAt - first.firstBadAt) / 1_000, 's');
  figure(journey, 'judged when the condition came true', first.judged);
  figure(journey, 'bad when the condition came true', first.bad);
  const until = new Date(abort.weightZeroAt).toISOString();
  const { own, all } = await met(shop, abort.canary, since, until);
  figure(journey, 'requests that met the bad version', (100 * own) / all, '%', 1.5);
  expect(own).toBeGreaterThan(0);
  expect(own / all).toBeLessThanOrEqual(0.015);
  await backOnStable(shop, abort);
}
