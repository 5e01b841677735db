const CODE = /^[A-Za-z][A-Za-z0-9_.]{0,63}$|^[0-9A-Z]{5}$/;

/** How many causes are followed: an ORM wraps the database's error once or twice; more is a loop. */
const MAX_CAUSES = 5;

/**
 * A short name for an error that is safe to log, store and send: the first code found in the error or its causes
 * (SQLSTATE, errno), else the class. Never the message, which may hold payload.
 */
export function errorCode(error: unknown): string {
  let current = error;
  for (let depth = 0; depth < MAX_CAUSES && typeof current === 'object' && current !== null; depth += 1) {
    const { code } = current as { code?: unknown };
    if (typeof code === 'string' && CODE.test(code)) return code;
    current = (current as { cause?: unknown }).cause;
  }
  const name = error instanceof Error ? error.name : undefined;
  return name !== undefined && CODE.test(name) ? name : 'Error';
}

/** Whether trying again may help: yes, unless the error itself carries `retryable: false`. */
export function isRetryable(error: unknown): boolean {
  return !(
    typeof error === 'object' &&
    error !== null &&
    (error as { retryable?: unknown }).retryable === false
  );
}
