/**
 * The catalogue of reasons why a run cannot go on. Each has a stable id (in logs, `job_runs.failure_id`
 * and docs/failures.md), an exit code and one line. A row that goes wrong is never a failure: it is an
 * outcome of that row, and the run goes on.
 */

/** What one reason means to a scheduler: exit 1 may be retried, exit 2 must not be. */
export interface FailureKind {
  /** 1: a retry may help. 2: a retry cannot help, a person has to change something. */
  readonly exitCode: 1 | 2;
  readonly summary: string;
}

const retry = (summary: string): FailureKind => ({ exitCode: 1, summary });
const refuse = (summary: string): FailureKind => ({ exitCode: 2, summary });

export const failureCatalogue = {
  settings_invalid: refuse('settings are missing, wrong or unknown'),
  checks_invalid: refuse('the file of checks cannot be read or a check in it is wrong'),
  check_conflict: refuse('another installation declares a check of this name with another definition'),
  installation_conflict: refuse('the state schema belongs to the events table of another installation'),
  table_missing: refuse('a required table does not exist or is not visible'),
  column_missing: refuse('a required column does not exist or has a type that cannot be used'),
  index_missing: refuse('a required index does not exist'),
  function_missing: refuse('a function that a setting names does not exist'),
  grant_missing: refuse('the database role lacks a required privilege'),
  database_refused: refuse('the database refuses this login'),
  database_read_only: refuse('the database is a read-only replica, but this run has to write'),
  database_unreachable: retry('the database cannot be reached or cut the connection'),
  database_busy: retry('the database is out of connections or a statement ran into its time limit'),
  database_error: retry('the database reported an error that is not in the table of known ones'),
  schema_absent: retry('the state schema is not there yet'),
  schema_older: retry('the state schema is older than this code needs'),
  schema_newer: refuse('the state schema has dropped what this code needs'),
  migration_failed: retry('a migration of the state schema did not go through'),
  lease_lost: retry('the lease of this run could not be renewed in time'),
  endpoint_down: retry('the replay endpoint cannot be reached or does not answer properly'),
  endpoint_refused: refuse('the replay endpoint refuses the token, the path or the request'),
  probe_invalid: refuse('the file of the flow probe cannot be read or is wrong'),
  probe_failed: retry('a step of the flow probe was not answered as declared'),
  probe_bill_wrong: retry('the bill or an event of the flow probe is missing or wrong'),
  wiring_wrong: retry('something that the chart wires is not as it must be'),
  deadline_exceeded: retry('the run did not stop within its shutdown deadline'),
  internal: retry('an error that is not in the catalogue: a defect'),
} as const satisfies Record<string, FailureKind>;

export type FailureId = keyof typeof failureCatalogue;

/**
 * A run that cannot go on. The message says what happened, to which id, and what to do; it never holds a
 * secret, the value of a setting or a payload.
 */
export class RunFailure extends Error {
  readonly id: FailureId;

  constructor(id: FailureId, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.name = 'RunFailure';
    this.id = id;
  }

  get exitCode(): 1 | 2 {
    return failureCatalogue[this.id].exitCode;
  }
}
