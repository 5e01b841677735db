/** flow-probe as a job: sends the steps of the flow, then looks in the ledger and in the table of events for what came of them. */
import { type EventsTable, type InspectedCheck, inspectCheck, inspectEvents } from '../checks/inspect.ts';
import { type Check, readChecks } from '../checks/parse.ts';
import { zoneExists } from '../checks/window-sql.ts';
import { RunFailure } from '../runtime/failures.ts';
import { pause } from '../runtime/pause.ts';
import type { Job, RunResult } from '../runtime/run-job.ts';
import { type Calls, openCalls, valueAt } from './calls.ts';
import { flowProbeSettings, type ProbeContext } from './env.ts';
import { type Flow, readFlow, type Step } from './flow.ts';
import { describeFaults, type Found, judge, type NamedFault } from './judge.ts';
import { fill, idOf } from './placeholders.ts';
import {
  type BillLook,
  type EventRow,
  type EventSearch,
  findDeliveries,
  findEvent,
  hasTimeIndex,
  lookAtBill,
  readClock,
  type WantedEvent,
} from './queries.ts';

/** An event of a run that an earlier attempt began is sought this far back; a Job's attempts follow within minutes. */
const EARLIER_ATTEMPT_MS = 3_600_000;
/** What is written by a run is never older than its start; a little more costs nothing. */
const CLOCK_MARGIN_MS = 60_000;
/** How often a run that waits shows that it is alive. */
const TOUCH_EVERY_MS = 15_000;

export const flowProbeJob: Job<typeof flowProbeSettings> = {
  name: 'flow-probe',
  settings: flowProbeSettings,
  mode: (settings) => (settings.CF_EXIT_ON_FINDINGS ? 'gate' : 'probe'),
  hasState: () => true,
  exitsOnFindings: (settings) => settings.CF_EXIT_ON_FINDINGS,
  async run(context) {
    const { settings } = context;
    const flow = readFlow(settings.CF_PROBE_FILE);
    const check = findCheck(flow, settings.CF_CHECKS_FILE);
    const probe = new Probe(context, flow, check, await inspect(context, flow, check));
    const calls = openCalls({
      url: settings.CF_PROBE_URL,
      token: settings.CF_PROBE_TOKEN,
      limitMs: settings.CF_PROBE_STEP_SECONDS,
    });
    try {
      return await probe.run(calls);
    } finally {
      await calls.close();
    }
  },
};

/** The check whose ledger holds the bill. */
function findCheck(flow: Flow, file: string | undefined): Check {
  const check = readChecks(file).find(({ name }) => name === flow.bill.check);
  if (check === undefined)
    throw new RunFailure(
      'probe_invalid',
      'the flow cannot be used: bill.check: no check of that name is declared',
    );
  if (check.ledger.key.length !== flow.bill.key.length) {
    throw new RunFailure(
      'probe_invalid',
      'the flow cannot be used: bill.key: must have as many values as the key of the check has columns',
    );
  }
  return check;
}

interface Tables {
  readonly plan: InspectedCheck;
  /** Nothing where events cannot be judged. */
  readonly events: { readonly table: EventsTable; readonly deliveries: string | undefined } | undefined;
}

/** Looked at before the first step: a probe that cannot see what comes of it sends nothing. */
async function inspect(context: ProbeContext, flow: Flow, check: Check): Promise<Tables> {
  const { database, settings, logger } = context;
  return await database.read(
    async (transaction) => {
      const zone = zoneExists(settings.CF_SERVICE_TIME_ZONE);
      const [known] = await transaction.query<{ there: boolean }>(zone.text, zone.params);
      if (known?.there !== true)
        throw new RunFailure(
          'settings_invalid',
          'CF_SERVICE_TIME_ZONE: the database knows no such time zone',
        );
      const plan = await inspectCheck(transaction, check);
      const keys = new Set([
        ...(check.event?.key ?? []),
        ...flow.events.flatMap(({ payload }) => Object.keys(payload)),
      ]);
      const table = await inspectEvents(transaction, settings.CF_EVENTS_TABLE, keys);
      if (typeof table === 'string') {
        logger.warn({ reason: table }, 'no table of events: only the bill is judged');
        return { plan, events: undefined };
      }
      if (!(await hasTimeIndex(transaction, table)) && [...keys].some((key) => !table.indexedKeys.has(key))) {
        logger.warn('the table of events has no index on created_at: only the bill is judged');
        return { plan, events: undefined };
      }
      const deliveries = await findDeliveries(transaction, settings.CF_DELIVERIES_TABLE);
      return { plan, events: { table, deliveries } };
    },
    { userSearchPath: true },
  );
}

