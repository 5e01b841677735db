/** A real Alertmanager with the shipped inhibition rules, and a webhook that counts what it sends. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { stringify } from 'yaml';
import type { InhibitRule } from './inhibition.ts';

export type Labels = Readonly<Record<string, string>>;

export interface RunningAlertmanager {
  /** Its address, as host and port. */
  readonly address: string;
  /** Gives it the alerts that fire now, as Prometheus does; what is left out is resolved. */
  fire(alerts: readonly Labels[]): Promise<void>;
  /** Labels of what was sent to the pager, once for each time. */
  readonly pages: readonly Labels[];
  /** The same of what was sent as a ticket. */
  readonly tickets: readonly Labels[];
  /** What was written in either, by name of the alert. */
  readonly descriptions: ReadonlyMap<string, string>;
  stop(): Promise<void>;
}

/** @param path of the program */
export async function startAlertmanager(
  path: string,
  inhibitRules: readonly InhibitRule[],
): Promise<RunningAlertmanager> {
  const pages: Labels[] = [];
  const tickets: Labels[] = [];
  const descriptions = new Map<string, string>();
  const webhook = await listen((url, body) => {
    const { alerts } = JSON.parse(body) as {
      alerts: { status: string; labels: Labels; annotations: Labels }[];
    };
    for (const { status, labels, annotations } of alerts) {
      if (status !== 'firing') continue;
      (url === '/page' ? pages : tickets).push(labels);
      descriptions.set(labels.alertname ?? '', annotations.description ?? '');
    }
  });
  const folder = await mkdtemp(join(tmpdir(), 'counterfoil-alertmanager-'));
  const config = join(folder, 'alertmanager.yml');
  const hook = `http://127.0.0.1:${portOf(webhook)}`;
  await writeFile(
    config,
    stringify(
      {
        route: {
          receiver: 'ticket',
          // Each alert by itself: grouping must not hide a second page.
          group_by: ['...'],
          group_wait: '1s',
          group_interval: '1s',
          repeat_interval: '1h',
          routes: [{ matchers: ['severity = critical'], receiver: 'page' }],
        },
        receivers: ['page', 'ticket'].map((name) => ({
          name,
          webhook_configs: [{ url: `${hook}/${name}`, send_resolved: false }],
        })),
        inhibit_rules: inhibitRules,
      },
      { aliasDuplicateObjects: false },
    ),
  );
  const port = await freePort();
  const child = spawn(
    path,
    [
      `--config.file=${config}`,
      `--storage.path=${join(folder, 'data')}`,
      `--web.listen-address=127.0.0.1:${port}`,
      '--cluster.listen-address=',
      '--log.level=error',
    ],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let log = '';
  child.stderr.on('data', (chunk: Buffer) => {
    log += chunk.toString();
  });
  const url = `http://127.0.0.1:${port}`;
  await ready(`${url}/-/ready`, child, () => log);
  let before: readonly Labels[] = [];
  return {
    address: `127.0.0.1:${port}`,
    pages,
    tickets,
    descriptions,
    async fire(alerts) {
      const now = new Date();
      const still = new Set(alerts.map(keyOf));
      const body = [
        ...alerts.map((labels) => ({ labels, startsAt: now, endsAt: new Date(now.getTime() + 3_600_000) })),
        ...before.filter((labels) => !still.has(keyOf(labels))).map((labels) => ({ labels, endsAt: now })),
      ];
      before = alerts;
      const answer = await fetch(`${url}/api/v2/alerts`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      if (!answer.ok) throw new Error(`Alertmanager refuses: ${await answer.text()}`);
    },
    async stop() {
      if (child.exitCode === null) {
        child.kill('SIGTERM');
        await once(child, 'exit');
      }
      webhook.close();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const keyOf = (labels: Labels) => JSON.stringify(Object.entries(labels).sort());

const portOf = (server: Server) => (server.address() as AddressInfo).port;

async function listen(received: (url: string, body: string) => void): Promise<Server> {
  const server = createServer(async (request, response) => {
    let body = '';
    for await (const chunk of request) body += String(chunk);
    received(request.url ?? '', body);
    response.end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const port = portOf(server);
  server.close();
  await once(server, 'close');
  return port;
}

export async function ready(url: string, child: ChildProcess, log: () => string): Promise<void> {
  const deadline = Date.now() + 60_000;
  for (;;) {
    if (child.exitCode !== null || Date.now() > deadline) throw new Error(`it did not start: ${log()}`);
    const answered = await fetch(url).then(
      ({ ok }) => ok,
      () => false,
    );
    if (answered) return;
    await delay(50);
  }
}
