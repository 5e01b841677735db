/** What a person may do: with a real login of the group counterfoil_people, and nothing but the functions. */
import { Client } from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';

let postgres: TestDatabase;
const people: Record<'ann' | 'ben', { readonly name: string; readonly client: Client }> = {} as never;

beforeAll(async () => {
  postgres = await createTestDatabase();
  const password = inject('rolePassword');
  for (const person of ['ann', 'ben'] as const) {
    const name = `${person}_${postgres.name.slice(-6)}`;
    await postgres.query(`CREATE ROLE ${name} LOGIN PASSWORD '${password}' IN ROLE counterfoil_people`);
    const url = new URL(postgres.url);
    url.username = name;
    url.password = password;
    const client = new Client({ connectionString: url.href });
    await client.connect();
    people[person] = { name, client };
  }
});
afterAll(async () => {
  for (const { name, client } of Object.values(people)) {
    await client.end();
    await postgres.query(`DROP ROLE ${name}`);
  }
  await postgres.drop();
});

const checkName = 'session-billing';
beforeEach(async () => {
  await postgres.query(
    `INSERT INTO counterfoil.checks (name, installation, definition_hash, definition) VALUES ($1, 'here', 'h', '{}')`,
    [checkName],
  );
});
afterEach(async () => {
  await postgres.query(
    `TRUNCATE counterfoil.checks, counterfoil.discrepancies, counterfoil.waivers, counterfoil.requests,
              counterfoil.request_items, counterfoil.replay_events, counterfoil.freezes,
              counterfoil.reconciliation_windows`,
  );
});

/** One call of a function as a person; gives what it returned. */
async function as(person: 'ann' | 'ben', call: string, params: readonly unknown[] = []): Promise<unknown> {
  const { rows } = await people[person].client.query(`SELECT counterfoil.${call} AS given`, [...params]);
  return (rows[0] as { given: unknown }).given;
}

interface Row {
  readonly status: string;
  readonly kind: string;
}

let keys = 0;
async function addFinding(given: Record<string, unknown> = {}): Promise<string> {
  keys += 1;
  const finding = { kind: 'missing', status: 'open', cause: 'never_published', ...given } as Row & {
    cause: string | null;
  };
  const isMissing = finding.kind === 'missing';
  const [row] = await postgres.query<{ id: string }>(
    `INSERT INTO counterfoil.discrepancies
       (check_name, kind, key, status, cause, fact_at, ledger_rows, expected_minor, actual_minor, currency,
        first_run_id, opened_at)
     VALUES ($1, $2, $3, $4, $5, '2026-11-20T10:00:00Z', $6, 1000, $7, 'EUR', gen_random_uuid(), now()) RETURNING id`,
    [
      checkName,
      finding.kind,
      JSON.stringify([`s${keys}`]),
      finding.status,
      isMissing ? finding.cause : null,
      isMissing ? 0 : 2,
      isMissing ? null : 2000,
    ],
  );
  return row?.id ?? '';
}
const finding = async (id: string) =>
  (
    await postgres.query<Row & Record<string, unknown>>(
      'SELECT * FROM counterfoil.discrepancies WHERE id = $1',
      [id],
    )
  )[0];
const audits = async () =>
  await postgres.query<{
    actor: string;
    action: string;
    installation: string;
    reason: string;
    scope: object;
  }>(
    `SELECT actor, action, installation, reason, scope, counts FROM counterfoil.audit ORDER BY id DESC LIMIT 1`,
  );
const tomorrow = () => new Date(Date.now() + 86_400_000);

