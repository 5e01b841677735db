import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import { bills, events, isProcessed } from '../testing/business-rows.js';
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

const compensate = async (id: string, body: object = {}) =>
  (await service.admin(`/admin/events/replay/${id}`, body)).body;

/** A completed session whose event was never published. */
async function neverPublished(more: object = {}): Promise<string> {
  await service.arm('skip_backup');
  const id = await service.completeSession(more);
  await service.disarm();
  expect(await events(database, id)).toEqual([]);
  return id;
}

test('a session whose event was never published is rebuilt from the fact and billed', async () => {
  const id = await neverPublished({ amountMinor: 777, currency: 'JPY' });
  expect(await compensate(id)).toMatchObject({
    sessionId: id,
    rebuild: 'rebuilt',
    results: [{ eventId: `rebuild:services.session.completed.v1:${id}:1`, outcome: 'processed' }],
  });
  expect(await bills(database, id)).toMatchObject([
    { amount: '777', currency: 'JPY', key: `session:${id}:1`, reverses: null },
  ]);
  expect(await isProcessed(database, id)).toBe(true);
});

test('rebuilt ten times at once, it is one event and one bill', async () => {
  const id = await neverPublished();
  const answers = await Promise.all(Array.from({ length: 10 }, () => compensate(id)));
  for (const { rebuild } of answers) expect(['rebuilt', 'not_asked', 'not_needed']).toContain(rebuild);
  await eventually('processed', () => isProcessed(database, id));
  expect(await events(database, id)).toHaveLength(1);
  expect(await bills(database, id)).toHaveLength(1);
});

test('an event that was processed without a bill is rebuilt under an id of its own', async () => {
  const id = await neverPublished();
  await compensate(id);
  await database.query('delete from mentor_payable_ledgers where session_id = $1', [id]);
  expect(await compensate(id)).toMatchObject({
    rebuild: 'rebuilt',
    results: [{ eventId: `rebuild:services.session.completed.v1:${id}:2`, outcome: 'processed' }],
  });
  expect(await bills(database, id)).toHaveLength(1);
});

test('an event that is pending is replayed, and nothing is rebuilt', async () => {
  await service.arm('lose');
  const id = await service.completeSession();
  await service.disarm();
  expect(await compensate(id)).toMatchObject({ rebuild: 'not_asked', results: [{ outcome: 'processed' }] });
  expect(await bills(database, id)).toHaveLength(1);
});

test('a bill that stands needs no rebuild, not even a wrong one', async () => {
  await service.arm('bill_wrong');
  const id = await service.completeSession();
  await eventually('processed', () => isProcessed(database, id));
  await service.disarm();
  expect(await compensate(id)).toMatchObject({ rebuild: 'not_needed', results: [] });
  expect(await bills(database, id)).toHaveLength(1);
});

test('after a reversal the machine refuses: only an approved correction bills again', async () => {
  const id = await service.completeSession();
  await eventually('processed', () => isProcessed(database, id));
  await database.query(
    `insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key, reverses_id)
     select session_id, mentor_id, -amount_minor, currency, 'reversal:' || id, id
     from mentor_payable_ledgers where session_id = $1`,
    [id],
  );
  expect(await compensate(id)).toMatchObject({ rebuild: 'refused', code: 'bill_was_reversed', results: [] });
  expect(await bills(database, id)).toHaveLength(2);
});

test('an amount that JSON would change is refused', async () => {
  const id = await neverPublished();
  await database.query('update sessions set amount_minor = 9007199254740993 where id = $1', [id]);
  expect(await compensate(id)).toMatchObject({ rebuild: 'refused', code: 'amount_too_large' });
});

test('a session that is not completed, one that does not exist and an id that is none are not found', async () => {
  const open = await service.createSession();
  for (const id of [open, crypto.randomUUID(), 'not-a-uuid']) {
    expect(await compensate(id)).toMatchObject({ rebuild: 'not_found', results: [] });
  }
});

test('a dry run says what would be done and writes nothing', async () => {
  const id = await neverPublished();
  expect(await compensate(id, { dryRun: true })).toMatchObject({ rebuild: 'rebuilt' });
  expect(await events(database, id)).toEqual([]);
  expect(await bills(database, id)).toEqual([]);
});
