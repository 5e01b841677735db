/** The login of one role: it is let in, finds the state schema, may do what its job does, and not more. */
import { type InspectedCheck, inspectCheck, inspectEvents } from '../checks/inspect.ts';
import { readChecks } from '../checks/parse.ts';
import { zoneExists } from '../checks/window-sql.ts';
import type { Transaction } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { checkSchemaVersion } from '../runtime/schema-level.ts';
import type { WiringContext } from './env.ts';
import type { Attempt } from './job.ts';
import { missingRights, type Right, readLogin, writableTables } from './queries.ts';

type Role = WiringContext['settings']['CF_ROLE'];

/** One right for each thing that a role does with the state schema; jobs/schema/grants.sql has them all. */
const rights: Readonly<Record<Role, readonly Right[]>> = {
  owner: [],
  jobs: [
    ['job_runs', 'INSERT'],
    ['discrepancies', 'UPDATE'],
    ['replay_events', 'DELETE'],
    ['audit', 'INSERT'],
  ],
  exporter: [
    ['job_runs', 'SELECT'],
    ['discrepancies', 'SELECT'],
    ['audit', 'INSERT'],
  ],
  retention: [
    ['replay_events', 'SELECT'],
    ['job_runs', 'DELETE'],
  ],
};

export const tryDatabase: Attempt = async ({ database, settings, logger }) => {
  const role = settings.CF_ROLE;
  const login = await database.read(async (transaction) => await readLogin(transaction));
  if (login.standby)
    throw new RunFailure(
      'database_read_only',
      'the URL leads to a read-only replica: runs have to write, name the primary',
    );
  await checkSchemaVersion(database);
  const lacking = await database.read(async (transaction) => await missingRights(transaction, rights[role]));
  if (role === 'owner' && !login.mayCreate) lacking.push('CREATE on the state schema');
  if (lacking.length > 0) throw new RunFailure('grant_missing', missing(role, login.role, lacking));
  if (role === 'owner') return [];
  if (role === 'jobs' && settings.CF_STATS_NEEDED && !login.seesOthers)
    throw new RunFailure(
      'grant_missing',
      `the canary's gate on bills never comes clean: GRANT pg_read_all_stats TO ${login.role};`,
    );
  await database.read(
    async (transaction) => {
      const zone = zoneExists(settings.CF_SERVICE_TIME_ZONE);
      const [known] = await transaction.query<{ there: boolean }>(zone.text, zone.params);
      if (known?.there !== true)
        throw new RunFailure(
          'settings_invalid',
          'CF_SERVICE_TIME_ZONE: the database knows no such time zone',
        );
      const events = await inspectEvents(transaction, settings.CF_EVENTS_TABLE, new Set());
      if (typeof events === 'string') {
        if (settings.CF_EVENTS_NEEDED) throw new RunFailure('table_missing', events);
        logger.warn({ reason: events }, 'no table of events: no causes, and nothing to replay');
      }
      if (typeof events !== 'string' && settings.CF_VERSIONS === String(!events.hasPublishedHash))
        throw new RunFailure(
          'wiring_wrong',
          versionsProblem(settings.CF_EVENTS_TABLE, events.hasPublishedHash),
        );
      const eventTables = typeof events === 'string' ? [] : [events.relation.name];
      if (role === 'retention') {
        const kept = await missingRights(
          transaction,
          eventTables.map((table) => [table, 'DELETE'] as const),
        );
        if (kept.length > 0) throw new RunFailure('grant_missing', missing(role, login.role, kept));
        return;
      }
      const tables = await tablesOfChecks(transaction, settings.CF_CHECKS_FILE);
      await refuseTooMuch(transaction, role, login.role, [...tables, ...eventTables]);
    },
    { userSearchPath: true },
  );
  return [];
};

/** @throws RunFailure with everything that one of the checks lacks */
async function tablesOfChecks(transaction: Transaction, file: string | undefined): Promise<string[]> {
  const inspected: InspectedCheck[] = [];
  for (const check of readChecks(file)) inspected.push(await inspectCheck(transaction, check));
  return inspected.flatMap(({ facts, ledger }) => [facts.name, ledger.name]);
}

/** The service's own login, or the owner's, in the place of a role that only reads. */
async function refuseTooMuch(
  transaction: Transaction,
  role: Role,
  login: string,
  tables: readonly string[],
): Promise<void> {
  const writable = await writableTables(transaction, [...new Set(tables)]);
  if (writable.length > 0)
    throw new RunFailure(
      'wiring_wrong',
      `the URL of ${role} logs in as ${login}, which may change ${writable.join(', ')}: ` +
        `this role only reads them; put the URL of counterfoil_${role} into the Secret`,
    );
}

const missing = (role: Role, login: string, lacking: readonly string[]): string =>
  `the URL of ${role} logs in as ${login}, which lacks ${lacking.join(', ')}: ` +
  `it has to be the URL of counterfoil_${role}, and the schema job has to have run since the role was made`;

/** Either way round a canary would be judged by series that say nothing of it. */
const versionsProblem = (table: string, named: boolean): string =>
  named
    ? `${table} names the version of each event: set service.versions to true, or a canary passes unseen`
    : `${table} has no column published_hash: add it (nestjs/sql/event_backups.extend.sql), or set service.versions to false`;