describe('to acknowledge', () => {
  test('gives findings an owner and an end, and leaves one audit row', async () => {
    const id = await addFinding();
    const untouched = await addFinding();
    expect(
      await as('ann', `acknowledge(ARRAY[$1::bigint], $2, 'known since Monday')`, [id, tomorrow()]),
    ).toBe(1);
    expect(await finding(id)).toMatchObject({
      status: 'acknowledged',
      acknowledged_by: people.ann.name,
      status_reason: 'known since Monday',
    });
    expect((await finding(untouched))?.status).toBe('open');
    expect(await audits()).toMatchObject([
      {
        actor: people.ann.name,
        action: 'acknowledged',
        installation: 'here',
        reason: 'known since Monday',
        counts: { findings: 1 },
      },
    ]);
  });

  test.each([
    [`ARRAY[$1::bigint]`, `now() - interval '1 second'`, `'x'`, 'the end must lie in the future'],
    [`ARRAY[$1::bigint]`, `now() + interval '2 years'`, `'x'`, 'at most 1 year'],
    [`ARRAY[$1::bigint]`, `NULL`, `'x'`, 'the end must lie in the future'],
    [`ARRAY[$1::bigint]`, `now() + interval '1 hour'`, `' '`, 'the reason must be a text'],
    [`ARRAY[$1::bigint, 999999]`, `now() + interval '1 hour'`, `'x'`, 'there is no finding 999999'],
    [`ARRAY[$1::bigint, NULL]`, `now() + interval '1 hour'`, `'x'`, 'name 1 to 10000 findings'],
  ])('%s until %s for %s is refused: %s', async (findings, until, reason, message) => {
    const id = await addFinding();
    await expect(as('ann', `acknowledge(${findings}, ${until}, ${reason})`, [id])).rejects.toThrow(message);
    expect((await finding(id))?.status).toBe('open');
  });

  test('a resolved finding is refused, and the one beside it is left alone', async () => {
    const [open, resolved] = [await addFinding(), await addFinding({ status: 'resolved' })];
    await expect(
      as('ann', `acknowledge($1::bigint[], $2, 'x')`, [[open, resolved], tomorrow()]),
    ).rejects.toThrow(`${resolved} is resolved`);
    expect((await finding(open))?.status).toBe('open');
  });
});

describe('to waive', () => {
  test.each([
    [{ kind: 'duplicate' }, ['duplicate']],
    [{ cause: 'never_published' }, ['never_published']],
    [{ from: '2026-11-21T00:00:00Z' }, []],
    [{ to: '2026-11-21T00:00:00Z', currency: 'EUR' }, ['duplicate', 'never_published', 'unknown']],
    [{ published_hash: 'abc' }, []],
  ] as [object, string[]][])(
    'by %j ends what matches it now, and leaves the rest',
    async (filter, matching) => {
      const ids = {
        duplicate: await addFinding({ kind: 'duplicate' }),
        never_published: await addFinding(),
        unknown: await addFinding({ cause: 'unknown' }),
      };
      const waiver = await as('ann', `waive($1, $2::jsonb, $3, 'agreed with finance')`, [
        checkName,
        filter,
        tomorrow(),
      ]);
      for (const [name, id] of Object.entries(ids)) {
        const row = await finding(id);
        const waived = matching.includes(name);
        expect([name, row?.status, row?.waiver_id]).toEqual([
          name,
          waived ? 'waived' : 'open',
          waived ? waiver : null,
        ]);
      }
      expect(await audits()).toMatchObject([
        { actor: people.ann.name, action: 'waived', scope: { waiver: Number(waiver) } },
      ]);
    },
  );

  test('by keys takes these keys and no other that holds one of them', async () => {
    const id = await addFinding();
    const key = JSON.parse(String((await finding(id))?.key)) as string[];
    await postgres.query(`UPDATE counterfoil.discrepancies SET key = $2 WHERE id = $1`, [
      await addFinding(),
      JSON.stringify([...key, 'x']),
    ]);
    await as('ann', `waive($1, $2::jsonb, $3, 'x')`, [checkName, { keys: [key] }, tomorrow()]);
    expect(await postgres.query(`SELECT id FROM counterfoil.discrepancies WHERE status = 'waived'`)).toEqual([
      { id },
    ]);
  });

  test.each([
    [{}, 'at least one of'],
    [{ kind: 'orphans' }, 'the filter cannot be used: kind'],
    [{ sql: 'true' }, 'the filter cannot be used: sql'],
    [{ keys: ['s1'] }, 'the filter cannot be used: keys'],
    [{ from: 'soon' }, 'invalid input syntax'],
  ])('by %j is refused', async (filter, message) => {
    await expect(as('ann', `waive($1, $2::jsonb, $3, 'x')`, [checkName, filter, tomorrow()])).rejects.toThrow(
      message,
    );
    expect(await postgres.query('SELECT 1 FROM counterfoil.waivers')).toEqual([]);
  });

  test('of a check that is not there is refused, and a waiver ends once', async () => {
    await expect(as('ann', `waive('other', '{"kind":"orphan"}', $1, 'x')`, [tomorrow()])).rejects.toThrow(
      'no check other',
    );
    const waiver = await as('ann', `waive($1, '{"kind":"orphan"}', $2, 'x')`, [checkName, tomorrow()]);
    await as('ben', `end_waiver($1, 'mended')`, [waiver]);
    expect(await postgres.query('SELECT ended_by FROM counterfoil.waivers')).toEqual([
      { ended_by: people.ben.name },
    ]);
    await expect(as('ben', `end_waiver($1, 'again')`, [waiver])).rejects.toThrow('that has not ended');
  });
});

