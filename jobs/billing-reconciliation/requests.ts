/** Requests to verify a scope now: who asked waits for the row to be `done`, and its result says what was found. */
import { z } from 'zod';
import { listByIds } from './findings.ts';
import { earliest, formatInstant, type Instant, latest, parseInstant } from './instant.ts';
import {
  countInRange,
  finishRequest,
  listVerifyRequests,
  takeRequest,
  type VerifyRequest,
  writeAudit,
} from './queries.ts';
import { type CheckRun, judgeAndRecord, sweepRange } from './reconcile.ts';

const time = z.string().transform((text, context): Instant => {
  try {
    return parseInstant(text);
  } catch {
    context.addIssue({ code: 'custom', message: 'must be a time with Z or an offset' });
    return z.NEVER;
  }
});

const scopeForm = z.union([
  z.strictObject({
    findings: z
      .array(z.coerce.string().regex(/^\d{1,18}$/))
      .min(1)
      .max(10_000),
  }),
  z.strictObject({ from: time, to: time, published_hash: z.string().min(1).optional() }),
]);

/**
 * Takes the open requests that concern these checks, and finishes those whose range lies before the horizon;
 * one that reaches further stays open until a later run can answer it whole.
 * @param runs the checks whose lease this run holds
 * @param allHeld whether they are all that are declared; else requests for every check are left open
 */
export async function answerRequests(runs: readonly CheckRun[], allHeld: boolean): Promise<boolean> {
  const [first] = runs;
  if (first === undefined) return true;
  const { database, runId, settings, signal } = first.context;
  const requests = await database.read(
    async (transaction) =>
      await listVerifyRequests(
        transaction,
        runs.map(({ plan }) => plan.check.name),
      ),
  );
  for (const request of requests) {
    if (signal.aborted) return false;
    if (request.check_name === null && !allHeld) continue;
    const concerned = runs.filter(
      ({ plan }) => request.check_name === null || plan.check.name === request.check_name,
    );
    const scope = scopeForm.safeParse(request.scope);
    if (!scope.success) {
      await finish(first, request, 'refused', {
        reason: 'the scope is neither a range nor a list of findings',
      });
      continue;
    }
    const wanted = scope.data;
    if ('to' in wanted && !concerned.every(({ horizon }) => (horizon.settled ?? 0n) >= wanted.to)) continue;
    for (const { lease } of concerned) lease.check();
    const taken = await database.transaction(
      { repeatable: true },
      async (transaction) => await takeRequest(transaction, request.id, runId),
    );
    if (!taken) continue;
    const result: Record<string, number> = {};
    for (const run of concerned) {
      if ('findings' in wanted) {
        const findings = await database.read(
          async (transaction) => await listByIds(transaction, run.plan.check.name, wanted.findings),
        );
        await judgeAndRecord(run, findings);
        add(result, { findings: findings.length });
        continue;
      }
      const { since } = run.plan.check;
      const from = since === null ? wanted.from : latest(wanted.from, parseInstant(since));
      const to = earliest(wanted.to, run.horizon.lookTo ?? wanted.to);
      const coverage = await sweepRange(run, { from, to }, 'nothing');
      // Left as taken: the next run that holds the lease takes it up again.
      if (!coverage.complete) return false;
      const range = { from: formatInstant(from), to: formatInstant(to) };
      add(
        result,
        await database.read(
          async (transaction) =>
            await countInRange(transaction, run.plan.check.name, range, wanted.published_hash),
        ),
      );
      add(result, { windows: coverage.windows });
    }
    await finish(first, request, 'done', result);
    first.tally.count('requests', 1);
    await database.transaction({}, async (transaction) => {
      await writeAudit(transaction, {
        installation: settings.CF_INSTALLATION,
        runId,
        action: 'verified',
        requestId: request.id,
        scope: { check: request.check_name },
        counts: result,
      });
    });
  }
  return true;
}

const finish = async (
  run: CheckRun,
  request: VerifyRequest,
  status: 'done' | 'refused',
  result: Readonly<Record<string, unknown>>,
): Promise<void> => {
  await run.context.database.transaction({ repeatable: true }, async (transaction) => {
    await finishRequest(transaction, request.id, run.context.runId, status, result);
  });
};

function add(total: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(more)) total[name] = (total[name] ?? 0) + count;
}
