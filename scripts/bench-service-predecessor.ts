/** How long the predecessor takes from publish to processed: its process with its own settings, under a light load. */
import { spawn } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import type { Client } from 'pg';
import { request } from 'undici';
import { sessionIdOf } from './bench-service-load.ts';

/** Its publisher rests for 30 s: one rest's length of events meets every part of it once. */
const LOAD_SECONDS = 30;
const PER_SECOND = 20;
const READY_WITHIN_MS = 30_000;
const DONE_WITHIN_MS = 90_000;

const path = (name: string) => fileURLToPath(new URL(`../reference-service/${name}`, import.meta.url));

/** @param first number of the first of `LOAD_SECONDS * PER_SECOND` sessions that are not completed */
export async function measurePredecessor(
  url: string,
  client: Client,
  first: number,
  report: (share: number) => void,
): Promise<{ p50: number; p99: number }> {
  await client.query(readFileSync(path('v1-outbox/sql/domain_events.sql'), 'utf8'));
  const child = spawn(process.execPath, [path('dist/v1-outbox/main.js')], {
    env: { PATH: process.env.PATH, DATABASE_URL: url, PORT: '0', HOST: '127.0.0.1' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const killAtExit = () => child.kill('SIGKILL');
  process.once('exit', killAtExit);
  const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()));
  try {
    const port = await new Promise<string>((resolve, reject) => {
      const timer = setTimeout(
        () => reject(new Error('the predecessor did not start to listen')),
        READY_WITHIN_MS,
      );
      child.once('exit', (code) => reject(new Error(`the predecessor ended at its start with ${code}`)));
      createInterface({ input: child.stdout }).on('line', (line) => {
        const found = /"listening":(\d+)/.exec(line)?.[1];
        if (found === undefined) return;
        clearTimeout(timer);
        resolve(found);
      });
    });
    const total = LOAD_SECONDS * PER_SECOND;
    const beganAt = performance.now();
    const answers: Promise<void>[] = [];
    for (let number = 0; number < total; number += 1) {
      await delay(Math.max(0, beganAt + (number * 1_000) / PER_SECOND - performance.now()));
      answers.push(complete(`http://127.0.0.1:${port}`, sessionIdOf(first + number)));
      report((number / total) * 0.5);
    }
    await Promise.all(answers);
    return await untilPublished(client, total);
  } finally {
    child.kill('SIGTERM');
    await gone;
    process.off('exit', killAtExit);
  }
}

async function complete(url: string, sessionId: string): Promise<void> {
  const { statusCode, body } = await request(`${url}/sessions/${sessionId}/complete`, { method: 'POST' });
  await body.dump();
  if (statusCode >= 300) throw new Error(`the predecessor answered HTTP ${statusCode}`);
}

async function untilPublished(client: Client, total: number): Promise<{ p50: number; p99: number }> {
  const deadline = Date.now() + DONE_WITHIN_MS;
  for (;;) {
    const { rows } = await client.query<{ published: number; ms: number[] }>(
      `select count(*)::integer as published,
              percentile_cont(array[0.5, 0.99]) within group (
                order by extract(epoch from published_at - created_at) * 1000) as ms
         from domain_events where status = 'published'`,
    );
    const [row] = rows;
    if (row?.published === total) return { p50: row.ms[0] ?? 0, p99: row.ms[1] ?? 0 };
    if (Date.now() > deadline)
      throw new Error(`the predecessor has published ${row?.published} of ${total} events`);
    await delay(250);
  }
}

export const predecessorSessions = LOAD_SECONDS * PER_SECOND;