describe('to unpark', () => {
  const park = async (id: string, reason: string) =>
    await postgres.query(
      `INSERT INTO counterfoil.replay_events (event_id, event_name, event_created_at, status, parked_reason, parked_at,
                                              handler_attempts)
       VALUES ($1, 'n', now(), 'parked', $2, now(), 5)`,
      [id, reason],
    );

  test('makes events due with all their attempts; only a changed fact is overruled for good', async () => {
    await park('e1', 'attempts_exhausted');
    await park('e2', 'fact_changed');
    expect(await as('ann', `unpark(ARRAY['e1', 'e2'], 'the handler is mended')`)).toBe(2);
    expect(
      await postgres.query(
        'SELECT event_id, status, handler_attempts, match_waived FROM counterfoil.replay_events ORDER BY 1',
      ),
    ).toEqual([
      { event_id: 'e1', status: 'due', handler_attempts: 0, match_waived: false },
      { event_id: 'e2', status: 'due', handler_attempts: 0, match_waived: true },
    ]);
    expect(await audits()).toMatchObject([{ action: 'unparked', scope: { event_ids: ['e1', 'e2'] } }]);
  });

  test('an event that is not parked is refused, and so are the ones beside it', async () => {
    await park('e1', 'attempts_exhausted');
    await expect(as('ann', `unpark(ARRAY['e1', 'gone'], 'x')`)).rejects.toThrow(
      'no parked event, and none given to the outbox: gone',
    );
    expect(await postgres.query('SELECT status FROM counterfoil.replay_events')).toEqual([
      { status: 'parked' },
    ]);
  });
});

describe('to request', () => {
  test.each([
    ['replay', { event_ids: ['e1'] }, { event_ids: ['e1'] }],
    [
      'replay',
      { from: '2026-11-01T00:00:00+01:00', to: '2026-11-02T00:00:00Z', published_hash: 'abc' },
      { from: '2026-10-31T23:00:00.000000Z', to: '2026-11-02T00:00:00.000000Z', published_hash: 'abc' },
    ],
    ['verify', { published_hash: 'abc' }, { published_hash: 'abc' }],
  ])('a %s of %j is open at once, in the name of the login', async (kind, scope, stored) => {
    const id = await as('ann', `request($1, $2::jsonb, 'after the crash')`, [kind, scope]);
    expect(
      await postgres.query('SELECT id, kind, scope, status, requested_by FROM counterfoil.requests'),
    ).toEqual([{ id, kind, scope: stored, status: 'open', requested_by: people.ann.name }]);
    expect(await audits()).toMatchObject([{ actor: people.ann.name, action: `${kind} requested` }]);
  });

  test.each([
    ['delete', {}, 'one of replay, verify'],
    ['replay', { everything: true }, 'the scope of a replay must be'],
    ['replay', { event_ids: [] }, 'event_ids must be a list'],
    ['replay', { from: '2026-11-02T00:00:00Z', to: '2026-11-01T00:00:00Z' }, 'from must lie before to'],
    ['verify', { findings: [999999] }, 'there is no finding 999999'],
    [
      'rebuild',
      { from: '2026-11-01T00:00:00Z', to: '2026-11-02T00:00:00Z' },
      'the scope of a rebuild must be',
    ],
    ['correction', { findings: {} }, 'findings must be a list'],
  ])('a %s of %j is refused', async (kind, scope, message) => {
    await expect(as('ann', `request($1, $2::jsonb, 'x')`, [kind, scope])).rejects.toThrow(message);
    expect(await postgres.query('SELECT 1 FROM counterfoil.requests')).toEqual([]);
  });

  test('a rebuild is for missing bills, a correction for second and wrong ones', async () => {
    const [missing, duplicate, orphan] = [
      await addFinding(),
      await addFinding({ kind: 'duplicate' }),
      await addFinding({ kind: 'orphan' }),
    ];
    const ask = (kind: string, id: string) =>
      as('ann', `request($1, $2::jsonb, 'x')`, [kind, { findings: [id] }]);
    await expect(ask('rebuild', duplicate)).rejects.toThrow(`no rebuild can mend finding ${duplicate}`);
    await expect(ask('correction', missing)).rejects.toThrow(`no correction can mend finding ${missing}`);
    await expect(ask('correction', orphan)).rejects.toThrow(`no correction can mend finding ${orphan}`);
    await ask('rebuild', missing);
    await ask('correction', duplicate);
    expect(await postgres.query('SELECT kind, check_name FROM counterfoil.requests ORDER BY id')).toEqual([
      { kind: 'rebuild', check_name: checkName },
      { kind: 'correction', check_name: checkName },
    ]);
  });

  test('a correction keeps what was seen, and is not asked for twice at a time', async () => {
    const id = await addFinding({ kind: 'duplicate' });
    const scope = { findings: [Number(id)] };
    const request = await as('ann', `request('correction', $1::jsonb, 'billed twice')`, [scope]);
    const [row] = await postgres.query<{ scope: { seen: object[] } }>(
      'SELECT scope FROM counterfoil.requests',
    );
    expect(row?.scope.seen).toEqual([
      {
        finding: id,
        key: [`s${keys}`],
        kind: 'duplicate',
        expectedMinor: '1000',
        actualMinor: '2000',
        currency: 'EUR',
        ledgerRows: 2,
      },
    ]);
    await expect(as('ben', `request('correction', $1::jsonb, 'again')`, [scope])).rejects.toThrow(
      'has not ended',
    );
    await as('ben', `refuse($1, 'not now')`, [request]);
    await as('ben', `request('correction', $1::jsonb, 'again')`, [scope]);
  });
});

