import { connect } from 'node:net';
import { afterEach, describe, expect, test } from 'vitest';
import { collectLog } from '../../test/builders/open-database.ts';
import { RunFailure } from '../runtime/failures.ts';
import type { RolloutView } from './collection.ts';
import { type GateAnswer, GateBusy, type Verdict } from './gate.ts';
import { type ExporterServer, type ServerParts, startServer } from './server.ts';

const servers: ExporterServer[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.close();
});

const view: RolloutView = {
  rollout: 'billing',
  version: '6f7d',
  weight: 10,
  phase: 'Progressing',
  stableHash: '5c9b',
  canaryHash: '6f7d',
  aborted: false,
  canaryStartedAt: undefined,
  canaryJudgedSince: undefined,
};

async function open(parts: Partial<ServerParts> = {}) {
  const log = collectLog();
  const server = await startServer(
    {
      render: async () => 'up 1\n',
      hanging: () => [],
      untried: () => [],
      view: () => undefined,
      gate: async (hash) => ({ hash, verdict: 'pass' }) as GateAnswer,
      logger: log.logger,
      signal: new AbortController().signal,
      ...parts,
    },
    { address: '127.0.0.1', port: 0 },
  );
  servers.push(server);
  const ask = async (path: string, init: RequestInit = {}) => {
    const response = await fetch(`http://127.0.0.1:${server.port}${path}`, init);
    const text = await response.text();
    return { status: response.status, text, type: response.headers.get('content-type') };
  };
  return { server, ask, log };
}

test('metrics are answered as Prometheus reads them', async () => {
  const { ask } = await open();
  expect(await ask('/metrics')).toEqual({
    status: 200,
    text: 'up 1\n',
    type: 'text/plain; version=0.0.4; charset=utf-8',
  });
});

test.each([
  ['/', 'GET', 404],
  ['/metrics/', 'GET', 404],
  ['/gate/', 'GET', 404],
  ['/metrics', 'POST', 405],
  ['/gate?hash=a', 'DELETE', 405],
  ['/gate?hash=a', 'POST', 200],
  ['/metrics', 'HEAD', 200],
  ['//', 'GET', 404],
])('%s by %s is answered with %i', async (path, method, status) => {
  const { ask } = await open();
  expect((await ask(path, { method })).status).toBe(status);
});

describe('health', () => {
  test('is well while the loops come round, and names those that hang', async () => {
    const hanging: string[] = [];
    const { ask } = await open({ hanging: () => hanging });
    expect(await ask('/health')).toMatchObject({ status: 200, text: '{"status":"ok"}\n' });
    hanging.push('state');
    expect(await ask('/health/live')).toMatchObject({
      status: 503,
      text: '{"status":"hanging","hanging":["state"]}\n',
    });
  });

  test('is ready once everything was tried, and not any more when it stops', async () => {
    const untried = ['events'];
    const stop = new AbortController();
    const { ask } = await open({ untried: () => untried, signal: stop.signal });
    expect((await ask('/health/ready')).status).toBe(503);
    expect((await ask('/health/live')).status).toBe(200);
    untried.pop();
    expect((await ask('/health/ready')).status).toBe(200);
    stop.abort();
    expect((await ask('/health/ready')).status).toBe(503);
    expect((await ask('/health/live')).status).toBe(200);
  });
});

test('the rollout is told where it is known, and else it is 503', async () => {
  const known: RolloutView[] = [];
  const { ask } = await open({ view: () => known[0] });
  expect((await ask('/rollout')).status).toBe(503);
  known.push(view);
  const { status, text } = await ask('/rollout');
  expect(status).toBe(200);
  expect(JSON.parse(text)).toMatchObject({ version: '6f7d', weight: 10, phase: 'Progressing' });
});

describe('the gate', () => {
  test.each([
    '/gate',
    '/gate?hash=',
    '/gate?hash=a%20b',
    '/gate?hash=a%0Ab',
    '/gate?hash=-a',
    `/gate?hash=${'a'.repeat(64)}`,
    '/gate?hash=a&hash=b',
    "/gate?hash=a'%20OR%20true--",
    '/gate?hash=a%00',
    '/gate?hash=a&expect=fail',
    '/gate?hash=a&expect=pass&expect=pass',
  ])('refuses %s', async (path) => {
    const { ask } = await open({
      gate: async () => {
        throw new Error('must not be asked');
      },
    });
    expect((await ask(path)).status).toBe(400);
  });

  test.each<[Verdict, number]>([
    ['pass', 200],
    ['fail', 412],
    ['not_enough_data', 412],
    ['not_measured', 412],
  ])('answers %s with 200, and with %i to whoever expects a pass', async (verdict, expected) => {
    const { ask } = await open({ gate: async (hash) => ({ hash, verdict }) as GateAnswer });
    expect(await ask('/gate?hash=a-1.B_2')).toMatchObject({
      status: 200,
      text: `{"hash":"a-1.B_2","verdict":"${verdict}"}\n`,
    });
    expect((await ask('/gate?hash=a&expect=pass', { method: 'POST', body: '{"name":"x"}' })).status).toBe(
      expected,
    );
  });

  test.each<[string, () => Error, string]>([
    [
      'the database is away',
      () => new RunFailure('database_unreachable', 'secret-host is down'),
      'database_unreachable',
    ],
    ['it is asked too much', () => new GateBusy(), 'busy'],
    ['there is a defect', () => new TypeError('a row: Erika'), 'internal'],
  ])('is 503 and no verdict while %s', async (_, error, id) => {
    const { ask } = await open({
      gate: async () => {
        throw error();
      },
    });
    const { status, text } = await ask('/gate?hash=a&expect=pass');
    expect([status, text]).toEqual([503, `{"error":"${id}"}\n`]);
  });
});

test('a defect is 500 with its id, is logged, and ends nothing', async () => {
  let broken = true;
  const { ask, log } = await open({
    render: async () => {
      if (broken) throw new TypeError('no');
      return '';
    },
  });
  expect(await ask('/metrics')).toMatchObject({ status: 500, text: '{"error":"internal"}\n' });
  expect(log.entries().at(-1)).toMatchObject({ failureId: 'internal', level: 'error' });
  broken = false;
  expect((await ask('/metrics')).status).toBe(200);
});

test('a port that is taken is refused by the name of its setting', async () => {
  const { server } = await open();
  const parts = { logger: collectLog().logger } as ServerParts;
  await expect(startServer(parts, { address: '127.0.0.1', port: server.port })).rejects.toMatchObject({
    id: 'settings_invalid',
    message: expect.stringContaining('EADDRINUSE'),
  });
});

test('a connection on which nothing is ever asked does not hold up the end', async () => {
  const { server } = await open();
  const socket = connect(server.port, '127.0.0.1');
  const ended = new Promise((resolve) => socket.once('close', resolve));
  socket.on('error', () => undefined);
  await new Promise((resolve) => socket.once('connect', resolve));
  await server.close();
  servers.length = 0;
  await ended;
});
