import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import { bills, events, isCompleted, isProcessed } from '../testing/business-rows.js';
import { type Answer, eventually } from '../testing/service-client.js';
import { type ServiceHere, startServiceHere } from '../testing/service-here.js';
import { type ServiceProcess, startService } from '../testing/service-process.js';

const PATH = '/admin/billing/corrections';

let database: TestDatabase;
let service: ServiceHere;
const processes: ServiceProcess[] = [];
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startServiceHere(database.url);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});
afterEach(async () => {
  await service.disarm();
  await Promise.all(processes.splice(0).map((process) => process.stop()));
});

/** A session billed under a fault. */
async function billedUnder(fault: string | undefined, more: object = {}): Promise<string> {
  if (fault !== undefined) await service.arm(fault);
  const id = await service.completeSession(more);
  await eventually('processed', () => isProcessed(database, id));
  await service.disarm();
  return id;
}

let requests = 0;
const request = (more: object = {}) => {
  requests += 1;
  return { requestId: `request-${requests}`, requestedBy: 'ann', approvedBy: 'ben', reason: 'seen', ...more };
};

const duplicate = (id: string, more: object = {}) => ({
  key: [id],
  kind: 'duplicate',
  expectedMinor: '12500',
  actualMinor: '25000',
  currency: 'EUR',
  ledgerRows: 2,
  ...more,
});

const amount = (id: string, more: object = {}) => ({
  key: [id],
  kind: 'amount',
  expectedMinor: '12500',
  actualMinor: '12501',
  currency: 'EUR',
  ledgerRows: 1,
  ...more,
});

/** Sends one correction and gives its result. */
async function correct(correction: object, more: object = {}, to: ServiceHere | ServiceProcess = service) {
  const answer = await to.admin(PATH, { ...request(more), corrections: [correction] });
  expect(answer.status, answer.text).toBe(200);
  return answer.body.results[0];
}

const isLive = (rows: Awaited<ReturnType<typeof bills>>) => {
  const reversed = new Set(rows.map(({ reverses }) => reverses));
  return rows.filter(({ id, reverses }) => reverses === null && !reversed.has(id));
};

