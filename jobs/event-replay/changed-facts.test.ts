/** Events are sent only while their fact is what they say; of an aborted version, only where that can be told. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { checksFile, sessionBilling } from '../../test/builders/checks.ts';
import { addSession } from '../../test/builders/service.ts';
import { type Bench, openBench } from '../../test/event-replay/bench.ts';
import { isSame } from './check-plans.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
  await bench.database.query('ALTER TABLE event_backups ADD COLUMN published_hash text');
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const matching = () =>
  checksFile(
    sessionBilling({
      event: {
        name: 'services.session.completed.v1',
        key: ['sessionId'],
        match: { amountMinor: 'amount_minor', currency: 'currency', at: 'completed_at' },
      },
    }),
  );
const COMPLETED = '2026-11-20T10:00:00.000Z';

/** A session and its event, published by the version `bad` unless said otherwise. */
async function publish(
  id: string,
  payload: Readonly<Record<string, unknown>> = {},
  hash: string | null = 'bad',
): Promise<string> {
  const session = await addSession(bench.database, { amountMinor: '1000', completedAt: COMPLETED });
  const said = {
    sessionId: session.id,
    amountMinor: 1000,
    currency: 'EUR',
    at: '2026-11-20T11:00:00+01:00',
    ...payload,
  };
  await bench.addEvents([{ id, payload: said }]);
  await bench.database.query('UPDATE event_backups SET published_hash = $2 WHERE event_id = $1', [id, hash]);
  return session.id;
}

/** The exporter's request after an abort. */
const abort = async (hash = 'bad') =>
  await bench.database.query(
    `INSERT INTO counterfoil.requests (kind, scope, reason)
     VALUES ('replay', jsonb_build_object('from', '2020-01-01T00:00:00Z', 'to', '2100-01-01T00:00:00Z',
                                          'published_hash', $1::text,
                                          'abort', '{"rollout": "shop", "at": "2026-11-20T10:00:00Z"}'::jsonb), 'aborted')`,
    [hash],
  );
const sent = () => bench.endpoint.calls.flatMap((call) => call.eventIds).sort();

describe('of a version that nobody has aborted', () => {
  it('an event that says something else than its fact is parked as well, and so is one without fact', async () => {
    await publish('agrees', {}, 'good');
    await publish('other-amount', { amountMinor: '1001' }, 'good');
    await publish('no-version', { amountMinor: '1001' }, null);
    await publish('no-fact', { sessionId: '00000000-0000-0000-0000-000000000000' }, 'good');
    const run = await bench.run({ CF_CHECKS_FILE: matching() });
    expect(sent()).toEqual(['agrees']);
    expect(run.record.counts).toMatchObject({ processed: 1, parked: 3 });
    expect(await bench.status('other-amount')).toMatchObject({ parked_reason: 'fact_changed' });
  });

  it('a check that compares nothing has no objection beside one that does', async () => {
    await publish('agrees', {}, 'good');
    await publish('other-amount', { amountMinor: '1001' }, 'good');
    const event = { name: 'services.session.completed.v1', key: ['sessionId'] };
    const file = checksFile(
      sessionBilling({ event: { ...event, match: { amountMinor: 'amount_minor' } } }),
      sessionBilling({ name: 'second', event }),
    );
    await bench.run({ CF_CHECKS_FILE: file });
    expect(sent()).toEqual(['agrees']);
  });

  it('what no check names is sent as it is', async () => {
    await publish('other-name', { amountMinor: '1001' }, 'good');
    await bench.database.query(`UPDATE event_backups SET event_name = 'contract.signed.v1'`);
    await bench.run({ CF_CHECKS_FILE: matching() });
    expect(sent()).toEqual(['other-name']);
  });
});