describe('to approve', () => {
  const ask = async (): Promise<{ request: unknown; id: string }> => {
    const id = await addFinding({ kind: 'amount' });
    return { id, request: await as('ann', `request('correction', $1::jsonb, 'x')`, [{ findings: [id] }]) };
  };

  test('another person approves a correction, once', async () => {
    const { request } = await ask();
    await as('ben', `approve($1, 'checked against the contract')`, [request]);
    expect(await postgres.query('SELECT requested_by, approved_by FROM counterfoil.requests')).toEqual([
      { requested_by: people.ann.name, approved_by: people.ben.name },
    ]);
    expect(await audits()).toMatchObject([{ actor: people.ben.name, action: 'correction approved' }]);
    await expect(as('ben', `approve($1, 'again')`, [request])).rejects.toThrow('waits for no approval');
  });

  test.each([
    ['', ''],
    ['SET ROLE counterfoil_people', 'RESET ROLE'],
  ])('nobody approves a correction of their own, also after "%s"', async (before, after) => {
    const { request } = await ask();
    await people.ann.client.query(before);
    await expect(as('ann', `approve($1, 'x')`, [request])).rejects.toThrow('is your own');
    await people.ann.client.query(after);
    expect(await postgres.query('SELECT approved_by FROM counterfoil.requests')).toEqual([
      { approved_by: null },
    ]);
  });

  test('a login cannot become another one', async () => {
    await expect(people.ann.client.query(`SET SESSION AUTHORIZATION ${people.ben.name}`)).rejects.toThrow(
      'permission denied',
    );
    await expect(people.ann.client.query(`SET ROLE ${people.ben.name}`)).rejects.toThrow('permission denied');
    await expect(people.ann.client.query('SET ROLE counterfoil_owner')).rejects.toThrow('permission denied');
  });

  test('even the table refuses an approver who is the requester in other letters', async () => {
    const { request } = await ask();
    await expect(
      postgres.query('UPDATE counterfoil.requests SET approved_by = upper(requested_by) WHERE id = $1', [
        request,
      ]),
    ).rejects.toThrow('requests_approver_is_another');
  });

  test('what has changed since the request is not approved', async () => {
    const { request, id } = await ask();
    await postgres.query('UPDATE counterfoil.discrepancies SET actual_minor = 3000 WHERE id = $1', [id]);
    await expect(as('ben', `approve($1, 'x')`, [request])).rejects.toThrow('has changed since');
  });

  test('a rebuild needs none, and what is not there or has been refused cannot get one', async () => {
    const rebuild = await as('ann', `request('rebuild', $1::jsonb, 'x')`, [
      { findings: [await addFinding()] },
    ]);
    await expect(as('ben', `approve($1, 'x')`, [rebuild])).rejects.toThrow('needs no approval');
    await expect(as('ben', `approve(999999, 'x')`)).rejects.toThrow('there is no request 999999');
    const { request } = await ask();
    await as('ann', `refuse($1, 'a mistake')`, [request]);
    await expect(as('ben', `approve($1, 'x')`, [request])).rejects.toThrow('is refused');
    await expect(as('ben', `refuse($1, 'x')`, [request])).rejects.toThrow('no open request');
  });
});

