/** The whole business flow through the real service, with each of its faults, and killed at every step. */
import { createServer, request, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { flowProbeJob } from '../../jobs/flow-probe/job.ts';
import { type ServiceProcess, startService } from '../../reference-service/src/testing/service-process.ts';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { startJob } from '../builders/process.ts';
import { emptyTables, findingsOf, reconcile } from '../builders/reconciliation.ts';
import { run } from '../builders/run.ts';
import { waitFor } from '../builders/wait-for.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';

const MARK = 'counterfoil-probe';
/** Counts the probe as any other session. */
const counting = sessionBilling({ grace: '1s' });
/** Leaves the probe out of reconciliation, as the README of flow-probe shows. */
const leavingOut = (() => {
  const where = [{ column: 'mentor_id', op: 'ne', value: MARK }];
  return { ...counting, facts: { ...counting.facts, where }, ledger: { ...counting.ledger, where } };
})();

let database: TestDatabase;
let service: ServiceProcess;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startService(database.url, { LISTENER_LEASE_SECONDS: '1' });
});
afterEach(async () => {
  await service.disarm();
  await database.query('TRUNCATE contracts CASCADE');
  await emptyTables(database);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

const environment = (changes: Readonly<Record<string, string>> = {}) => ({
  DATABASE_URL: database.urlAs('counterfoil_jobs'),
  CF_PROBE_URL: service.url,
  CF_CHECKS_FILE: checksFile(counting),
  CF_PROBE_BILL_SECONDS: '10',
  CF_PROBE_POLL_MILLISECONDS: '50',
  CF_PROBE_SETTLE_SECONDS: '0',
  ...changes,
});
const probe = async (changes: Readonly<Record<string, string>> = {}) =>
  await run(flowProbeJob, environment(changes));
const probeAsGate = async (changes: Readonly<Record<string, string>> = {}) =>
  await probe({ CF_EXIT_ON_FINDINGS: 'true', ...changes });

const bills = async () =>
  await database.query<{ amount: string; mentor_id: string }>(
    'SELECT amount_minor::text AS amount, mentor_id FROM mentor_payable_ledgers',
  );
const faultsOf = ({ lines }: Awaited<ReturnType<typeof run>>) =>
  (lines.find(({ faults }) => faults !== undefined)?.faults ?? []) as { fault: string; event?: string }[];
/** Nothing more will come of what was published. */
const settled = async () =>
  await waitFor('no event is pending', async () => {
    const rows = await database.query(`SELECT FROM event_backups WHERE status = 'pending'`);
    return rows.length === 0;
  });
/** Half an hour older than they are: nobody waits for the grace of a check. */
const age = async () => {
  await database.query(`UPDATE sessions SET completed_at = completed_at - interval '30 minutes'`);
  await database.query(`UPDATE mentor_payable_ledgers SET created_at = created_at - interval '30 minutes'`);
  await database.query(`UPDATE event_backups SET created_at = created_at - interval '30 minutes'`);
};
/** What two looks of reconciliation find. */
const found = async (check: object) => {
  await age();
  for (const mode of ['full', 'tail'])
    await reconcile(database, { CF_MODE: mode, CF_CHECKS_FILE: checksFile(check) });
  return (await findingsOf(database)).map(({ kind, cause, status }) => `${status} ${kind} ${cause}`);
};

describe('on a healthy service', () => {
  test('the flow is taken and billed once, and the run says how long each step took', async () => {
    const end = await probe();
    expect(end.exitCode, end.log).toBe(0);
    expect(end.outcome).toBe('succeeded');
    expect(await bills()).toEqual([{ amount: '107', mentor_id: MARK }]);
    const steps = [
      'create_contract',
      'activate_contract',
      'consume_service',
      'create_session',
      'complete_session',
    ];
    const [recorded] = await database.query<{ mode: string; counts: Record<string, number> }>(
      'SELECT mode, counts FROM counterfoil.job_runs',
    );
    expect(recorded?.mode).toBe('probe');
    for (const step of steps) {
      expect(recorded?.counts).toMatchObject({
        [`step_${step}_ok`]: 1,
        [`step_${step}_ms`]: expect.any(Number),
      });
    }
    expect(recorded?.counts).toMatchObject({
      bill_right: 1,
      ledger_rows: 1,
      amount_measured: 1,
      events_judged: 4,
    });
    expect(
      end.lines.filter(({ msg }) => msg === 'a step of the flow was taken').map(({ step }) => step),
    ).toEqual(steps.map((step) => step.replaceAll('_', '-')));
    expect(await probeAsGate()).toMatchObject({ exitCode: 0, outcome: 'succeeded' });
    expect(await bills()).toHaveLength(2);
  });

  test('reconciliation has nothing to say of the probe, whether its check counts it or leaves it out', async () => {
    expect(await probe()).toMatchObject({ exitCode: 0 });
    expect(await found(counting)).toEqual([]);
    await emptyTables(database);
    // The check leaves its rows out, and the probe sees its own bill all the same.
    expect(await probe({ CF_CHECKS_FILE: checksFile(leavingOut) })).toMatchObject({ exitCode: 0 });
    expect(await found(leavingOut)).toEqual([]);
    const [window] = await database.query<{ facts: string }>(
      `SELECT sum(rows)::text AS facts FROM counterfoil.reconciliation_windows`,
    );
    expect(window?.facts).toBe('0');
  });

  test('a second attempt of the same run makes nothing twice, and another run makes a flow of its own', async () => {
    const seed = { CF_PROBE_SEED: 'flow-probe-29401440' };
    expect(await probe(seed)).toMatchObject({ exitCode: 0 });
    const again = await probe(seed);
    expect(again.exitCode, again.log).toBe(0);
    expect(await bills()).toHaveLength(1);
    expect(await probe({ CF_PROBE_SEED: 'flow-probe-29401680' })).toMatchObject({ exitCode: 0 });
    expect(await bills()).toHaveLength(2);
  });

  test('the built-in check names no amount: that is said, and not taken for right', async () => {
    const { CF_CHECKS_FILE: _, ...rest } = environment();
    const end = await run(flowProbeJob, rest);
    expect(end).toMatchObject({ exitCode: 0, counts: { bill_right: 1, amount_measured: 0 } });
    await service.arm('bill_wrong');
    expect(await run(flowProbeJob, rest)).toMatchObject({ exitCode: 0, counts: { amount_measured: 0 } });
  });

  test('a freeze keeps it from sending anything: 0 for a schedule, 4 for a gate', async () => {
    await database.query(
      `INSERT INTO counterfoil.freezes (reason, frozen_until) VALUES ('test', now() + interval '1 hour')`,
    );
    try {
      expect(await probe()).toMatchObject({ exitCode: 0, outcome: 'skipped' });
      expect(await probeAsGate()).toMatchObject({ exitCode: 4, outcome: 'skipped' });
      expect(await database.query('SELECT FROM contracts')).toEqual([]);
    } finally {
      await database.query('UPDATE counterfoil.freezes SET released_at = now()');
    }
  });
});

describe('on a service that does wrong', () => {
  const short = { CF_PROBE_BILL_SECONDS: '1' };

  test.each([
    ['lose', {}, 'bill_missing', 'event_lost'],
    ['fail', {}, 'bill_missing', 'event_failed'],
    ['slow', { ms: 3_000 }, 'bill_missing', 'event_running'],
    ['skip_backup', {}, 'bill_missing', 'event_never_written'],
  ])(
    '%s: exit 3 for a gate and 1 for a schedule, with what became of the event',
    async (fault, more, ...faults) => {
      await service.arm(fault, more);
      const gate = await probeAsGate(short);
      expect(gate.exitCode, gate.log).toBe(3);
      expect(faultsOf(gate)[0]).toEqual({ fault: faults[0] });
      expect(faultsOf(gate)).toContainEqual({ fault: faults[1], event: 'services.session.completed.v1' });
      expect(gate.counts).toMatchObject({ bill_right: 0, ledger_rows: 0 });
      const scheduled = await probe(short);
      expect(scheduled.exitCode, scheduled.log).toBe(1);
      expect(await lastRun()).toMatchObject({ outcome: 'failed', failure_id: 'probe_bill_wrong' });
      await service.disarm();
      if (fault === 'slow') await settled();
    },
  );

  test.each([
    ['bill_twice', 'bill_duplicate'],
    ['bill_wrong', 'bill_amount'],
  ])(
    '%s: exit 3 for a gate and 1 for a schedule, and nothing is said of the event',
    async (fault, expected) => {
      // The second bill is a statement of its own: a look between the two takes the first for right, and looks again.
      const settling = { ...short, CF_PROBE_SETTLE_SECONDS: '3' };
      await service.arm(fault);
      const gate = await probeAsGate(settling);
      expect(gate.exitCode, gate.log).toBe(3);
      expect(faultsOf(gate)).toEqual([{ fault: expected }]);
      expect(await probe(settling)).toMatchObject({ exitCode: 1 });
    },
  );

  test('a bill that comes late, and still in time, is right', async () => {
    await service.arm('slow', { ms: 1_000 });
    expect(await probeAsGate({ CF_PROBE_BILL_SECONDS: '20' })).toMatchObject({ exitCode: 0 });
  });

  test('a second bill that comes right behind the first is seen by the look after it', async () => {
    const billing = probeAsGate({ CF_PROBE_SETTLE_SECONDS: '2', CF_PROBE_BILL_SECONDS: '20' });
    await waitFor('the run has seen one bill', async () => {
      const rows = await database.query(
        `SELECT FROM counterfoil.job_runs WHERE outcome = 'running' AND counts ->> 'ledger_rows' = '1'`,
      );
      return rows.length === 1;
    });
    await database.query(
      `INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
       SELECT session_id, mentor_id, amount_minor, currency, 'again' FROM mentor_payable_ledgers`,
    );
    const end = await billing;
    expect(end.exitCode, end.log).toBe(3);
    expect(faultsOf(end)).toEqual([{ fault: 'bill_duplicate' }]);
  });
});

const lastRun = async () =>
  (
    await database.query<Record<string, unknown>>(
      'SELECT outcome, failure_id, message, counts FROM counterfoil.job_runs ORDER BY started_at DESC LIMIT 1',
    )
  )[0];

/** Stands before the service and stops the flow at one step: before it reaches the service, or before its answer comes back. */
async function stopAt(
  step: number,
  when: 'before' | 'after',
): Promise<{ url: string; reached: Promise<void>; close(): Promise<void> }> {
  let seen = 0;
  let reach = () => {};
  const reached = new Promise<void>((resolve) => {
    reach = resolve;
  });
  const server: Server = createServer((incoming, outgoing) => {
    seen += 1;
    const stops = seen === step;
    if (stops && when === 'before') return reach();
    const forwarded = request(
      `${service.url}${incoming.url}`,
      { method: incoming.method, headers: incoming.headers },
      (answer) => {
        if (stops) {
          answer.resume();
          answer.on('end', reach);
          return;
        }
        outgoing.writeHead(answer.statusCode ?? 500, answer.headers);
        answer.pipe(outgoing);
      },
    );
    incoming.pipe(forwarded);
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    reached,
    close: async () => {
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

const STEPS = 5;
const kills = Array.from({ length: STEPS }, (_, index) => index + 1).flatMap((step) => [
  [step, 'before'] as const,
  [step, 'after'] as const,
]);

describe('a probe that is killed', () => {
  test.each(kills)(
    'at step %i, %s the service has taken it, leaves nothing for reconciliation, and its next attempt ends well',
    async (step, when) => {
      const gate = await stopAt(step, when);
      const seed = { CF_PROBE_SEED: `killed-${step}-${when}` };
      const job = startJob('jobs/flow-probe/main.ts', environment({ ...seed, CF_PROBE_URL: gate.url }));
      try {
        await gate.reached;
      } finally {
        job.process.kill('SIGKILL');
        await job.ended;
        await gate.close();
      }
      await settled();
      const billed = step === STEPS && when === 'after' ? 1 : 0;
      expect(await bills()).toHaveLength(billed);
      expect(await found(counting)).toEqual([]);
      const end = await probe(seed);
      expect(end.exitCode, end.log).toBe(0);
      expect(await bills()).toHaveLength(1);
    },
  );

  test('after a service lost its event is one finding of a check that counts it, and none of one that leaves it out', async () => {
    await service.arm('lose');
    const gate = await stopAt(STEPS, 'after');
    const job = startJob('jobs/flow-probe/main.ts', environment({ CF_PROBE_URL: gate.url }));
    try {
      await gate.reached;
    } finally {
      job.process.kill('SIGKILL');
      await job.ended;
      await gate.close();
    }
    expect(await found(counting)).toEqual(['open missing event_pending']);
    await database.query(
      'TRUNCATE counterfoil.discrepancies, counterfoil.reconciliation_windows, counterfoil.checks, counterfoil.waivers',
    );
    expect(await found(leavingOut)).toEqual([]);
  });

  test('told to stop while it waits, it ends as partial: 0 for a schedule, 4 for a gate', async () => {
    await service.arm('lose');
    for (const [onFindings, code] of [
      ['false', 0],
      ['true', 4],
    ] as const) {
      await database.query('TRUNCATE event_backups CASCADE');
      const job = startJob(
        'jobs/flow-probe/main.ts',
        environment({ CF_PROBE_BILL_SECONDS: '60', CF_EXIT_ON_FINDINGS: onFindings }),
      );
      await waitFor('the session is completed', async () => {
        const rows = await database.query(
          `SELECT FROM event_backups WHERE event_name = 'services.session.completed.v1'`,
        );
        return rows.length > 0;
      });
      job.process.kill('SIGTERM');
      expect(await job.ended).toMatchObject({ code });
      expect(await lastRun()).toMatchObject({ outcome: 'partial' });
    }
  });
});

describe('a service that does not answer as declared', () => {
  test('is exit 1, also for a gate, and the log names step and status and nothing of the answer', async () => {
    const server = createServer((_, answer) => {
      answer.writeHead(500, { 'content-type': 'application/json' });
      answer.end(JSON.stringify({ message: 'a secret of the service' }));
    });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    try {
      const CF_PROBE_URL = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
      const end = await probeAsGate({ CF_PROBE_URL });
      expect(end.exitCode).toBe(1);
      expect(end.log).toContain('"step":"create-contract","status":500');
      expect(end.log).not.toContain('secret');
      expect(await lastRun()).toMatchObject({
        outcome: 'failed',
        failure_id: 'probe_failed',
        message: 'the step create-contract was answered with 500 where 201 or 409 is expected',
        counts: { step_create_contract_ok: 0 },
      });
    } finally {
      server.close();
    }
  });

  test('that is not there, or too slow, is exit 1 with a code', async () => {
    expect(await probe({ CF_PROBE_URL: 'http://127.0.0.1:1' })).toMatchObject({
      exitCode: 1,
      message: 'the step create-contract was not answered (ECONNREFUSED)',
    });
    const gate = await stopAt(1, 'before');
    try {
      expect(await probe({ CF_PROBE_URL: gate.url, CF_PROBE_STEP_SECONDS: '1' })).toMatchObject({
        exitCode: 1,
        message: 'the step create-contract was not answered (timeout)',
      });
    } finally {
      await gate.close();
    }
  });
});
