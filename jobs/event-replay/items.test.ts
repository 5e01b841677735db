/** Requests for a rebuild and approved corrections, carried out finding by finding. */
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import {
  type Bench,
  eventually,
  openBench,
  startChild,
  startInProcess,
} from '../../test/event-replay/bench.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

const CHECK = 'session-billing';

/** Open findings, by key; gives their ids. */
async function addFindings(
  keys: readonly string[],
  given: { readonly kind?: string; readonly status?: string; readonly key?: readonly string[] } = {},
): Promise<string[]> {
  const { kind = 'missing', status = 'open' } = given;
  await bench.database.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition)
     VALUES ($1, 'counterfoil', 'h', '{}') ON CONFLICT DO NOTHING`,
    [CHECK],
  );
  const rows = await bench.database.query<{ id: string }>(
    `INSERT INTO counterfoil.discrepancies
       (check_name, kind, key, status, cause, ledger_rows, expected_minor, actual_minor, currency, first_run_id, opened_at)
     SELECT $1, $2, k, $3, CASE $2 WHEN 'missing' THEN 'never_published' END, 2, 1000, 2000, 'EUR',
            gen_random_uuid(), now()
       FROM unnest($4::text[]) WITH ORDINALITY AS w (k, n) ORDER BY n RETURNING id`,
    [CHECK, kind, status, keys.map((key) => JSON.stringify(given.key ?? [key]))],
  );
  return rows.map(({ id }) => id);
}

async function ask(
  kind: 'rebuild' | 'correction',
  findings: readonly string[],
  people: { readonly requestedBy?: string; readonly approvedBy?: string | null } = {},
): Promise<string> {
  const { requestedBy = 'ann', approvedBy = kind === 'correction' ? 'ben' : null } = people;
  const [row] = await bench.database.query<{ id: string }>(
    `INSERT INTO counterfoil.requests (kind, scope, check_name, reason, requested_by, approved_by, approved_at)
     VALUES ($1, jsonb_build_object('findings', $2::bigint[])
                 || CASE $1 WHEN 'correction'
                            THEN jsonb_build_object('seen', counterfoil.correction_facts($2::bigint[])) ELSE '{}' END,
             $3, 'an incident', $4, $5, CASE WHEN $5::text IS NOT NULL THEN now() END) RETURNING id`,
    [kind, findings, CHECK, requestedBy, approvedBy],
  );
  return row?.id ?? '';
}

const request = async (id: string) => {
  const [row] = await bench.database.query<{ status: string; result: Record<string, unknown> }>(
    'SELECT status, result FROM counterfoil.requests WHERE id = $1',
    [id],
  );
  return row;
};
const items = async () =>
  await bench.database.query(
    `SELECT finding_id, status, outcome, error FROM counterfoil.request_items ORDER BY finding_id`,
  );
const corrects = () => ({ CF_CORRECTIONS_URL: bench.endpoint.correctionsUrl });
const dueNow = async () =>
  await bench.database.query(
    `UPDATE counterfoil.request_items SET next_attempt_at = now() WHERE status = 'due'`,
  );

describe('a request for a rebuild', () => {
  it('asks the service for each finding by its key, and keeps what became of each', async () => {
    const [first = '', second = '', third = ''] = await addFindings(['s1', 's/2 ü', 's3']);
    bench.endpoint.rebuild = (key) =>
      key === 's1'
        ? { rebuild: 'rebuilt', results: [{ eventId: 'rebuild:x:s1:1', outcome: 'processed' }] }
        : key === 's3'
          ? { rebuild: 'refused', code: 'bill_was_reversed' }
          : { rebuild: 'not_needed' };
    const id = await ask('rebuild', [first, second, third]);
    const run = await bench.run();
    expect([...bench.endpoint.rebuilds].sort()).toEqual(['s/2 ü', 's1', 's3']);
    expect(await request(id)).toEqual({
      status: 'done',
      result: {
        done: 2,
        given_up: 1,
        findings: { [first]: 'rebuilt', [second]: 'not_needed', [third]: 'refused:bill_was_reversed' },
      },
    });
    expect(run.record).toMatchObject({
      outcome: 'succeeded',
      counts: { requests: 1, items_done: 2, items_given_up: 1, item_calls: 3 },
    });
    // Whoever searches the log for a key finds what became of it.
    const told = run.lines.filter(({ msg }) => msg === 'item done');
    expect(
      told.map(({ requestId, finding, key, outcome }) => ({ requestId, finding, key, outcome })),
    ).toEqual(
      expect.arrayContaining([
        { requestId: id, finding: first, key: ['s1'], outcome: 'rebuilt' },
        { requestId: id, finding: second, key: ['s/2 ü'], outcome: 'not_needed' },
      ]),
    );
    expect(told).toHaveLength(2);
    const audits = await bench.database.query(
      `SELECT action, scope, counts FROM counterfoil.audit WHERE request_id = $1`,
      [id],
    );
    expect(audits).toEqual([
      {
        action: 'rebuild request',
        scope: {
          check: CHECK,
          requested_by: 'ann',
          findings: { [first]: 'rebuilt', [second]: 'not_needed', [third]: 'refused:bill_was_reversed' },
        },
        counts: { done: 2, given_up: 1 },
      },
    ]);
  });

  it('has no more calls in flight than its lanes allow', async () => {
    const findings = await addFindings(Array.from({ length: 9 }, (_, n) => `s${n}`));
    let inFlight = 0;
    let most = 0;
    bench.endpoint.rebuild = async () => {
      inFlight += 1;
      most = Math.max(most, inFlight);
      await new Promise((resolve) => setImmediate(resolve));
      inFlight -= 1;
      return { rebuild: 'not_needed' };
    };
    await ask('rebuild', findings);
    await bench.run({ CF_REBUILD_LANES: '3' });
    expect(bench.endpoint.rebuilds).toHaveLength(9);
    expect(most).toBeLessThanOrEqual(3);
  });

  it.each([404, 405])(
    'is refused with a reason where the service answers %i: no such route',
    async (status) => {
      const findings = await addFindings(['s1', 's2']);
      bench.endpoint.rebuild = () => status;
      const id = await ask('rebuild', findings);
      const run = await bench.run({ CF_REBUILD_LANES: '1' });
      expect(run.exitCode).toBe(0);
      expect(bench.endpoint.rebuilds).toEqual(['s1']);
      expect(await request(id)).toMatchObject({
        status: 'refused',
        result: { problem: 'the service has no such route', given_up: 2 },
      });
      for (const item of await items())
        expect(item).toMatchObject({ status: 'given_up', outcome: 'no_route', error: `http_${status}` });
    },
  );

  it('waits after a failure that may pass, and is given up at the end of its attempts', async () => {
    const [finding = ''] = await addFindings(['s1']);
    bench.endpoint.rebuild = () => ({
      rebuild: 'rebuilt',
      results: [{ eventId: 'r1', outcome: 'failed', retryable: true, error: 'Timeout' }],
    });
    const id = await ask('rebuild', [finding]);
    await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(await items()).toMatchObject([{ status: 'due', outcome: 'failed', error: 'Timeout' }]);
    expect(await request(id)).toMatchObject({ status: 'taken' });
    // Not before its time.
    await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(bench.endpoint.rebuilds).toHaveLength(1);
    await dueNow();
    await bench.run({ CF_HANDLER_ATTEMPTS: '2' });
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: { findings: { [finding]: 'attempts_exhausted:Timeout' } },
    });
  });

  it.each([
    [
      { rebuild: 'rebuilt', results: [{ eventId: 'r', outcome: 'failed', retryable: false }] },
      'given_up',
      'not_retryable',
      'failed',
    ],
    [
      { rebuild: 'rebuilt', results: [{ eventId: 'r', outcome: 'no_listener' }] },
      'given_up',
      'no_listener',
      null,
    ],
    [{ rebuild: 'not_asked', results: [{ eventId: 'r', outcome: 'processed' }] }, 'done', 'replayed', null],
    [
      { rebuild: 'not_asked', more: true, results: [{ eventId: 'r', outcome: 'processed' }] },
      'due',
      'in_flight',
      'more_pending',
    ],
    [{ rebuild: 'not_asked', results: [{ eventId: 'r', outcome: 'in_flight' }] }, 'due', 'in_flight', null],
    [{ rebuild: 'not_supported' }, 'given_up', 'not_supported', null],
    [{ rebuild: 'not_found' }, 'given_up', 'not_found', null],
    [{ rebuild: 'refused', code: 'personal: Ann' }, 'given_up', 'refused', 'error_text_withheld'],
    [400, 'given_up', 'refused', 'http_400'],
  ])('%j makes its item %s: %s', async (answer, status, outcome, error) => {
    await ask('rebuild', await addFindings(['s1']));
    bench.endpoint.rebuild = () => answer;
    await bench.run();
    expect(await items()).toMatchObject([{ status, outcome, error }]);
  });

  it('sends nothing for what is no longer open, and nothing for a key that no path can hold', async () => {
    const resolved = await addFindings(['s1'], { status: 'resolved' });
    const unusable = await addFindings(['x'], { key: ['tenant', '42'] });
    const dots = await addFindings(['..']);
    await ask('rebuild', [...resolved, ...unusable, ...dots]);
    await bench.run();
    expect(bench.endpoint.rebuilds).toEqual([]);
    expect(await items()).toMatchObject([
      { status: 'done', outcome: 'not_open' },
      { status: 'given_up', outcome: 'key_not_usable' },
      { status: 'given_up', outcome: 'key_not_usable' },
    ]);
  });

  it.each([
    [{ findings: 'all' }, 'the scope must be'],
    [{ findings: [999999] }, 'no rebuild can mend finding 999999'],
  ])('with the scope %j is refused, and the one behind it is taken', async (scope, problem) => {
    const [row] = await bench.database.query<{ id: string }>(
      `INSERT INTO counterfoil.requests (kind, scope, reason) VALUES ('rebuild', $1, 'x') RETURNING id`,
      [scope],
    );
    const good = await ask('rebuild', await addFindings(['s1']));
    await bench.run();
    expect(await request(row?.id ?? '')).toMatchObject({
      status: 'refused',
      result: { problem: expect.stringContaining(problem) },
    });
    expect(await request(good)).toMatchObject({ status: 'done' });
  });

  it('ends a once-run as endpoint_down when the service is away, and burns no attempt', async () => {
    const [finding = ''] = await addFindings(['s1']);
    const id = await ask('rebuild', [finding]);
    await bench.endpoint.close();
    const run = await bench.run();
    await bench.endpoint.open();
    expect(run.record).toMatchObject({ outcome: 'endpoint_down' });
    expect(run.exitCode).toBe(1);
    await dueNow();
    expect((await bench.run()).exitCode).toBe(0);
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: { findings: { [finding]: 'not_needed' } },
    });
  });

  it('ends the run as endpoint_refused when the token is not taken, and stays open', async () => {
    const id = await ask('rebuild', await addFindings(['s1']));
    const run = await bench.run({ CF_REPLAY_TOKEN: 'wrong' });
    expect(run.record.failure_id).toBe('endpoint_refused');
    expect(await request(id)).toMatchObject({ status: 'taken' });
    expect(await items()).toMatchObject([{ status: 'due', outcome: null }]);
  });

  it('is not lost with a run that is killed in a call, and crashes that go on end it', async () => {
    const [finding = ''] = await addFindings(['s1']);
    const id = await ask('rebuild', [finding]);
    bench.endpoint.rebuild = () => new Promise(() => undefined);
    for (let kills = 1; kills <= 2; kills += 1) {
      const child = startChild(bench.environment({ CF_UNFINISHED_CALLS: '2' }));
      await eventually(() => Promise.resolve(bench.endpoint.rebuilds.length >= kills));
      child.process.kill('SIGKILL');
      await child.exited;
      await bench.database.query(
        `UPDATE counterfoil.request_items SET lease_until = now() WHERE status = 'claimed'`,
      );
      await bench.database.query('TRUNCATE counterfoil.job_leases');
    }
    bench.endpoint.rebuild = () => ({ rebuild: 'not_needed' });
    await bench.run({ CF_UNFINISHED_CALLS: '2' });
    expect(bench.endpoint.rebuilds).toHaveLength(2);
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: { findings: { [finding]: 'crashes_the_service' } },
    });
  });

  it('is carried out by a continuous run, which lets its call end after SIGTERM', async () => {
    const run = startInProcess(bench.environment({ CF_MODE: 'continuous' }));
    const [finding = ''] = await addFindings(['s1']);
    let answer: (value: { rebuild: string }) => void = () => undefined;
    bench.endpoint.rebuild = () =>
      new Promise((resolve) => {
        answer = resolve;
      });
    const id = await ask('rebuild', [finding]);
    await eventually(() => Promise.resolve(bench.endpoint.rebuilds.length === 1));
    run.stop();
    answer({ rebuild: 'not_needed' });
    expect((await run.ended).exitCode).toBe(0);
    expect(await request(id)).toMatchObject({ status: 'done' });
  });

  it('goes on with a continuous run once the service is back', async () => {
    await bench.endpoint.close();
    const run = startInProcess(
      bench.environment({ CF_MODE: 'continuous', CF_LANES: '1', CF_REBUILD_LANES: '8' }),
    );
    const id = await ask('rebuild', await addFindings(Array.from({ length: 8 }, (_, n) => `s${n}`)));
    await eventually(async () => (await items()).some(({ outcome }) => outcome === 'unreached'));
    await bench.endpoint.open();
    await eventually(async () => (await request(id))?.status === 'done');
    run.stop();
    expect((await run.ended).exitCode).toBe(0);
  });
});

describe('a correction', () => {
  it('goes in one call with what the approver saw, and with both names', async () => {
    const findings = await addFindings(['s1', 's2'], { kind: 'duplicate' });
    bench.endpoint.correct = (key) => (key === 's1' ? { outcome: 'corrected' } : { outcome: 'changed' });
    const id = await ask('correction', findings);
    const run = await bench.run(corrects());
    expect(bench.endpoint.corrections).toEqual([
      {
        requestId: id,
        requestedBy: 'ann',
        approvedBy: 'ben',
        reason: 'an incident',
        dryRun: false,
        corrections: ['s1', 's2'].map((key) => ({
          key: [key],
          kind: 'duplicate',
          expectedMinor: '1000',
          actualMinor: '2000',
          currency: 'EUR',
          ledgerRows: 2,
        })),
      },
    ]);
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: {
        done: 1,
        given_up: 1,
        findings: { [findings[0] ?? '']: 'corrected', [findings[1] ?? '']: 'changed' },
      },
    });
    const audits = await bench.database.query(
      `SELECT action, scope ->> 'requested_by' AS requested, scope ->> 'approved_by' AS approved
         FROM counterfoil.audit WHERE request_id = $1`,
      [id],
    );
    expect(audits).toEqual([{ action: 'correction request', requested: 'ann', approved: 'ben' }]);
    expect(run.log).not.toContain('1000');
  });

  it('is never taken without an approval, nor where somebody has approved their own', async () => {
    const findings = await addFindings(['s1', 's2', 's3'], { kind: 'amount' });
    const [one = '', two = '', three = ''] = findings;
    const unapproved = await ask('correction', [one], { approvedBy: null });
    const approved = await ask('correction', [two]);
    // As if the constraints had not been there: the job looks for itself.
    await bench.database.query(
      'ALTER TABLE counterfoil.requests DROP CONSTRAINT requests_approver_is_another, DROP CONSTRAINT requests_check',
    );
    const own = await ask('correction', [three], { approvedBy: ' Ann' });
    await bench.run(corrects());
    expect(bench.endpoint.corrections.map(({ requestId }) => requestId)).toEqual([approved]);
    for (const id of [unapproved, own]) expect(await request(id)).toMatchObject({ status: 'open' });
    // And once more right before the call, whatever happened since it was taken.
    await bench.database.query(
      `UPDATE counterfoil.requests SET approved_by = 'ben', approved_at = now() WHERE id = $1`,
      [own],
    );
    bench.endpoint.correct = () => 503;
    await bench.run(corrects());
    await bench.database.query(`UPDATE counterfoil.requests SET approved_by = 'ANN' WHERE id = $1`, [own]);
    await dueNow();
    const calls = bench.endpoint.corrections.length;
    await bench.run(corrects());
    expect(bench.endpoint.corrections).toHaveLength(calls);
    await bench.database.query('DELETE FROM counterfoil.requests');
    await bench.database.query(
      `ALTER TABLE counterfoil.requests
         ADD CONSTRAINT requests_approver_is_another CHECK (lower(btrim(approved_by)) <> lower(btrim(requested_by))),
         ADD CONSTRAINT requests_check CHECK (approved_by IS NULL OR approved_by <> requested_by)`,
    );
  });

  it('is refused with a reason where no URL is set, and where the service has no such route', async () => {
    const [one = '', two = ''] = await addFindings(['s1', 's2'], { kind: 'duplicate' });
    const unset = await ask('correction', [one]);
    await bench.run();
    expect(await request(unset)).toMatchObject({
      status: 'refused',
      result: { problem: 'CF_CORRECTIONS_URL is not set: a person has to carry it out' },
    });
    const noRoute = await ask('correction', [two]);
    bench.endpoint.correct = () => 404;
    await bench.run(corrects());
    expect(await request(noRoute)).toMatchObject({
      status: 'refused',
      result: { problem: 'the service has no such route' },
    });
  });

  it('that fails for one finding is tried again for that one alone, under the same request', async () => {
    const [one = '', two = ''] = await addFindings(['s1', 's2'], { kind: 'duplicate' });
    const id = await ask('correction', [one, two]);
    bench.endpoint.correct = (key) =>
      key === 's1' ? { outcome: 'corrected' } : { outcome: 'failed', retryable: true, error: '40P01' };
    await bench.run(corrects());
    bench.endpoint.correct = () => ({ outcome: 'already_corrected' });
    await dueNow();
    await bench.run(corrects());
    expect(
      bench.endpoint.corrections.map((call) => [call.requestId, call.corrections.map(({ key }) => key[0])]),
    ).toEqual([
      [id, ['s1', 's2']],
      [id, ['s2']],
    ]);
    expect(await request(id)).toMatchObject({
      status: 'done',
      result: { findings: { [one]: 'corrected', [two]: 'already_corrected' } },
    });
  });

  it('that the service forbids is given up, and the run goes on', async () => {
    const id = await ask('correction', await addFindings(['s1'], { kind: 'duplicate' }));
    bench.endpoint.correct = () => 403;
    expect((await bench.run(corrects())).exitCode).toBe(0);
    expect(await items()).toMatchObject([{ status: 'given_up', outcome: 'refused', error: 'http_403' }]);
    expect(await request(id)).toMatchObject({ status: 'done', result: { given_up: 1 } });
  });
});
