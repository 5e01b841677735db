/**
 * The main job from one command: a real Postgres, a real service that is killed in the middle of its work, and the
 * same job processes that the CronJobs run. What was planted is compared with what was found, id by id.
 */
import { readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { parseArgs, styleText } from 'node:util';
import { Client } from 'pg';
import { $ } from 'zx';
import { type Discrepancy, LEAST_FACTS, listPlanted, plant } from './demo-data.ts';
import { type Monitoring, startMonitoring } from './demo-monitoring.ts';
import { type RunningService, slowHandlers, startLoad, startService } from './demo-service.ts';
import { type EmbeddedPostgres, startEmbeddedPostgres } from './embedded-postgres.ts';
import { createProgress } from './progress.ts';

const help = `Loses events and breaks bills on a real database, and watches them being found and mended.

  npm run demo [-- options]

  --facts N   completed sessions to begin with (default 200000, at least ${LEAST_FACTS})
  --json      the last line of standard output is the result as one JSON object
  --keep      leaves the database and the service running, with the exporter and a Prometheus where one is installed,
              and says how to look around
  --help
`;

const endSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
const CALLERS = 16;
/** The crash comes once this many sessions were completed under load. */
const COMPLETIONS_BEFORE_CRASH = 600;
/** A few bills are mended first; the rest follows once a look has shown that they stand, and nothing new is wrong. */
const REPAIR_ROUNDS = 2;
const ROLE_PASSWORD = 'demo';
const REPLAY_TOKEN = 'demo-token';

interface DemoResult {
  readonly facts: number;
  readonly planted: Record<string, number>;
  readonly found: Record<string, number>;
  readonly missed: number;
  readonly falselyFound: number;
  readonly replayed: number;
  readonly rebuilt: number;
  readonly parked: number;
  readonly openAfter: number;
  readonly forAPerson: Record<string, number>;
  readonly lost: number;
  readonly billedTwice: number;
  readonly seconds: number;
}

const path = (name: string) => fileURLToPath(new URL(`../${name}`, import.meta.url));
const nameOf = (discrepancy: Discrepancy) =>
  discrepancy.cause === '' ? discrepancy.kind : `${discrepancy.kind}/${discrepancy.cause}`;
const keyOf = (discrepancy: Discrepancy) => `${nameOf(discrepancy)} ${discrepancy.id}`;

function countByName(discrepancies: readonly Discrepancy[]): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const discrepancy of discrepancies) {
    counts[nameOf(discrepancy)] = (counts[nameOf(discrepancy)] ?? 0) + 1;
  }
  return counts;
}

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      facts: { type: 'string', default: '200000' },
      json: { type: 'boolean', default: false },
      keep: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const facts = Number(options.facts);
  if (!Number.isInteger(facts) || facts < LEAST_FACTS) {
    process.stderr.write(`--facts must be a whole number of at least ${LEAST_FACTS}\n`);
    return 2;
  }
  const startedAt = Date.now();
  // An end by exit() takes server and service along; one by the signal itself would leave them behind.
  const end = () => process.exit(130);
  for (const signal of endSignals) process.once(signal, end);
  const progress = createProgress(7);
  let server: EmbeddedPostgres | undefined;
  let service: RunningService | undefined;
  let client: Client | undefined;
  try {
    server = await progress.step('starting a real Postgres', () => startEmbeddedPostgres());
    const admin = server.url;
    client = new Client({ connectionString: admin });
    await client.connect();
    const roleUrl = (role: string) => admin.replace(/\/\/[^@]+@/, `//${role}:${ROLE_PASSWORD}@`);
    await progress.step('making the tables of the service and the state schema', () =>
      createTables(client as Client, roleUrl),
    );
    await progress.step(`writing ${facts.toLocaleString('en')} sessions, with faults planted`, (report) =>
      plant(client as Client, facts, report),
    );
    const serviceOptions = { databaseUrl: admin, replayToken: REPLAY_TOKEN };
    const crashed = await progress.step(
      'running the service under load, and killing it at work',
      async (report) => {
        const first = await startService({ ...serviceOptions, podName: 'demo-1' });
        service = first;
        await slowHandlers(first, REPLAY_TOKEN, { rate: 0.2, ms: 400, forSeconds: 60 });
        const load = startLoad(first, CALLERS);
        while (load.completed() < COMPLETIONS_BEFORE_CRASH) {
          await Promise.race([delay(10), load.ended]);
          report(load.completed() / COMPLETIONS_BEFORE_CRASH);
        }
        await first.kill();
        await load.ended;
        service = await startService({ ...serviceOptions, podName: 'demo-2' });
        return await cutOff(client as Client);
      },
    );
    const planted = [...(await listPlanted(client, facts)), ...crashed];
    const jobEnvironment = {
      PATH: process.env.PATH ?? '',
      DATABASE_URL: roleUrl('counterfoil_jobs'),
      CF_INSTALLATION: 'demo',
      CF_CHECKS_FILE: path('scripts/demo-checks.yaml'),
    };
    const reconcile = (mode: string, repair: Record<string, string> = {}) =>
      runJob('billing-reconciliation', { ...jobEnvironment, CF_MODE: mode, ...repair });
    const found = await progress.step(
      'reconciling: looking at everything, then looking again',
      async (report) => {
        await delay(1_500); // the grace of the demo's check, so that the last sessions before the crash have settled
        await reconcile('full');
        report(0.7);
        await reconcile('tail');
        return await listOpen(client as Client);
      },
    );
    const after = await progress.step(
      'replaying what was lost, rebuilding what was never sent',
      async (report) => {
        for (let round = 1; round <= REPAIR_ROUNDS; round += 1) {
          await reconcile('tail', { CF_REPAIR: 'true', CF_REPAIR_LIMIT: '1000' });
          await runJob('event-replay', {
            PATH: process.env.PATH ?? '',
            DATABASE_URL: roleUrl('counterfoil_jobs'),
            CF_INSTALLATION: 'demo',
            CF_CHECKS_FILE: path('scripts/demo-checks.yaml'),
            CF_MODE: 'once',
            CF_GRACE_SECONDS: '1',
            CF_REPLAY_URL: `${service?.url}/admin/events/replay`,
            CF_REPLAY_TOKEN: REPLAY_TOKEN,
            CF_REASON: 'demo',
          });
          report(round / (REPAIR_ROUNDS + 1));
        }
        await reconcile('tail');
        return await listOpen(client as Client);
      },
    );
    const result = await progress.step('comparing with what was planted', async () =>
      judge(client as Client, { facts, planted, crashed, found, after, startedAt }),
    );
    process.stdout.write(
      report(result, mendedByName(found, after), crashed.length, process.stdout.isTTY === true),
    );
    if (options.json) process.stdout.write(`${JSON.stringify(result)}\n`);
    for (const signal of endSignals) process.off(signal, end);
    if (options.keep) await keep(server, service, roleUrl);
    return result.missed + result.falselyFound + result.openAfter + result.lost + result.billedTwice === 0
      ? 0
      : 1;
  } finally {
    await client?.end();
    await service?.stop();
    await server?.stop();
  }
}

