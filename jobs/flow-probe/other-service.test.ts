/** A service with other routes and tables, which makes its ids itself: all that the probe knows of it is declared. */
import { mkdtempSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { checksFile } from '../../test/builders/checks.ts';
import { run } from '../../test/builders/run.ts';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { flowProbeJob } from './job.ts';

let database: TestDatabase;
let server: Server;
let url: string;
/** Requests that the service got, and what it writes for an order. */
let requests: string[];
let bill: (order: string) => Promise<void>;

beforeAll(async () => {
  database = await createTestDatabase();
  await database.query(`
    DROP TABLE event_deliveries, event_backups;
    CREATE SCHEMA shop;
    CREATE TABLE shop."Orders" (number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, paid_by text, total numeric,
                                done_at timestamp);
    CREATE INDEX ON shop."Orders" (done_at);
    CREATE TABLE shop.entries (order_ref text, type text, price numeric, made_at timestamp DEFAULT now());
    CREATE INDEX ON shop.entries (order_ref);
    CREATE INDEX ON shop.entries (made_at);
    GRANT USAGE ON SCHEMA shop TO counterfoil_jobs;
    GRANT SELECT ON ALL TABLES IN SCHEMA shop TO counterfoil_jobs`);
  server = createServer((request, response) => {
    requests.push(`${request.method} ${request.url} ${request.headers.authorization}`);
    void answer(request.url ?? '').then(
      (content) =>
        response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(content)),
      () => response.writeHead(500).end(),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/shop/v2`;
});
afterAll(async () => {
  await new Promise((resolve) => server.close(resolve));
  await database.drop();
});
beforeEach(async () => {
  requests = [];
  bill = async (order) => await entry(order, 'charge', '10.70');
  await database.query('TRUNCATE shop."Orders", shop.entries RESTART IDENTITY');
});

async function answer(path: string): Promise<object> {
  const order = /\/orders\/(\d+)\/finish$/.exec(path)?.[1];
  if (order === undefined) {
    const [row] = await database.query<{ number: string }>(
      `INSERT INTO shop."Orders" (paid_by, total) VALUES ('probe', 10.70) RETURNING number`,
    );
    return { data: { number: Number(row?.number) } };
  }
  await database.query('UPDATE shop."Orders" SET done_at = now() WHERE number = $1', [order]);
  await bill(order);
  return {};
}
const entry = async (order: string, type: string, price: string) => {
  await database.query('INSERT INTO shop.entries (order_ref, type, price) VALUES ($1, $2, $3)', [
    order,
    type,
    price,
  ]);
};

const check = (override: object = {}) => ({
  name: 'orders',
  facts: {
    table: 'shop.Orders',
    key: ['number'],
    at: 'done_at',
    amount: { column: 'total', scale: 2 },
    where: [{ column: 'paid_by', op: 'notIn', value: ['probe', 'test'] }],
  },
  ledger: {
    table: 'shop.entries',
    key: ['order_ref'],
    at: 'made_at',
    amount: { column: 'price', scale: 2 },
    reverses: { sign: { column: 'type', negative: ['refund'] } },
  },
  tolerance: 1,
  ...override,
});
const flow = (override: object = {}): string => {
  const path = join(mkdtempSync(join(tmpdir(), 'counterfoil-flow-')), 'flow.yaml');
  const declared = {
    mark: 'probe',
    steps: [
      {
        name: 'order',
        path: '/orders',
        body: { paidBy: '{mark}', total: 10.7 },
        expect: [200],
        take: { order: 'data.number' },
      },
      { name: 'finish', method: 'PUT', path: '/orders/{order}/finish', expect: [200] },
    ],
    bill: { check: 'orders', key: ['{order}'], amount: 1070 },
    ...override,
  };
  writeFileSync(path, JSON.stringify(declared));
  return path;
};
const probe = async (changes: Readonly<Record<string, string>> = {}) =>
  await run(flowProbeJob, {
    DATABASE_URL: database.urlAs('counterfoil_jobs'),
    CF_PROBE_URL: url,
    CF_PROBE_TOKEN: 'abc',
    CF_PROBE_FILE: flow(),
    CF_CHECKS_FILE: checksFile(check()),
    CF_PROBE_BILL_SECONDS: '1',
    CF_PROBE_POLL_MILLISECONDS: '50',
    CF_PROBE_SETTLE_SECONDS: '0',
    CF_EXIT_ON_FINDINGS: 'true',
    ...changes,
  });
const faultsOf = ({ lines }: Awaited<ReturnType<typeof run>>) =>
  (lines.find(({ faults }) => faults !== undefined)?.faults ?? []) as { fault: string }[];

test('its flow is taken with the ids that it gives, and its bill judged; it has no events, and that is said', async () => {
  const end = await probe();
  expect(end.exitCode, end.log).toBe(0);
  expect(requests).toEqual(['POST /shop/v2/orders Bearer abc', 'PUT /shop/v2/orders/1/finish Bearer abc']);
  expect(end.counts).toMatchObject({ bill_right: 1, ledger_rows: 1, amount_measured: 1, events_judged: 0 });
  expect(end.log).toContain('only the bill is judged');
  expect(end.log).not.toContain('abc');
});

describe('its bill', () => {
  test('may differ by the tolerance of the check, and no further', async () => {
    bill = async (order) => await entry(order, 'charge', '10.71');
    expect(await probe()).toMatchObject({ exitCode: 0 });
    bill = async (order) => await entry(order, 'charge', '10.72');
    const end = await probe();
    expect([end.exitCode, faultsOf(end)]).toEqual([3, [{ fault: 'bill_amount' }]]);
  });

  test('that was taken off again is missing, and one that was billed anew is right', async () => {
    bill = async (order) => {
      await entry(order, 'charge', '10.70');
      await entry(order, 'refund', '10.70');
    };
    const end = await probe();
    expect([end.exitCode, faultsOf(end)]).toEqual([3, [{ fault: 'bill_missing' }]]);
    bill = async (order) => {
      for (const type of ['charge', 'refund', 'charge']) await entry(order, type, '10.70');
    };
    expect(await probe()).toMatchObject({ exitCode: 0 });
  });

  test('in several parts is one bill where the check adds them up, and two where it does not', async () => {
    bill = async (order) => {
      await entry(order, 'charge', '10.00');
      await entry(order, 'charge', '0.70');
    };
    const end = await probe();
    expect([end.exitCode, faultsOf(end)]).toEqual([3, [{ fault: 'bill_duplicate' }]]);
    const file = checksFile(check({ cardinality: 'net_sum' }));
    expect(await probe({ CF_CHECKS_FILE: file })).toMatchObject({ exitCode: 0 });
    bill = async (order) => await entry(order, 'charge', '10.00');
    const short = await probe({ CF_CHECKS_FILE: file });
    expect([short.exitCode, faultsOf(short)]).toEqual([3, [{ fault: 'bill_amount' }]]);
  });
});

describe('is refused before anything is sent', () => {
  test.each([
    [
      'a flow that names no declared check',
      { CF_PROBE_FILE: () => flow({ bill: { check: 'none', key: ['{order}'] } }) },
    ],
    [
      'a key of another length',
      { CF_PROBE_FILE: () => flow({ bill: { check: 'orders', key: ['{order}', '1'] } }) },
    ],
    [
      'a check whose table is not there',
      { CF_CHECKS_FILE: () => checksFile(check({ ledger: { table: 'nowhere', key: ['x'], at: 'y' } })) },
    ],
    ['an address with credentials', { CF_PROBE_URL: () => url.replace('http://', 'http://ann:secret@') }],
    ['a zone that does not exist', { CF_SERVICE_TIME_ZONE: () => 'Nowhere/Town' }],
  ])('%s', async (_title, changes) => {
    const given = Object.fromEntries(Object.entries(changes).map(([name, value]) => [name, value()]));
    const end = await probe(given);
    expect(end.exitCode, end.log).toBe(2);
    expect(end.log).not.toContain('secret');
    expect(requests).toEqual([]);
  });
});

test('an answer without the id that a later step needs ends the run', async () => {
  const steps = [{ name: 'order', path: '/orders', expect: [200], take: { order: 'data.id' } }];
  const end = await probe({ CF_PROBE_FILE: flow({ steps }) });
  expect(end.exitCode).toBe(1);
  expect(end.message).toBe('the step order was answered without a text or a number at data.id');
});
