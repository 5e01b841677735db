import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import { addPendingEvent, isNothingPending } from '../testing/business-rows.js';
import { eventually } from '../testing/service-client.js';
import { type ServiceHere, startServiceHere } from '../testing/service-here.js';

let database: TestDatabase;
let service: ServiceHere;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startServiceHere(database.url);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

const TERMS = { mentorId: 'mentor-1', currency: 'EUR', unitPriceMinor: 5_000, totalUnits: 10 };

async function sign(more: object = {}): Promise<string> {
  const { status, body } = await service.post('/contracts', { ...TERMS, ...more });
  expect(status).toBe(201);
  return body.id;
}

async function signAndActivate(more: object = {}): Promise<string> {
  const id = await sign(more);
  expect((await service.post(`/contracts/${id}/activate`)).status).toBe(200);
  return id;
}

const consume = (id: string, body: object) => service.post(`/contracts/${id}/consumptions`, body);
const settled = () => eventually('processed', () => isNothingPending(database));

const eventNames = async (id: string) =>
  (
    await database.query<{ name: string }>(
      `select event_name as name from event_backups where payload ->> 'contractId' = $1 order by created_at`,
      [id],
    )
  ).map(({ name }) => name);

const balance = async (id: string) => {
  const [row] = await database.query(
    `select total_units as total, consumed_units as consumed, opened_at is not null as open
     from contract_balances where contract_id = $1`,
    [id],
  );
  return row;
};

test('a contract that is signed opens its balance and the account to which its sessions are owed', async () => {
  const id = await sign();
  await settled();
  expect(await eventNames(id)).toEqual(['contract.signed.v1']);
  expect(await balance(id)).toEqual({ total: 10, consumed: 0, open: true });
  expect(
    await database.query('select mentor_id, currency from mentor_payable_accounts where contract_id = $1', [
      id,
    ]),
  ).toEqual([{ mentor_id: 'mentor-1', currency: 'EUR' }]);
});

test('a contract that is activated is recorded as active since then; activated again, it is as it was', async () => {
  const id = await sign();
  const first = await service.post(`/contracts/${id}/activate`);
  const second = await service.post(`/contracts/${id}/activate`);
  expect(second.text).toBe(first.text);
  expect(first.body).toMatchObject({ id, status: 'active', activatedAt: expect.any(String) });
  await settled();
  expect(await eventNames(id)).toEqual(['contract.signed.v1', 'contract.activated.v1']);
  const [activation] = await database.query<{ activated_at: Date }>(
    'select activated_at from contract_activations where contract_id = $1',
    [id],
  );
  expect(activation?.activated_at.toISOString()).toBe(first.body.activatedAt);
});

test('units are consumed down to the last, not one more, and counted once each', async () => {
  const id = await signAndActivate();
  const answers = await Promise.all(Array.from({ length: 20 }, () => consume(id, { units: 1 })));
  expect(answers.map(({ status }) => status).sort()).toEqual([
    ...Array.from({ length: 10 }, () => 200),
    ...Array.from({ length: 10 }, () => 409),
  ]);
  await settled();
  expect(await balance(id)).toEqual({ total: 10, consumed: 10, open: true });
});

test('a consumption asked for twenty times at once under one id is one, and all are answered the same', async () => {
  const id = await signAndActivate();
  const consumption = { id: crypto.randomUUID(), units: 3 };
  const answers = await Promise.all(Array.from({ length: 20 }, () => consume(id, consumption)));
  expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
  expect(answers[0]?.status).toBe(200);
  expect((await consume(id, { ...consumption, units: 4 })).status).toBe(409);
  const other = await signAndActivate();
  expect((await consume(other, consumption)).status).toBe(409);
  await settled();
  expect(await balance(id)).toMatchObject({ consumed: 3 });
  expect(await balance(other)).toMatchObject({ consumed: 0 });
});

test('an event given to its listeners again changes nothing, and neither does another order', async () => {
  const contractId = crypto.randomUUID();
  const consumed = { contractId, consumptionId: crypto.randomUUID(), units: 4 };
  // Learnt before the signing, as when that event was lost and is replayed last.
  const early = await addPendingEvent(database, 'contract.service_consumed.v1', consumed);
  await service.admin('/admin/events/replay', { eventIds: [early] });
  expect(await balance(contractId)).toEqual({ total: null, consumed: 4, open: false });

  const signed = await addPendingEvent(database, 'contract.signed.v1', { contractId, ...TERMS });
  const activated = await addPendingEvent(database, 'contract.activated.v1', {
    contractId,
    activatedAt: '2026-01-01T00:00:00.000Z',
  });
  for (let round = 0; round < 3; round += 1) {
    await database.query(`update event_backups set status = 'pending' where payload ->> 'contractId' = $1`, [
      contractId,
    ]);
    await database.query('delete from event_deliveries');
    const { body } = await service.admin('/admin/events/replay', { eventIds: [activated, early, signed] });
    expect(body.results.map(({ outcome }: { outcome: string }) => outcome)).toEqual([
      'processed',
      'processed',
      'processed',
    ]);
    expect(await balance(contractId)).toEqual({ total: 10, consumed: 4, open: true });
  }
  expect(
    await database.query('select 1 from contract_activations where contract_id = $1', [contractId]),
  ).toHaveLength(1);
});

test('a lost consumption is not in the balance until its replay, and then once', async () => {
  const id = await signAndActivate();
  await service.arm('lose');
  await consume(id, { units: 2 });
  await service.disarm();
  expect(await balance(id)).toMatchObject({ consumed: 0 });
  const pending = await database.query<{ id: string }>(
    `select event_id as id from event_backups where status = 'pending' and payload ->> 'contractId' = $1`,
    [id],
  );
  const eventIds = pending.map((event) => event.id);
  await Promise.all([1, 2, 3].map(() => service.admin('/admin/events/replay', { eventIds })));
  await settled();
  expect(await balance(id)).toMatchObject({ consumed: 2 });
});

describe('what cannot be done is refused, and publishes nothing', () => {
  test('units of a contract that is not active: 409', async () => {
    const id = await sign();
    expect((await consume(id, { units: 1 })).status).toBe(409);
    expect(await eventNames(id)).toEqual(['contract.signed.v1']);
  });

  test('more units than there are: 409', async () => {
    const id = await signAndActivate();
    expect((await consume(id, { units: 11 })).status).toBe(409);
    expect((await consume(id, { units: 10 })).status).toBe(200);
  });

  test('a contract that is not there: 404; one whose id is taken: 409', async () => {
    const id = await sign();
    expect((await service.post('/contracts', { ...TERMS, id })).status).toBe(409);
    for (const path of ['activate', 'consumptions']) {
      expect(
        (
          await service.post(
            `/contracts/${crypto.randomUUID()}/${path}`,
            path === 'activate' ? {} : { units: 1 },
          )
        ).status,
      ).toBe(404);
    }
  });

  test.each([
    ['no mentor', { ...TERMS, mentorId: '' }],
    ['no units', { ...TERMS, totalUnits: 0 }],
    ['a negative price', { ...TERMS, unitPriceMinor: -1 }],
    ['an unknown field', { ...TERMS, discount: 1 }],
  ])('%s: 400', async (_title, body) => {
    expect((await service.post('/contracts', body)).status).toBe(400);
  });
});