/** The service's tables by its own SQL, our roles and grants as documented, our schema by the schema job. */
async function createTables(client: Client, roleUrl: (role: string) => string): Promise<void> {
  for (const name of [
    'reference-service/sql/schema.sql',
    'nestjs/sql/event_backups.sql',
    'nestjs/sql/event_deliveries.sql',
    'jobs/schema/roles.sql',
  ]) {
    await client.query(readFileSync(path(name), 'utf8'));
  }
  for (const role of ['counterfoil_owner', 'counterfoil_jobs', 'counterfoil_exporter']) {
    await client.query(`ALTER ROLE ${role} LOGIN PASSWORD '${ROLE_PASSWORD}'`);
  }
  await client.query('GRANT pg_read_all_stats TO counterfoil_jobs');
  await runJob('schema', { PATH: process.env.PATH ?? '', DATABASE_URL: roleUrl('counterfoil_owner') });
}

/** Runs a job as its CronJob would: its own process, told by its environment alone. */
async function runJob(job: string, environment: Record<string, string>): Promise<void> {
  const run = await $({
    env: environment,
    quiet: true,
    nothrow: true,
    // Not a socket: bash takes one for a remote login and reads the user's .bashrc.
    stdio: ['ignore', 'pipe', 'pipe'],
  })`node ${path(`jobs/${job}/main.ts`)}`;
  if (run.exitCode !== 0)
    throw new Error(`jobs/${job} ended with ${run.exitCode}:\n${run.stdout.slice(-2_000)}${run.stderr}`);
}

/** Sessions that the service completed and never billed: what the crash cut off. Read without any of our code. */
async function cutOff(client: Client): Promise<Discrepancy[]> {
  const rows = await client.query<{ id: string }>(
    `SELECT s.id FROM sessions s
      WHERE s.contract_id = 'contract-live' AND s.completed_at IS NOT NULL
        AND NOT EXISTS (SELECT FROM mentor_payable_ledgers l WHERE l.session_id = s.id)`,
  );
  return rows.rows.map(({ id }) => ({ id, kind: 'missing', cause: 'event_pending' }));
}