describe('after the abort of a version', () => {
  it('an event whose fact is what it says is sent; one whose fact has changed, or is gone, is parked', async () => {
    await publish('agrees');
    await publish('other-amount', { amountMinor: '1001' });
    await publish('other-currency', { currency: 'USD' });
    await publish('says-nothing', { currency: undefined });
    await publish('no-fact', { sessionId: '00000000-0000-0000-0000-000000000000' });
    await publish('no-key', { sessionId: 'not a uuid' });
    await abort();
    const run = await bench.run({ CF_CHECKS_FILE: matching() });
    expect(sent()).toEqual(['agrees']);
    expect(run.record.counts).toMatchObject({ processed: 1, parked: 5 });
    const parked = await bench.database.query(
      `SELECT DISTINCT parked_reason FROM counterfoil.replay_events WHERE status = 'parked'`,
    );
    expect(parked).toEqual([{ parked_reason: 'fact_changed' }]);
    // Ids and codes: nothing of a payload.
    expect(run.log).not.toMatch(/1001|USD/);
  });

  it('without match nobody can tell, so all of its events are parked, and no others', async () => {
    await publish('agrees');
    await publish('good-version', { amountMinor: '1001' }, 'good');
    await publish('no-version', { amountMinor: '1001' }, null);
    await abort();
    await bench.run({ CF_CHECKS_FILE: checksFile(sessionBilling()) });
    expect(sent()).toEqual(['good-version', 'no-version']);
    expect(await bench.status('agrees')).toMatchObject({ parked_reason: 'fact_changed' });
  });

  it('every check that names the event has to agree', async () => {
    await publish('agrees');
    await abort();
    const event = { name: 'services.session.completed.v1', key: ['sessionId'] };
    const file = checksFile(
      sessionBilling({ event: { ...event, match: { currency: 'currency' } } }),
      sessionBilling({ name: 'second', event: { ...event, match: { currency: 'mentor_id' } } }),
    );
    await bench.run({ CF_CHECKS_FILE: file });
    expect(sent()).toEqual([]);
  });

  it('the fact is compared before each call: what was taken in before the request, and what is tried again', async () => {
    const session = await publish('changes');
    bench.endpoint.handle = () => ({ outcome: 'failed', retryable: true });
    await bench.run({ CF_CHECKS_FILE: matching() });
    expect(sent()).toEqual(['changes']);
    await abort();
    await bench.database.query('UPDATE sessions SET amount_minor = 2000 WHERE id = $1', [session]);
    await bench.database.query(`UPDATE counterfoil.replay_events SET next_attempt_at = now()`);
    await bench.run({ CF_CHECKS_FILE: matching() });
    expect(sent()).toEqual(['changes']);
    expect(await bench.status('changes')).toMatchObject({ parked_reason: 'fact_changed' });
  });

  it('only a person overrules it: naming the event again does not', async () => {
    await publish('changed', { amountMinor: 1 });
    await abort();
    const environment = { CF_CHECKS_FILE: matching() };
    await bench.run(environment);
    await bench.run({ ...environment, CF_EVENT_IDS: 'changed' });
    expect(sent()).toEqual([]);
    await bench.database.query(`SET search_path = counterfoil`);
    await bench.database.query(`SELECT counterfoil.unpark(ARRAY['changed'], 'agreed with finance')`);
    await bench.database.query(`RESET search_path`);
    await bench.run(environment);
    expect(sent()).toEqual(['changed']);
    expect(await bench.status('changed')).toMatchObject({ status: 'done' });
  });

  it('a refused request makes no version an aborted one', async () => {
    await publish('changed', { amountMinor: 1 });
    await abort();
    await bench.database.query(`UPDATE counterfoil.requests SET status = 'refused'`);
    await bench.run({ CF_CHECKS_FILE: checksFile(sessionBilling()) });
    expect(sent()).toEqual(['changed']);
  });

  it('a check whose table cannot be read ends the run with what mends it, and parks nothing', async () => {
    await publish('agrees');
    await abort();
    const facts = { table: 'nowhere', key: ['id'], at: 'completed_at' };
    const event = { name: 'services.session.completed.v1', key: ['sessionId'], match: { a: 'b' } };
    const run = await bench.run({ CF_CHECKS_FILE: checksFile(sessionBilling({ facts, event })) });
    expect(run.record).toMatchObject({ failure_id: 'table_missing' });
    expect(await bench.statuses()).toEqual({ due: 1 });
  });
});

describe('a payload says the same as its fact', () => {
  it.each([
    ['1000', '1000', true],
    ['10.50', '10.5', true],
    ['010', '10', true],
    ['-0.10', '-0.1', true],
    ['12345678901234567890.10', '12345678901234567890.1', true],
    ['12345678901234567890', '12345678901234567891', false],
    ['1e3', '1000', false],
    ['2026-11-20T11:00:00+01:00', '2026-11-20T10:00:00+00:00', true],
    ['2026-11-20T10:00:00Z', '2026-11-20T10:00:00+00', true],
    ['2026-11-20T10:00:00', '2026-11-20T10:00:00+00', false],
    ['2026-11-20T10:00:01Z', '2026-11-20T10:00:00Z', false],
    ['EUR', 'eur', false],
    [null, null, true],
    [null, '0', false],
    ['0', null, false],
  ])('%s and %s: %s', (said, today, same) => {
    expect(isSame(said, today)).toBe(same);
  });
});