describe('a correction', () => {
  test('of a duplicate reverses all but the oldest right bill, and leaves the originals as they were', async () => {
    const id = await billedUnder('bill_twice');
    const before = await bills(database, id);
    const [first, second] = before;
    const result = await correct(duplicate(id));
    expect(result).toEqual({ key: [id], outcome: 'corrected', reversedIds: [second?.id], billedId: null });
    const after = await bills(database, id);
    expect(after.slice(0, 2)).toEqual(before);
    expect(after.slice(2)).toEqual([
      {
        id: expect.any(String),
        amount: '-12500',
        currency: 'EUR',
        key: `reversal:${second?.id}`,
        reverses: second?.id,
      },
    ]);
    expect(isLive(after)).toEqual([first]);
  });

  test('of a wrong amount reverses it and bills the session anew from the fact', async () => {
    const id = await billedUnder('bill_wrong');
    const [wrong] = await bills(database, id);
    const result = await correct(amount(id));
    const after = await bills(database, id);
    expect(result).toEqual({
      key: [id],
      outcome: 'corrected',
      reversedIds: [wrong?.id],
      billedId: after[2]?.id,
    });
    expect(after.map(({ amount: minor, key }) => [minor, key])).toEqual([
      ['12501', `session:${id}:1`],
      ['-12501', `reversal:${wrong?.id}`],
      ['12500', `session:${id}:2`],
    ]);
  });

  test('of a duplicate of which none is right reverses all and bills anew', async () => {
    await service.arm('bill_wrong');
    const id = await billedUnder('bill_twice');
    const result = await correct(duplicate(id, { actualMinor: '25002' }));
    expect(result).toMatchObject({ outcome: 'corrected', billedId: expect.any(String) });
    expect(result.reversedIds).toHaveLength(2);
    expect(isLive(await bills(database, id)).map(({ key, amount: minor }) => [key, minor])).toEqual([
      [`session:${id}:3`, '12500'],
    ]);
  });

  test('keeps a right bill that is not the oldest', async () => {
    const id = await billedUnder('bill_wrong');
    await database.query(
      `insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
       values ($1::uuid, 'mentor-1', 12500, 'EUR', 'by hand ' || $1::text)`,
      [id],
    );
    const [wrong, right] = await bills(database, id);
    const result = await correct(duplicate(id, { actualMinor: '25001' }));
    expect(result).toMatchObject({ outcome: 'corrected', reversedIds: [wrong?.id], billedId: null });
    expect(isLive(await bills(database, id))).toEqual([right]);
  });

  test('of a bill in another currency bills anew in that of the fact', async () => {
    const id = await billedUnder(undefined);
    await database.query(`update sessions set currency = 'USD' where id = $1`, [id]);
    expect(await correct(amount(id, { actualMinor: '12500', currency: 'USD' }))).toMatchObject({
      outcome: 'corrected',
    });
    expect(isLive(await bills(database, id)).map(({ currency }) => currency)).toEqual(['USD']);
  });

  test('holds amounts that no number holds exactly', async () => {
    const id = await billedUnder(undefined);
    await database.query(`update sessions set amount_minor = 9223372036854775807 where id = $1`, [id]);
    const expectedMinor = '9223372036854775807';
    expect(await correct(amount(id, { expectedMinor, actualMinor: '12500' }))).toMatchObject({
      outcome: 'corrected',
    });
    expect(isLive(await bills(database, id)).map(({ amount: minor }) => minor)).toEqual([expectedMinor]);
  });

  test('of several sessions does each on its own: one that changed leaves the others alone', async () => {
    const ids = [
      await billedUnder('bill_twice'),
      await billedUnder('bill_wrong'),
      await billedUnder(undefined),
    ];
    const answer = await service.admin(PATH, {
      ...request(),
      corrections: [
        duplicate(ids[0] ?? '', { ledgerRows: 3 }),
        amount(ids[1] ?? ''),
        duplicate(ids[2] ?? ''),
        amount(crypto.randomUUID()),
        amount('not a session'),
      ],
    });
    expect(answer.body.results.map(({ outcome }: { outcome: string }) => outcome)).toEqual([
      'changed',
      'corrected',
      'already_corrected',
      'not_found',
      'not_found',
    ]);
  });

  test('is recorded with who asked for it, who approved it and why', async () => {
    const id = await billedUnder('bill_twice');
    await correct(duplicate(id), { requestId: 'audited', reason: 'two bills' });
    expect(
      await database.query(
        `select session_id, kind, requested_by, approved_by, reason, cardinality(reversed_ids) as reversed, billed_id
         from billing_corrections where request_id = 'audited'`,
      ),
    ).toEqual([
      {
        session_id: id,
        kind: 'duplicate',
        requested_by: 'ann',
        approved_by: 'ben',
        reason: 'two bills',
        reversed: 1,
        billed_id: null,
      },
    ]);
  });
});

describe('what is no longer as it was approved stays as it is', () => {
  test.each([
    ['another number of bills', duplicate, { ledgerRows: 3 }],
    ['another sum', duplicate, { actualMinor: '25001' }],
    ['another amount of the fact', duplicate, { expectedMinor: '12499' }],
    ['a fraction of a minor unit', duplicate, { actualMinor: '25000.5' }],
    ['another currency', duplicate, { currency: 'USD' }],
    ['one bill where two were approved', amount, { kind: 'duplicate' }],
  ])('%s: changed', async (_title, approved, more) => {
    const id = await billedUnder(approved === duplicate ? 'bill_twice' : 'bill_wrong');
    const before = await bills(database, id);
    expect(await correct(approved(id, more))).toEqual({
      key: [id],
      outcome: 'changed',
      reversedIds: [],
      billedId: null,
    });
    expect(await bills(database, id)).toEqual(before);
  });

  test('a session that is not completed any more: changed', async () => {
    const id = await billedUnder('bill_twice');
    await database.query('update sessions set completed_at = null where id = $1', [id]);
    expect(await correct(duplicate(id))).toMatchObject({ outcome: 'changed' });
  });

  test('a wrong amount of which no amount was approved: failed, and asking again does not help', async () => {
    const id = await billedUnder('bill_wrong');
    expect(await correct(amount(id, { actualMinor: null }))).toMatchObject({
      outcome: 'failed',
      retryable: false,
      error: 'amounts_not_approved',
    });
  });

  test('a duplicate needs no amounts, where the check compares none', async () => {
    const id = await billedUnder('bill_twice');
    const approved = duplicate(id, { expectedMinor: null, actualMinor: null, currency: null });
    expect(await correct(approved)).toMatchObject({ outcome: 'corrected' });
  });

  test('the same request with another kind: changed', async () => {
    const id = await billedUnder('bill_twice');
    await correct(duplicate(id), { requestId: `kind ${id}` });
    expect(await correct(amount(id), { requestId: `kind ${id}` })).toMatchObject({ outcome: 'changed' });
  });
});

