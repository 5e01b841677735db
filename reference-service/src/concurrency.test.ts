import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { bills, billsPerSession, events, isNothingPending } from './testing/business-rows.js';
import { eventually } from './testing/service-client.js';
import { type ServiceHere, startServiceHere } from './testing/service-here.js';

const partition = readFileSync(new URL('../sql/partitioned-ledger.sql', import.meta.url), 'utf8');

describe.each([
  ['one ledger table', async (_database: TestDatabase) => undefined],
  ['a ledger partitioned by date', async (database: TestDatabase) => void (await database.query(partition))],
])('with %s', (_title, prepare) => {
  let database: TestDatabase;
  let service: ServiceHere;
  beforeAll(async () => {
    database = await createTestDatabase();
    await prepare(database);
    // Room for all of them: what exceeds it stays pending, and is for a replay.
    service = await startServiceHere(database.url, { MAX_IN_FLIGHT: '2000', POOL_WAIT_SECONDS: '60' });
  });
  afterAll(async () => {
    await service?.stop();
    await database?.drop();
  });

  const createSessions = async (count: number): Promise<string[]> => {
    const ids = Array.from({ length: count }, () => crypto.randomUUID());
    await database.query(
      `insert into sessions (id, contract_id, mentor_id, amount_minor, currency)
       select id, 'contract-1', 'mentor-1', 12500, 'EUR' from unnest($1::uuid[]) as s (id)`,
      [ids],
    );
    return ids;
  };
  const complete = (id: string) => service.post(`/sessions/${id}/complete`);

  test.each([100, 1_000])(
    '%i concurrent completions of one session all answer the same, with one event and one bill',
    async (count) => {
      const [id = ''] = await createSessions(1);
      const answers = await Promise.all(Array.from({ length: count }, () => complete(id)));
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
      expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
      await eventually('processed', () => isNothingPending(database));
      expect(await events(database, id)).toHaveLength(1);
      expect((await bills(database, id)).map(({ key }) => key)).toEqual([`session:${id}:1`]);
    },
  );

  test.each([100, 1_000])('%i sessions completed at once are billed once each', async (count) => {
    const ids = await createSessions(count);
    const answers = await Promise.all(ids.map(complete));
    expect(answers.map(({ status, body }) => [status, body.id])).toEqual(ids.map((id) => [200, id]));
    await eventually('processed', () => isNothingPending(database));
    expect(await billsPerSession(database, ids)).toEqual([{ bills: 1, sessions: count }]);
  });

  test('1,000 events of one session, replayed at once and while it is completed, give one bill', async () => {
    const [id = ''] = await createSessions(1);
    const payload = {
      sessionId: id,
      contractId: 'contract-1',
      mentorId: 'mentor-1',
      amountMinor: 12_500,
      currency: 'EUR',
    };
    const names = ['services.session.completed.v1', 'services.session.evaluated.v1'];
    const added = await database.query<{ id: string }>(
      `insert into event_backups (event_id, event_name, payload, status)
       select gen_random_uuid(), case when i % 2 = 0 then $2 else $3 end,
         $1::jsonb || case when i % 2 = 0 then '{}' else '{"score": 5}'::jsonb end, 'pending'
       from generate_series(1, 1000) as i returning event_id as id`,
      [JSON.stringify(payload), ...names],
    );
    const batches = Array.from({ length: 10 }, (_, batch) =>
      added.slice(batch * 100, batch * 100 + 100).map((event) => event.id),
    );
    const [completed, ...replays] = await Promise.all([
      complete(id),
      ...batches.map((eventIds) => service.admin('/admin/events/replay', { eventIds, deadlineMs: 60_000 })),
    ]);
    expect(completed.status).toBe(200);
    const outcomes = replays.flatMap(({ body }) =>
      body.results.map(({ outcome }: { outcome: string }) => outcome),
    );
    expect(outcomes).toEqual(Array.from({ length: 1_000 }, () => 'processed'));
    await eventually('processed', () => isNothingPending(database));
    expect(await bills(database, id)).toHaveLength(1);
  });
});

test('a ledger partitioned while the service runs goes on as it was, bills and reversals kept', async () => {
  const database = await createTestDatabase();
  const service = await startServiceHere(database.url);
  try {
    const before = await service.completeSession();
    await eventually('processed', () => isNothingPending(database));
    const [bill] = await bills(database, before);
    await database.query(partition);
    expect(await bills(database, before)).toEqual([bill]);

    // The first bill finds out that the ledger has another form; its event stays pending, and a replay takes it.
    const after = await service.completeSession();
    await eventually('known', () => service.lines('Listener failed', '42P10').length > 0);
    const eventIds = (await events(database, after)).map(({ id }) => id);
    await eventually('processed', async () => {
      await service.admin('/admin/events/replay', { eventIds });
      return await isNothingPending(database);
    });
    expect(await bills(database, after)).toHaveLength(1);

    await database.query(`update event_backups set status = 'pending' where payload ->> 'sessionId' = $1`, [
      before,
    ]);
    await database.query(`delete from event_deliveries`);
    const [old] = await events(database, before);
    await service.admin('/admin/events/replay', { eventIds: [old?.id] });
    expect(await bills(database, before)).toEqual([bill]);
  } finally {
    await service.stop();
    await database.drop();
  }
});
