/** Requests to verify a scope now: who asked waits for the row to be `done`, and its result says what was found. */
import { z } from 'zod';
import { countStanding, listAbsent, listByIds, type StandingScope } from './findings.ts';
import { earliest, formatInstant, type Instant, latest, parseInstant } from './instant.ts';
import { finishRequest, listVerifyRequests, takeRequest, type VerifyRequest, writeAudit } from './queries.ts';
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
  z
    .strictObject({
      from: time,
      to: time,
      published_hash: z.string().min(1).optional(),
      // By which the exporter knows its own request after an abort; means nothing here.
      abort: z.looseObject({}).optional(),
    })
    .refine(({ from, to }) => from < to),
  z.strictObject({ published_hash: z.string().min(1) }),
]);
type Scope = z.output<typeof scopeForm>;

/**
 * Takes the open requests that concern these checks, and finishes those whose range lies before the horizon;
 * one that reaches further stays open until a later run can answer it whole.
 * @param runs the checks whose lease this run holds
 * @param allHeld whether they are all that are declared; else requests for every check are left open
 */
export async function answerRequests(runs: readonly CheckRun[], allHeld: boolean): Promise<boolean> {
  const [first] = runs;
  if (first === undefined) return true;
  const { database, runId, signal } = first.context;
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
      const reason =
        'the scope is no range that ends after it begins, no published hash, no list of findings';
      await finish(first, request, { status: 'refused', reason });
      continue;
    }
    const wanted = scope.data;
    const names = concerned.map(({ plan }) => plan.check.name);
    const ids = 'findings' in wanted ? wanted.findings : [];
    const absent = await database.read(async (transaction) => await listAbsent(transaction, names, ids));
    if (absent.length > 0) {
      const reason = `there is no finding ${absent.join(', ')}`;
      await finish(first, request, { status: 'refused', reason });
      continue;
    }
    if ('to' in wanted && !concerned.every(({ horizon }) => (horizon.settled ?? 0n) >= wanted.to)) continue;
    for (const { lease } of concerned) lease.check();
    const taken = await database.transaction(
      { repeatable: true },
      async (transaction) => await takeRequest(transaction, request.id, runId),
    );
    if (!taken) continue;
    const result: Record<string, number> = {};
    for (const run of concerned) {
      const answer = await verify(run, wanted);
      // Left as taken: the next run that holds the lease takes it up again.
      if (answer === undefined) return false;
      add(result, answer);
    }
    await finish(first, request, { status: 'done', counts: result });
    first.tally.count('requests', 1);
  }
  return true;
}

/** Looks at the scope by one check, and counts what stands in it; nothing when the run was told to stop. */
async function verify(run: CheckRun, wanted: Scope): Promise<Record<string, number> | undefined> {
  const { name, since } = run.plan.check;
  const read = run.context.database.read.bind(run.context.database);
  const standing = async (scope: StandingScope) => ({
    ...(await read(async (transaction) => await countStanding(transaction, name, scope))),
  });
  if ('findings' in wanted) {
    const findings = await read(async (transaction) => await listByIds(transaction, name, wanted.findings));
    await judgeAndRecord(run, findings);
    return { ...(await standing({ ids: wanted.findings })), findings: findings.length };
  }
  // Each run has looked again at every unsettled finding before it comes to the requests.
  if (!('from' in wanted)) return await standing({ hash: wanted.published_hash });
  const from = since === null ? wanted.from : latest(wanted.from, parseInstant(since));
  const to = earliest(wanted.to, run.horizon.lookTo ?? wanted.to);
  const coverage = await sweepRange(run, { from, to }, 'nothing');
  if (!coverage.complete) return undefined;
  const range = { from: formatInstant(from), to: formatInstant(to) };
  return { ...(await standing({ ...range, hash: wanted.published_hash })), windows: coverage.windows };
}

type Answer =
  | { readonly status: 'done'; readonly counts: Readonly<Record<string, number>> }
  | { readonly status: 'refused'; readonly reason: string };

/** Ends a request together with its audit row: there is never one without the other. */
async function finish(run: CheckRun, request: VerifyRequest, answer: Answer): Promise<void> {
  const { database, runId, settings } = run.context;
  const done = answer.status === 'done';
  await database.transaction({ repeatable: true }, async (transaction) => {
    const result = done ? answer.counts : { reason: answer.reason };
    // Not finished by us: somebody else has, or an attempt of ours whose commit was not heard of.
    if (!(await finishRequest(transaction, request.id, runId, answer.status, result))) return;
    await writeAudit(transaction, {
      installation: settings.CF_INSTALLATION,
      runId,
      action: done ? 'verified' : 'verify_refused',
      requestId: request.id,
      scope: { check: request.check_name },
      ...(done ? { counts: answer.counts } : { reason: answer.reason, counts: {} }),
    });
  });
}

function add(total: Record<string, number>, more: Readonly<Record<string, number>>): void {
  for (const [name, count] of Object.entries(more)) total[name] = (total[name] ?? 0) + count;
}