describe('to freeze and to release', () => {
  test('a freeze is made and released by name, once', async () => {
    const freeze = await as('ann', `freeze(now() + interval '1 hour', 'rollback')`);
    await as('ben', `release($1, 'rolled back')`, [freeze]);
    expect(await postgres.query('SELECT frozen_by, released_by FROM counterfoil.freezes')).toEqual([
      { frozen_by: people.ann.name, released_by: people.ben.name },
    ]);
    await expect(as('ben', `release($1, 'again')`, [freeze])).rejects.toThrow('no freeze');
    await expect(as('ann', `freeze(now() + interval '30 days', 'x')`)).rejects.toThrow('at most 7 days');
  });
});

describe('a login of counterfoil_people', () => {
  test('writes no table of ours', async () => {
    const tables = await postgres.query<{ name: string }>(
      `SELECT relname AS name FROM pg_class WHERE relnamespace = 'counterfoil'::regnamespace AND relkind = 'r'`,
    );
    for (const { name } of tables)
      for (const statement of [
        `INSERT INTO counterfoil.${name} DEFAULT VALUES`,
        `DELETE FROM counterfoil.${name}`,
        `TRUNCATE counterfoil.${name}`,
      ])
        await expect(people.ann.client.query(statement), statement).rejects.toMatchObject({ code: '42501' });
    expect(tables.length).toBeGreaterThan(12);
  });

  test.each([
    `UPDATE counterfoil.discrepancies SET status = 'waived'`,
    `INSERT INTO counterfoil.requests (kind, scope, reason, requested_by) VALUES ('correction', '{}', 'x', 'ben')`,
    `UPDATE counterfoil.requests SET approved_by = 'ben'`,
    `SELECT counterfoil.audit_decision('x', 'x', NULL, NULL, '{}', '{}')`,
    `SELECT counterfoil.lock_findings(ARRAY[1], ARRAY['open'], 1)`,
    `SELECT counterfoil.correction_facts(ARRAY[1])`,
    `SELECT * FROM public.sessions`,
    `SELECT payload FROM public.event_backups`,
    `CREATE TABLE counterfoil.own ()`,
  ])('is refused by Postgres: %s', async (statement) => {
    await expect(people.ann.client.query(statement)).rejects.toMatchObject({ code: '42501' });
  });

  test('reads what it decides about', async () => {
    const { rows } = await people.ann.client.query(
      'SELECT count(*)::integer AS findings FROM counterfoil.discrepancies',
    );
    expect(rows).toEqual([{ findings: 0 }]);
  });

  test('cannot slip a table of its own under a function', async () => {
    const id = await addFinding();
    await people.ann.client.query('CREATE TEMPORARY TABLE audit (LIKE counterfoil.audit)');
    await people.ann.client.query('CREATE TEMPORARY TABLE discrepancies (LIKE counterfoil.discrepancies)');
    await people.ann.client.query(`SET search_path = pg_temp, counterfoil`);
    await as('ann', `acknowledge(ARRAY[$1::bigint], $2, 'temporary')`, [id, tomorrow()]);
    await people.ann.client.query('RESET search_path; DROP TABLE pg_temp.audit, pg_temp.discrepancies');
    expect((await finding(id))?.status).toBe('acknowledged');
    expect(await audits()).toMatchObject([{ reason: 'temporary' }]);
  });

  test('everybody else may call none of the functions', async () => {
    const functions = await postgres.query<{
      name: string;
      public: boolean;
      definer: boolean;
      path: string[] | null;
    }>(
      `SELECT p.oid::regprocedure::text AS name, p.prosecdef AS definer, p.proconfig AS path,
              EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) AS a WHERE a.grantee = 0) AS public
         FROM pg_proc AS p WHERE p.pronamespace = 'counterfoil'::regnamespace`,
    );
    expect(functions.filter((one) => one.public)).toEqual([]);
    const definers = functions.filter((one) => one.definer);
    expect(definers.length).toBe(9);
    for (const { name, path } of definers)
      expect([name, path]).toEqual([name, ['search_path=counterfoil, pg_temp']]);
  });
});