describe('a dry run', () => {
  test('says what would be reversed and writes nothing', async () => {
    const id = await billedUnder('bill_twice');
    const before = await bills(database, id);
    expect(await correct(duplicate(id), { dryRun: true })).toEqual({
      key: [id],
      outcome: 'would_correct',
      reversedIds: [before[1]?.id],
      billedId: null,
    });
    expect(await bills(database, id)).toEqual(before);
  });

  test('of a request that was carried out says so', async () => {
    const id = await billedUnder('bill_twice');
    const requestId = `carried out ${id}`;
    const { reversedIds } = await correct(duplicate(id), { requestId });
    expect(await correct(duplicate(id), { requestId, dryRun: true })).toMatchObject({
      outcome: 'already_corrected',
      reversedIds,
    });
  });
});

describe('corrections and what happens at the same time', () => {
  test('the same request ten times at once corrects once, and all are answered the same', async () => {
    const id = await billedUnder('bill_wrong');
    const body = { ...request(), corrections: [amount(id)] };
    const answers = await Promise.all(Array.from({ length: 10 }, () => service.admin(PATH, body)));
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect(answers[0]?.body.results[0].outcome).toBe('corrected');
    expect(await bills(database, id)).toHaveLength(3);
    // And later, after the answer was lost.
    expect((await service.admin(PATH, body)).text).toBe(answers[0]?.text);
  });

  test('two requests at once about one session: one corrects, the other finds it done', async () => {
    const id = await billedUnder('bill_twice');
    const results = await Promise.all(Array.from({ length: 10 }, () => correct(duplicate(id))));
    const outcomes = results.map(({ outcome }) => outcome).sort();
    expect(outcomes).toEqual([...Array.from({ length: 9 }, () => 'already_corrected'), 'corrected']);
    expect(isLive(await bills(database, id))).toHaveLength(1);
  });

  test('a late replay of the original event, before, during and after it, bills nothing more', async () => {
    const id = await billedUnder('bill_wrong');
    const [event] = await events(database, id);
    const replayAgain = async (): Promise<Answer> => {
      await database.query(`update event_backups set status = 'pending' where event_id = $1`, [event?.id]);
      await database.query(`delete from event_deliveries where event_id = $1`, [event?.id]);
      return await service.admin('/admin/events/replay', { eventIds: [event?.id] });
    };
    const [result, during] = await Promise.all([correct(amount(id)), replayAgain()]);
    const after = await replayAgain();
    for (const { body } of [during, after]) expect(body.results).toMatchObject([{ outcome: 'processed' }]);
    expect(result.outcome).toBe('corrected');
    const rows = await bills(database, id);
    expect(rows).toHaveLength(3);
    expect(isLive(rows).map(({ amount: minor }) => minor)).toEqual(['12500']);
  });

  test('a session that somebody else holds is given up after two seconds: failed, to be asked again', async () => {
    const id = await billedUnder('bill_twice');
    await database.query('begin');
    await database.query('select 1 from sessions where id = $1 for update', [id]);
    expect(await correct(duplicate(id))).toMatchObject({
      outcome: 'failed',
      retryable: true,
      error: '55P03',
    });
    await database.query('rollback');
    expect(await correct(duplicate(id))).toMatchObject({ outcome: 'corrected' });
  });

  test('a row written by somebody else in the middle: nothing is written', async () => {
    const id = await billedUnder('bill_wrong');
    const [wrong] = await bills(database, id);
    // As another program would that knows the keys, but not that the bill is reversed with it.
    await database.query(
      `insert into mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
       values ($1, 'mentor-1', 0, 'EUR', $2)`,
      [crypto.randomUUID(), `reversal:${wrong?.id}`],
    );
    expect(await correct(amount(id))).toMatchObject({ outcome: 'changed' });
    expect(await bills(database, id)).toEqual([wrong]);
  });
});

