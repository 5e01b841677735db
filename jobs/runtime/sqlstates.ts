import { type FailureId, RunFailure } from './failures.ts';

/**
 * What an error of Postgres or of the socket to it means: whether the same transaction may be tried again, and
 * as which failure the run ends if it goes on. Codes, never texts: texts are translated and change.
 * Source: PostgreSQL 18, appendix A "PostgreSQL Error Codes"; Node.js "Errors".
 */
interface ErrorClass {
  readonly retry: boolean;
  readonly failure: FailureId;
}

const tryAgain = (failure: FailureId): ErrorClass => ({ retry: true, failure });
const giveUp = (failure: FailureId): ErrorClass => ({ retry: false, failure });

const classByCode: Readonly<Record<string, ErrorClass>> = {
  // The server or the way to it is gone, or not up yet.
  ECONNREFUSED: tryAgain('database_unreachable'),
  ECONNRESET: tryAgain('database_unreachable'),
  EPIPE: tryAgain('database_unreachable'),
  ETIMEDOUT: tryAgain('database_unreachable'),
  EHOSTUNREACH: tryAgain('database_unreachable'),
  ENETUNREACH: tryAgain('database_unreachable'),
  ENOTFOUND: tryAgain('database_unreachable'),
  EAI_AGAIN: tryAgain('database_unreachable'),
  '08000': tryAgain('database_unreachable'), // connection_exception
  '08001': tryAgain('database_unreachable'), // sqlclient_unable_to_establish_sqlconnection
  '08003': tryAgain('database_unreachable'), // connection_does_not_exist
  '08004': tryAgain('database_unreachable'), // sqlserver_rejected_establishment_of_sqlconnection
  '08006': tryAgain('database_unreachable'), // connection_failure
  '08P01': tryAgain('database_unreachable'), // protocol_violation: PgBouncer reports a lost server this way
  '57P01': tryAgain('database_unreachable'), // admin_shutdown
  '57P02': tryAgain('database_unreachable'), // crash_shutdown
  '57P03': tryAgain('database_unreachable'), // cannot_connect_now
  '57P05': tryAgain('database_unreachable'), // idle_session_timeout
  '25P03': tryAgain('database_unreachable'), // idle_in_transaction_session_timeout
  // The server is there, but has no room or no time.
  '53300': tryAgain('database_busy'), // too_many_connections
  '53400': tryAgain('database_busy'), // configuration_limit_exceeded
  '55P03': tryAgain('database_busy'), // lock_not_available: lock_timeout ran out
  '40001': tryAgain('database_busy'), // serialization_failure, and recovery conflict on a replica
  '40P01': tryAgain('database_busy'), // deadlock_detected
  '57014': giveUp('database_busy'), // query_canceled: statement_timeout; the same statement would run into it again
  '53100': giveUp('database_error'), // disk_full
  '53200': giveUp('database_error'), // out_of_memory
  // A person has to change something.
  '28000': giveUp('database_refused'), // invalid_authorization_specification
  '28P01': giveUp('database_refused'), // invalid_password
  '3D000': giveUp('database_refused'), // invalid_catalog_name: no such database
  '42501': giveUp('grant_missing'), // insufficient_privilege
  '42P01': giveUp('table_missing'), // undefined_table
  '42703': giveUp('column_missing'), // undefined_column
  '25006': giveUp('database_read_only'), // read_only_sql_transaction
  // The certificate of the server does not prove what sslmode asks it to prove.
  SELF_SIGNED_CERT_IN_CHAIN: giveUp('database_refused'),
  DEPTH_ZERO_SELF_SIGNED_CERT: giveUp('database_refused'),
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: giveUp('database_refused'),
  UNABLE_TO_GET_ISSUER_CERT: giveUp('database_refused'),
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: giveUp('database_refused'),
  CERT_SIGNATURE_FAILURE: giveUp('database_refused'),
  CERT_NOT_YET_VALID: giveUp('database_refused'),
  CERT_HAS_EXPIRED: giveUp('database_refused'),
  CERT_REVOKED: giveUp('database_refused'),
  CERT_UNTRUSTED: giveUp('database_refused'),
  ERR_TLS_CERT_ALTNAME_INVALID: giveUp('database_refused'),
};

/** The code of an error from pg (`SQLSTATE`) or from the socket (`ECONNRESET`), else nothing. */
export function errorCode(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null) return undefined;
  const code = (error as { code?: unknown }).code;
  return typeof code === 'string' ? code : undefined;
}

function classOf(error: unknown): ErrorClass {
  if (error instanceof RunFailure) return giveUp(error.id);
  const code = errorCode(error);
  const known = code === undefined ? undefined : classByCode[code];
  if (known !== undefined) return known;
  // pg reports a lost connection, its own timeouts and a login that cannot work without any code.
  if (code === undefined && error instanceof Error) {
    if (lostConnectionMessages.has(error.message)) return tryAgain('database_unreachable');
    if (refusedMessages.has(error.message)) return giveUp('database_refused');
  }
  return giveUp(code === undefined ? 'internal' : 'database_error');
}

/** The errors that pg itself throws without a code, as of pg 8.23 (lib/client.js, pg-pool/index.js). */
const lostConnectionMessages = new Set([
  'Connection terminated',
  'Connection terminated unexpectedly',
  'Connection terminated due to connection timeout',
  'timeout expired',
  'timeout exceeded when trying to connect',
  'Query read timeout',
  'Client has encountered a connection error and is not queryable',
]);

/** What pg throws without a code when server and URL do not agree on TLS or on a password (same files). */
const refusedMessages = new Set([
  'The server does not support SSL connections',
  'There was an error establishing an SSL connection',
  'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a string',
  'SASL: SCRAM-SERVER-FIRST-MESSAGE: client password must be a non-empty string',
]);

/** Whether a transaction that met this error, and did not reach its COMMIT, may be run again. */
export function mayRetry(error: unknown): boolean {
  return classOf(error).retry;
}

/** Whether the connection that met this error must not go back to the pool. */
export function breaksConnection(error: unknown): boolean {
  return classOf(error).failure === 'database_unreachable';
}

/**
 * The message of an error without anything that could come out of a row. Postgres' primary messages name
 * objects, except in class 22 (data exception), where they quote the value: `invalid input syntax … "…"`.
 */
export function safeMessage(error: unknown): string {
  if (!(error instanceof Error)) return 'an unknown error';
  const code = errorCode(error);
  if (code === undefined || error instanceof RunFailure) return error.message;
  if (/^22[0-9A-Z]{3}$/.test(code)) return `a value does not have the form that its type needs (${code})`;
  return `${error.message} (${code})`;
}

/** The failure a run ends with when this error is not handled; the error itself stays its `cause`. */
export function toRunFailure(error: unknown): RunFailure {
  if (error instanceof RunFailure) return error;
  return new RunFailure(classOf(error).failure, safeMessage(error), { cause: error });
}