async function listOpen(client: Client): Promise<Discrepancy[]> {
  const rows = await client.query<Discrepancy>(
    `SELECT key::jsonb ->> 0 AS id, kind, coalesce(cause, '') AS cause
       FROM counterfoil.discrepancies WHERE status = 'open'`,
  );
  return rows.rows;
}

interface Evidence {
  readonly facts: number;
  readonly planted: readonly Discrepancy[];
  readonly crashed: readonly Discrepancy[];
  readonly found: readonly Discrepancy[];
  readonly after: readonly Discrepancy[];
  readonly startedAt: number;
}

async function judge(client: Client, evidence: Evidence): Promise<DemoResult> {
  const plantedKeys = new Set(evidence.planted.map(keyOf));
  const foundKeys = new Set(evidence.found.map(keyOf));
  const forMachine = new Set(
    [...(await listPlanted(client, evidence.facts, { mendedByMachine: true })), ...evidence.crashed].map(
      ({ id }) => id,
    ),
  );
  const [events] = (
    await client.query<{ replayed: number; rebuilt: number; parked: number }>(
      `SELECT count(*) FILTER (WHERE status = 'done')::integer AS replayed,
              (SELECT count(*) FROM counterfoil.request_items i JOIN counterfoil.requests r ON r.id = i.request_id
                WHERE r.kind = 'rebuild' AND i.status = 'done')::integer AS rebuilt,
              count(*) FILTER (WHERE status = 'parked')::integer AS parked
         FROM counterfoil.replay_events`,
    )
  ).rows;
  // From the service's tables alone, whatever the jobs say: what a machine may mend must be billed, and no session
  // may have a second live bill but those that were planted with one.
  const [bills] = (
    await client.query<{ lost: number; billed_twice: number }>(
      `SELECT (SELECT count(*) FROM sessions s
                WHERE s.completed_at IS NOT NULL AND (s.contract_id = 'contract-live' OR s.id = ANY ($1::uuid[]))
                  AND NOT EXISTS (SELECT FROM mentor_payable_ledgers l WHERE l.session_id = s.id))::integer AS lost,
              (SELECT count(*)
                 FROM (SELECT session_id FROM mentor_payable_ledgers l
                        WHERE l.reverses_id IS NULL
                          AND NOT EXISTS (SELECT FROM mentor_payable_ledgers r WHERE r.reverses_id = l.id)
                        GROUP BY session_id HAVING count(*) > 1) AS twice
                WHERE session_id <> ALL ($2::uuid[]))::integer AS billed_twice`,
      [[...forMachine], evidence.planted.filter(({ kind }) => kind === 'duplicate').map(({ id }) => id)],
    )
  ).rows;
  return {
    facts: evidence.facts,
    planted: countByName(evidence.planted),
    found: countByName(evidence.found),
    missed: [...plantedKeys].filter((key) => !foundKeys.has(key)).length,
    falselyFound: [...foundKeys].filter((key) => !plantedKeys.has(key)).length,
    replayed: events?.replayed ?? 0,
    rebuilt: events?.rebuilt ?? 0,
    parked: events?.parked ?? 0,
    openAfter: evidence.after.filter(({ id }) => forMachine.has(id)).length,
    forAPerson: countByName(evidence.after.filter(({ id }) => !forMachine.has(id))),
    lost: bills?.lost ?? -1,
    billedTwice: bills?.billed_twice ?? -1,
    seconds: Math.round((Date.now() - evidence.startedAt) / 100) / 10,
  };
}

const plainNames: Readonly<Record<string, string>> = {
  'missing/event_pending': 'Not billed: the event was lost on its way',
  'missing/event_parked': 'Not billed: the event was given up on',
  'missing/processed_without_ledger': 'Not billed although the event was handled',
  'missing/never_published': 'Not billed: no event was ever written',
  'missing/unknown': 'Not billed: too old to tell why',
  duplicate: 'Billed more than once',
  amount: 'Billed a wrong amount',
  orphan: 'A bill without a session',
};

/** How many of the discrepancies found, by the name they were found under, are settled now. */
function mendedByName(found: readonly Discrepancy[], after: readonly Discrepancy[]): Record<string, number> {
  // By id and kind alone: an event that replay had to park has another cause by now, and is not mended.
  const standing = new Set(after.map(({ id, kind }) => `${kind} ${id}`));
  return countByName(found.filter(({ id, kind }) => !standing.has(`${kind} ${id}`)));
}