describe('a correction cut off by a crash', () => {
  test.each([
    ['crash_before_commit', 1],
    ['crash_after_commit', 3],
  ])(
    '%s: asked again it is done once, with the same answer as without the crash',
    async (fault, rowsLeft) => {
      const id = await billedUnder('bill_wrong');
      const crashing = await startService(database.url);
      processes.push(crashing);
      await crashing.arm(fault);
      const body = { ...request(), corrections: [amount(id)] };
      await expect(crashing.admin(PATH, body)).rejects.toThrow();
      expect(await crashing.exited).toEqual({ code: null, signal: 'SIGKILL' });
      // Its transaction may live on for as long as the server takes to notice.
      await eventually('the end of its transaction', async () => {
        const open = await database.query(
          `select 1 from pg_stat_activity where datname = current_database() and xact_start is not null
           and pid <> pg_backend_pid()`,
        );
        return open.length === 0;
      });
      expect(await bills(database, id)).toHaveLength(rowsLeft);
      const again = await service.admin(PATH, body);
      const rows = await bills(database, id);
      expect(again.body.results).toEqual([
        { key: [id], outcome: 'corrected', reversedIds: [rows[0]?.id], billedId: rows[2]?.id },
      ]);
      expect(rows).toHaveLength(3);
      expect(await isCompleted(database, id)).toBe(true);
    },
  );

  test('with the database away all are answered, to be asked again', async () => {
    const away = await startServiceHere('postgres://nobody@127.0.0.1:1/none');
    try {
      const corrections = Array.from({ length: 100 }, () => duplicate(crypto.randomUUID()));
      const answer = await away.admin(PATH, { ...request(), corrections });
      expect(answer.body.results).toEqual(
        corrections.map(({ key }) => ({
          key,
          outcome: 'failed',
          reversedIds: [],
          billedId: null,
          retryable: true,
          error: 'ECONNREFUSED',
        })),
      );
    } finally {
      await away.stop();
    }
  });
});

describe('a request is refused', () => {
  const good = { ...request(), corrections: [duplicate(crypto.randomUUID())] };

  test.each([
    ['without the request’s id', { requestId: undefined }],
    ['without a requester', { requestedBy: '  ' }],
    ['without an approver', { approvedBy: undefined }],
    ['without a reason', { reason: '' }],
    ['without a correction', { corrections: [] }],
    ['with a session named twice', { corrections: [good.corrections[0], good.corrections[0]] }],
    ['with an amount as a number', { corrections: [{ ...good.corrections[0], expectedMinor: 12_500 }] }],
    ['with a kind that is none', { corrections: [{ ...good.corrections[0], kind: 'missing' }] }],
    ['with an unknown field', { dryrun: true }],
  ])('%s: 400', async (_title, more) => {
    expect((await service.admin(PATH, { ...good, ...more })).status).toBe(400);
  });

  test.each([
    ['ann', 'ann'],
    ['ann', ' Ann '],
    ['straße@example.org', 'STRASSE@example.org'],
    ['ann', '\uff41nn'],
  ])('where %s asks and "%s" approves: 403', async (requestedBy, approvedBy) => {
    expect((await service.admin(PATH, { ...good, requestedBy, approvedBy })).status).toBe(403);
  });

  test('of more than 100 corrections: 413; without the token: 401; of a service without one: 404', async () => {
    const corrections = Array.from({ length: 101 }, () => duplicate(crypto.randomUUID()));
    expect((await service.admin(PATH, { ...good, corrections })).status).toBe(413);
    expect((await service.post(PATH, good)).status).toBe(401);
    const plain = await startServiceHere(database.url, { REPLAY_TOKEN: '', FAULTS: '' });
    expect((await plain.admin(PATH, good)).status).toBe(404);
    await plain.stop();
  });
});