type End =
  | { readonly kind: 'right' }
  | { readonly kind: 'stopped' }
  | { readonly kind: 'wrong'; readonly faults: readonly NamedFault[] };

/** One run of the flow. */
class Probe {
  readonly #context: ProbeContext;
  readonly #flow: Flow;
  readonly #check: Check;
  readonly #tables: Tables;
  /** By snake_case name; what `job_runs.counts` shows of the run, also of one that fails. */
  readonly #counts: Record<string, number> = {};
  readonly #values: Record<string, string>;
  /** Whether a step was answered as one that an earlier attempt had taken. */
  #resumed = false;

  constructor(context: ProbeContext, flow: Flow, check: Check, tables: Tables) {
    const { settings, runId } = context;
    const run = settings.CF_PROBE_SEED ?? runId;
    this.#context = context;
    this.#flow = flow;
    this.#check = check;
    this.#tables = tables;
    this.#values = {
      mark: flow.mark,
      run,
      ...Object.fromEntries(flow.ids.map((name) => [name, idOf(settings.CF_INSTALLATION, run, name)])),
    };
  }

  async run(calls: Calls): Promise<RunResult> {
    const { database, logger, settings } = this.#context;
    const startedAt = await readClock(database);
    for (const step of this.#flow.steps) {
      if (!(await this.#take(calls, step))) return this.#stopped('stopped before all steps were sent');
    }
    const sentAt = performance.now();
    const end = await this.#awaitBill(startedAt);
    if (end.kind === 'stopped') return this.#stopped('stopped before the bill was judged');
    this.#counts.bill_ms = Math.round(performance.now() - sentAt);
    this.#counts.bill_right = end.kind === 'right' ? 1 : 0;
    if (end.kind === 'right') {
      logger.info(
        { durationMs: this.#counts.bill_ms, ids: this.#ids() },
        'the flow was billed as it must be',
      );
      return {
        outcome: 'succeeded',
        counts: { ...this.#counts },
        message: 'the flow was billed as it must be',
      };
    }
    const message = describeFaults(end.faults);
    logger.error(
      { faults: end.faults, waitedMs: this.#counts.bill_ms, ids: this.#ids() },
      'the flow was not billed as it must be',
    );
    if (settings.CF_EXIT_ON_FINDINGS)
      return { outcome: 'succeeded', openFindings: true, counts: { ...this.#counts }, message };
    await this.#show();
    throw new RunFailure('probe_bill_wrong', message);
  }

  /** Sends one step; says whether it was taken, or throws where it was not answered as declared. */
  async #take(calls: Calls, step: Step): Promise<boolean> {
    const { logger, signal } = this.#context;
    const beganAt = performance.now();
    const end = await calls.send(step, this.#values, signal);
    if (end.kind === 'abandoned') return false;
    const durationMs = Math.round(performance.now() - beganAt);
    const name = `step_${step.name.replaceAll('-', '_')}`;
    this.#counts[`${name}_ms`] = durationMs;
    const answer = end.kind === 'answered' ? { status: end.status } : { code: end.code };
    const problem = this.#problemOf(step, end);
    this.#counts[`${name}_ok`] = problem === undefined ? 1 : 0;
    await this.#show();
    if (problem !== undefined) {
      logger.error({ step: step.name, ...answer, durationMs }, `a step of the flow ${problem}`);
      throw new RunFailure('probe_failed', `the step ${step.name} ${problem}`);
    }
    logger.info({ step: step.name, ...answer, durationMs }, 'a step of the flow was taken');
    return true;
  }

  #problemOf(
    step: Step,
    end: Exclude<Awaited<ReturnType<Calls['send']>>, { kind: 'abandoned' }>,
  ): string | undefined {
    if (end.kind === 'unanswered') return `was not answered (${end.code})`;
    if (!step.expect.includes(end.status))
      return `was answered with ${end.status} where ${step.expect.join(' or ')} is expected`;
    // Its own ids were known before: somebody has been here, and that can only be an attempt of this run.
    if (end.status === 409) this.#resumed = true;
    for (const [name, path] of Object.entries(step.take)) {
      const value = valueAt(end.content, path);
      if (value === undefined) return `was answered without a text or a number at ${path}`;
      this.#values[name] = value;
    }
    return undefined;
  }

  async #awaitBill(startedAt: string): Promise<End> {
    const { settings, signal } = this.#context;
    const search = this.#searchFrom(startedAt);
    const deadline = performance.now() + settings.CF_PROBE_BILL_SECONDS;
    let shownAt = performance.now();
    let settling = settings.CF_PROBE_SETTLE_SECONDS > 0;
    for (;;) {
      const verdict = judge(await this.#look(search), this.#check.cardinality);
      if (signal.aborted) return { kind: 'stopped' };
      if (verdict.kind === 'wrong') return { kind: 'wrong', faults: verdict.faults };
      if (verdict.kind === 'right') {
        if (!settling) return { kind: 'right' };
        settling = false;
        await this.#show();
        await pause(settings.CF_PROBE_SETTLE_SECONDS, signal);
        continue;
      }
      const leftMs = deadline - performance.now();
      if (leftMs <= 0) return { kind: 'wrong', faults: verdict.faults };
      await pause(Math.min(settings.CF_PROBE_POLL_MILLISECONDS, leftMs), signal);
      if (performance.now() - shownAt > TOUCH_EVERY_MS) {
        shownAt = performance.now();
        await this.#show();
      }
    }
  }

  #searchFrom(startedAt: string): EventSearch | undefined {
    const { events } = this.#tables;
    if (events === undefined) return undefined;
    const reachMs = this.#resumed ? EARLIER_ATTEMPT_MS : CLOCK_MARGIN_MS;
    const notBefore = new Date(Date.parse(startedAt.replace(' ', 'T').replace(/\+00$/, 'Z')) - reachMs);
    const { CF_SERVICE_TIME_ZONE: timeZone } = this.#context.settings;
    return { ...events, timeZone, notBefore: notBefore.toISOString() };
  }

  /** Bill and events as of one moment. */
  async #look(search: EventSearch | undefined): Promise<Found> {
    const { database, settings } = this.#context;
    const { bill, events: declared } = this.#flow;
    const key = bill.key.map((part) => fill(part, this.#values));
    const look = lookAtBill(
      this.#tables.plan,
      { mark: this.#flow.mark, timeZone: settings.CF_SERVICE_TIME_ZONE },
      { key, amount: bill.amount, currency: bill.currency },
    );
    const { event } = this.#check;
    const wanted: WantedEvent[] = [
      ...(event === null
        ? []
        : [
            {
              name: event.name,
              payload: Object.fromEntries(event.key.map((name, n) => [name, key[n] ?? ''])),
            },
          ]),
      ...declared.map(({ name, payload }) => ({
        name,
        payload: Object.fromEntries(
          Object.entries(payload).map(([field, value]) => [field, fill(value, this.#values)]),
        ),
      })),
    ];
    const found = await database.read(
      async (transaction) => {
        const [first] = await transaction.query<BillLook>(look.text, look.params);
        const events: Found['events'][number][] = [];
        for (const one of search === undefined ? [] : wanted) {
          const { text, params } = findEvent(search as EventSearch, one);
          events.push({ name: one.name, rows: await transaction.query<EventRow>(text, params) });
        }
        return {
          bill: first ?? { rows: '0', amount: 'not_measured' as const, currency: 'not_measured' as const },
          events,
        };
      },
      { userSearchPath: true },
    );
    this.#counts.ledger_rows = Number(found.bill.rows);
    this.#counts.amount_measured = found.bill.amount === 'not_measured' ? 0 : 1;
    this.#counts.events_judged = found.events.length;
    return found;
  }

  #stopped(message: string): RunResult {
    return { outcome: 'partial', counts: { ...this.#counts }, message };
  }

  /** The ids that were made up for this run, to find its rows by. */
  #ids(): Readonly<Record<string, string>> {
    return Object.fromEntries(this.#flow.ids.map((name) => [name, this.#values[name] ?? '']));
  }

  async #show(): Promise<void> {
    await this.#context.touch({ ...this.#counts });
  }
}