/** The table at the end: what was broken, what was noticed, what mended itself, what waits for a person. */
function report(
  result: DemoResult,
  mended: Record<string, number>,
  crashed: number,
  colour: boolean,
): string {
  const paint = (style: Parameters<typeof styleText>[0], text: string) =>
    colour ? styleText(style, text) : text;
  const heads = ['What went wrong', 'broken', 'found', 'mended', 'for a person'];
  const names = Object.keys(plainNames).filter(
    (name) => (result.planted[name] ?? 0) + (result.found[name] ?? 0) > 0,
  );
  const rows = names.map((name) => {
    const found = result.found[name] ?? 0;
    return [
      plainNames[name] ?? name,
      result.planted[name] ?? 0,
      found,
      mended[name] ?? 0,
      found - (mended[name] ?? 0),
    ];
  });
  const totalMended = Object.values(mended).reduce((total, count) => total + count, 0);
  const sum = (column: number) => rows.reduce((total, row) => total + Number(row[column] ?? 0), 0);
  rows.push(['Together', sum(1), sum(2), sum(3), sum(4)]);
  const line = (cells: readonly (string | number)[]) =>
    cells
      .map((cell, column) => (column === 0 ? String(cell).padEnd(42) : String(cell).padStart(14)))
      .join('')
      .trimEnd();
  const good =
    result.missed + result.falselyFound + result.openAfter + result.lost + result.billedTwice === 0;
  return [
    '',
    paint('bold', line(heads)),
    ...rows.slice(0, -1).map(line),
    paint('bold', line(rows.at(-1) ?? [])),
    '',
    `Of ${result.facts.toLocaleString('en')} sessions, and those completed live until the service was killed (${crashed} events cut off):`,
    `  overlooked ${result.missed}, false alarms ${result.falselyFound}, lost for good ${result.lost}, billed twice by the repair ${result.billedTwice}.`,
    `  ${result.replayed} events were delivered again and ${result.rebuilt} made anew from their sessions: ${totalMended} bills were written, and`,
    `  ${result.replayed + result.rebuilt - totalMended} events had been billed already but not marked, so the service returned the same bill.`,
    `  ${result.parked} events are parked with their reason: taking them up again is a person's decision, as is an orphan or a bill too old`,
    '  to explain. A second or wrong bill is reversed after one person has asked for it and another has approved.',
    good
      ? paint(['bold', 'green'], `Everything that needs no person is mended. It took ${result.seconds} s.`)
      : paint(['bold', 'red'], 'The net has a hole: see the figures above.'),
    '',
  ].join('\n');
}

/** Starts what shows it, and waits for Ctrl-C with everything running. */
async function keep(
  server: EmbeddedPostgres,
  service: RunningService | undefined,
  roleUrl: (role: string) => string,
): Promise<void> {
  // From here on Ctrl-C is how it ends, also while the monitoring starts.
  const ended = new Promise<void>((resolve) => {
    for (const signal of endSignals) process.once(signal, () => resolve());
  });
  const monitoring = await startMonitoring({
    databaseUrl: roleUrl('counterfoil_exporter'),
    installation: 'demo',
    checksFile: path('scripts/demo-checks.yaml'),
    serviceUrl: service?.url,
  });
  process.stdout.write(
    [
      'Still running; Ctrl-C ends it.',
      `  database   psql '${server.url}'`,
      `  findings   SELECT kind, cause, status, count(*) FROM counterfoil.discrepancies GROUP BY 1, 2, 3;`,
      `  service    ${service?.url}/docs`,
      `  status     DATABASE_URL='${roleUrl('counterfoil_jobs')}' CF_INSTALLATION=demo npm run --silent status`,
      ...placesToLook(monitoring),
      '',
    ].join('\n'),
  );
  await ended;
  await monitoring.stop();
}

function placesToLook({ exporterUrl, prometheusUrl }: Monitoring): string[] {
  const metrics = `  metrics    ${exporterUrl}/metrics`;
  if (prometheusUrl === undefined)
    return [metrics, '  alerts     with a Prometheus on PATH, such as from apt-get install prometheus'];
  return [
    metrics,
    `  alerts     ${prometheusUrl}/alerts (nobody runs the jobs on a schedule here, so some fire for that)`,
    `  dashboards dashboards/built, imported into a Grafana with ${prometheusUrl} as data source; how they look: docs/dashboards.md`,
  ];
}

try {
  process.exitCode = await main();
} catch (error) {
  if (String((error as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS')) {
    process.stderr.write(`${(error as Error).message}\n\n${help}`);
    process.exitCode = 2;
  } else {
    process.stderr.write(`the demo could not go on: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
