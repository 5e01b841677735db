import { readdirSync, readFileSync } from 'node:fs';
import { Registry } from 'prom-client';
import { describe, expect, test } from 'vitest';
import { promClientMetrics } from './prom-client-metrics.js';
import { REPLAY_OUTCOMES } from './replay.js';
import { SESSION_REBUILDS } from './replay-session.js';

const read = (path: string): string => readFileSync(new URL(`../${path}`, import.meta.url), 'utf8');

/** The first cells of the table under a heading that begins so, each split into its names. */
function named(heading: string): string[] {
  const section = read('README.md')
    .split(/^## /m)
    .find((text) => text.startsWith(heading));
  if (section === undefined) throw new Error(`the README has no section ${heading}`);
  return section
    .split('\n')
    .filter((line) => line.startsWith('| `'))
    .flatMap((line) =>
      [...(line.split('|')[1] ?? '').matchAll(/`([^`]+)`/g)].map(([, name]) => name as string),
    )
    .sort();
}

describe('the README names', () => {
  test('every option and no other', () => {
    const [, body = ''] =
      /export interface CounterfoilOptions[^{]*\{([\s\S]*?)\n\}/.exec(read('src/options.ts')) ?? [];
    const options = [...body.matchAll(/^ {2}(\w+)\??:/gm)].map(([, name]) => name as string);
    expect(options.length).toBeGreaterThan(10);
    expect(named('Options')).toEqual(options.sort());
  });

  test('every metric and no other', async () => {
    const registry = new Registry();
    promClientMetrics(registry);
    const metrics = (await registry.getMetricsAsJSON()).map(({ name }) => name);
    expect(named('Metrics')).toEqual(metrics.sort());
  });

  test('every outcome of a replay and no other', () => {
    expect(named('`POST /admin/events/replay`\n')).toEqual(Object.keys(REPLAY_OUTCOMES).sort());
  });

  test('every outcome of a rebuild and no other', () => {
    expect(named('`POST /admin/events/replay/:sessionId`')).toEqual(Object.keys(SESSION_REBUILDS).sort());
  });

  test('every SQL file and no other', () => {
    const files = readdirSync(new URL('../sql', import.meta.url)).filter((file) => file.endsWith('.sql'));
    const paths = named('Tables').filter((name) => name.startsWith('sql/'));
    expect(paths).toEqual(files.map((file) => `sql/${file}`).sort());
  });
});
