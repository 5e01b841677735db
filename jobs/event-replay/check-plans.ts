/**
 * What the declared checks know of events: whether the fact of one still is what its payload says, and whether it is
 * billed. The checks' tables are looked at when the first event asks for it.
 */
import { billedEvents, type FactComparison, factsOfEvents } from '../checks/event-sql.ts';
import { type InspectedCheck, inspectCheck } from '../checks/inspect.ts';
import { type Check, readChecks } from '../checks/parse.ts';
import type { Statement } from '../checks/sql-parts.ts';
import type { Database } from '../runtime/database.ts';
import { RunFailure } from '../runtime/failures.ts';
import { errorCode } from '../runtime/sqlstates.ts';
import type { EventsTable } from './events-table.ts';

interface NamedEvent {
  readonly event_id: string;
  readonly event_name: string;
}

export class CheckPlans {
  readonly #database: Database;
  readonly #events: EventsTable;
  readonly #checks: readonly Check[];
  readonly #plans = new Map<string, Promise<InspectedCheck>>();

  /** @throws RunFailure `checks_invalid` */
  constructor(database: Database, events: EventsTable, checksFile: string | undefined) {
    this.#database = database;
    this.#events = events;
    this.#checks = readChecks(checksFile);
  }

  /** Whether some check says where the bill of such an event is. */
  knows(eventName: string): boolean {
    return this.#checksOf(eventName).length > 0;
  }

  /** Whether some check says what of such an event must be so in its fact (`match`). */
  compares(eventName: string): boolean {
    return this.#checksOf(eventName).some(({ event }) => comparesSomething(event));
  }

  /**
   * Of these events, those whose fact is what they say, by every check that names them. A check that compares nothing
   * (`match`) has no objection, but to those of an aborted version: nobody can tell of them.
   * @throws RunFailure where a check's tables cannot be read
   */
  async agreeing(
    events: readonly (NamedEvent & { readonly aborted: boolean })[],
  ): Promise<ReadonlySet<string>> {
    const aborted = new Set(events.filter((event) => event.aborted).map(({ event_id: id }) => id));
    return await this.#everyCheck(events, async (plan, ids) => {
      if (!comparesSomething(plan.check.event)) return ids.filter((id) => !aborted.has(id));
      const rows = await this.#readable(ids, (some) => factsOfEvents(plan, this.#events, some));
      return (rows as FactComparison[])
        .filter(({ said, today }) => today?.every((value, n) => isSame(said[n] ?? null, value)) === true)
        .map(({ event_id: id }) => id);
    });
  }

  /**
   * Of these events, those whose fact is billed, by every check that names them.
   * @throws RunFailure where a check's tables cannot be read
   */
  async billed(events: readonly NamedEvent[]): Promise<ReadonlySet<string>> {
    return await this.#everyCheck(events, async (plan, ids) => {
      const rows = await this.#readable(ids, (some) => billedEvents(plan, this.#events, some));
      return rows.map(({ event_id: id }) => id);
    });
  }

  async #everyCheck(
    events: readonly NamedEvent[],
    look: (plan: InspectedCheck, ids: readonly string[]) => Promise<readonly string[]>,
  ): Promise<ReadonlySet<string>> {
    const good = new Set<string>();
    for (const [name, group] of Map.groupBy(events, (event) => event.event_name)) {
      const checks = this.#checksOf(name);
      if (checks.length === 0) continue;
      let ids: readonly string[] = group.map(({ event_id: id }) => id);
      for (const check of checks) ids = ids.length === 0 ? ids : await look(await this.#planOf(check), ids);
      for (const id of ids) good.add(id);
    }
    return good;
  }

  #checksOf(eventName: string): readonly Check[] {
    return this.#checks.filter(({ event }) => event?.name === eventName);
  }

  #planOf(check: Check): Promise<InspectedCheck> {
    const known = this.#plans.get(check.name);
    if (known !== undefined) return known;
    const plan = this.#database.read(async (transaction) => await inspectCheck(transaction, check), {
      userSearchPath: true,
    });
    this.#plans.set(check.name, plan);
    // A table that was away is looked for again.
    plan.catch(() => this.#plans.delete(check.name));
    return plan;
  }

  /** The rows of a statement; an event whose payload Postgres cannot read is left out, and not those beside it. */
  async #readable(
    ids: readonly string[],
    statement: (ids: readonly string[]) => Statement,
  ): Promise<readonly { readonly event_id: string }[]> {
    try {
      const { text, params } = statement(ids);
      return await this.#database.read(
        async (transaction) => await transaction.query<{ event_id: string }>(text, params),
        { userSearchPath: true },
      );
    } catch (error) {
      // Class 22, data exception: a json payload may hold what no text can.
      const unreadable = error instanceof RunFailure && errorCode(error.cause)?.startsWith('22') === true;
      if (!unreadable) throw error;
      if (ids.length === 1) return [];
      const half = Math.ceil(ids.length / 2);
      return [
        ...(await this.#readable(ids.slice(0, half), statement)),
        ...(await this.#readable(ids.slice(half), statement)),
      ];
    }
  }
}

const comparesSomething = (event: Check['event']): boolean => Object.keys(event?.match ?? {}).length > 0;

/** Whether two texts mean the same: the same words, the same number, or the same moment. */
export function isSame(said: string | null, today: string | null): boolean {
  if (said === today) return true;
  if (said === null || today === null) return false;
  const [one, other] = [decimal(said), decimal(today)];
  if (one !== undefined || other !== undefined) return one === other;
  const [moment, then] = [momentOf(said), momentOf(today)];
  return moment !== undefined && moment === then;
}

/** A number without what does not count, exact at any length. */
function decimal(text: string): string | undefined {
  const [, sign = '', whole = '', fraction = ''] = /^(-?)0*(\d+)(?:\.(\d*?)0*)?$/.exec(text) ?? [];
  if (whole === '') return undefined;
  const digits = `${whole}.${fraction}`;
  return digits === '0.' ? digits : `${sign}${digits}`;
}

/** A time with its offset, in milliseconds since 1970. */
function momentOf(text: string): number | undefined {
  if (!/^\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}.*(Z|[+-]\d{2}(:?\d{2})?)$/.test(text)) return undefined;
  const moment = Date.parse(text.replace(' ', 'T').replace(/([+-]\d{2})$/, '$1:00'));
  return Number.isNaN(moment) ? undefined : moment;
}
