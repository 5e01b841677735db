/**
 * After an abort, asks the jobs to mend what the aborted version broke: once its last pod is gone, a replay of its
 * events, and when that has ended, a verification of the range. Follows what comes of it and says it on the Rollout.
 * All it remembers stands in the tables: it may be killed at any point, and two may run at once.
 */
import type { Database } from '../runtime/database.ts';
import type { Logger } from '../runtime/logger.ts';
import { pause } from '../runtime/pause.ts';
import { eventOf } from './abort-event.ts';
import {
  listAborts,
  type NotedAbort,
  noteAbort,
  readEventsForm,
  readProgress,
  requestRepair,
} from './abort-queries.ts';
import { type Abort, type AbortRepair, mayVerify, repairStateOf } from './abort-state.ts';

/** What the watches say of a version, while they can be believed. */
export interface VersionPods {
  /** When its first pod can have been made at the earliest, in milliseconds since 1970. */
  readonly startedAt: number | undefined;
  /** Whether its last pod is gone. */
  readonly gone: boolean;
  /** Whether it became the stable version after all. */
  readonly promoted: boolean;
}

export interface AbortRepairContext {
  readonly database: Database;
  readonly logger: Logger;
  readonly signal: AbortSignal;
  readonly installation: string;
  readonly eventsTable: string;
  readonly pod: string;
  readonly rollout: { readonly namespace: string; readonly name: string };
  /** How long what was read counts. */
  readonly maxAgeMs: number;
  /** How often an unfinished repair is looked at. */
  readonly busyPauseMs: number;
  /** Nothing while the watches are cut off. */
  podsOf(hash: string): VersionPods | undefined;
  /** Of the Rollout of now; undefined where there is none. */
  rolloutUid(): string | undefined;
  /** Makes an Event; gives the status of the answer. */
  say(event: Readonly<Record<string, unknown>>): Promise<number>;
  /** The state has changed. */
  changed(): void;
}

/** So many times as long as for an unfinished one, a finished repair is left alone. */
const IDLE_TIMES = 6;
/** The clocks of API server, controller and database differ by this much at most. */
const CLOCK_MARGIN_MS = 60_000;
/** A version of which nothing says when it began. */
const LONGEST_ROLLOUT_MS = 86_400_000;

export class AbortRepairs {
  readonly #context: AbortRepairContext;
  /** Newest first; undefined until the tables were read. */
  #aborts: NotedAbort[] | undefined;
  /** Seen on the Rollout and not noted yet: the database may be away. */
  #unnoted: Abort[] = [];
  #state: { readonly repair: AbortRepair; readonly readAt: number } | undefined;
  readonly #said = new Set<string>();
  #failing = false;
  /** Whether it was said that no Event can be made. */
  #mute = false;
  #wake = new AbortController();

  constructor(context: AbortRepairContext) {
    this.#context = context;
  }

  /** The Rollout is aborted; told as often as one likes. */
  seen(abort: Abort): void {
    if (this.#aborts?.some((one) => isSame(one.abort, abort)) === true) return;
    if (this.#unnoted.some((one) => isSame(one, abort))) return;
    this.#unnoted.push(abort);
    this.#wake.abort();
  }

  /** Something has changed that a waiting repair may have waited for. */
  poke(): void {
    if (this.#state?.repair.state === 'waiting') this.#wake.abort();
  }

  /** Where the repair after the last abort stands; nothing without an abort, or where that is not known. */
  state(): AbortRepair | undefined {
    const { maxAgeMs } = this.#context;
    return this.#state !== undefined && performance.now() - this.#state.readAt <= maxAgeMs
      ? this.#state.repair
      : undefined;
  }

  /** Runs until the signal is aborted. */
  async run(): Promise<void> {
    const { signal, logger } = this.#context;
    while (!signal.aborted) {
      this.#wake = new AbortController();
      let busy = true;
      try {
        busy = await this.#look();
        if (this.#failing) logger.info('the repair after an abort can be followed again');
        this.#failing = false;
      } catch (error) {
        if (signal.aborted) return;
        if (!this.#failing)
          logger.warn({ err: error }, 'the repair after an abort cannot be followed: trying again');
        this.#failing = true;
      }
      const { busyPauseMs } = this.#context;
      const ms = busy ? busyPauseMs : busyPauseMs * IDLE_TIMES;
      await pause(ms * (0.8 + Math.random() / 5), AbortSignal.any([signal, this.#wake.signal]));
    }
  }

  /** One look at all that is not finished; whether something is. */
  async #look(): Promise<boolean> {
    const { database, installation, rollout } = this.#context;
    this.#aborts ??= await listAborts(database, installation, rollout);
    for (const abort of [...this.#unnoted]) await this.#note(abort);
    let busy = false;
    for (const [index, noted] of this.#aborts.entries()) {
      const repair = await this.#advance(noted);
      if (repair.state !== 'clean' && repair.state !== 'not_clean') busy = true;
      if (index > 0) continue;
      const changed = this.#state?.repair.state !== repair.state;
      this.#state = { repair, readAt: performance.now() };
      if (changed) this.#context.changed();
    }
    // Older ones are only looked after until they are finished.
    this.#aborts = this.#aborts.filter((noted, index) => index === 0 || !this.#finished.has(noted));
    return busy;
  }

  readonly #finished = new WeakSet<NotedAbort>();

  async #note(abort: Abort): Promise<void> {
    const { database, installation, logger } = this.#context;
    if (this.#aborts?.some((one) => isSame(one.abort, abort)) !== true) {
      const startedAt = this.#context.podsOf(abort.hash)?.startedAt;
      const from = (startedAt ?? Date.parse(abort.at) - LONGEST_ROLLOUT_MS) - CLOCK_MARGIN_MS;
      const noted = { abort, from: new Date(from).toISOString() };
      if (await noteAbort(database, installation, noted))
        logger.warn({ rollout: abort.rollout, hash: abort.hash, at: abort.at }, 'the rollout was aborted');
      this.#aborts = [noted, ...(this.#aborts ?? [])];
    }
    this.#unnoted = this.#unnoted.filter((one) => one !== abort);
  }

  /** Takes the step that is due, if one is, and says where the repair stands then. */
  async #advance(noted: NotedAbort): Promise<AbortRepair> {
    const { database, installation, eventsTable, logger } = this.#context;
    const { abort } = noted;
    let progress = await readProgress(database, installation, noted);
    const kind =
      progress.replay === undefined && progress.verify === undefined
        ? 'replay'
        : mayVerify(progress)
          ? 'verify'
          : undefined;
    const pods = kind === 'replay' ? this.#context.podsOf(abort.hash) : undefined;
    if (kind === 'verify' || pods?.gone === true || pods?.promoted === true) {
      const events = await readEventsForm(database, eventsTable);
      // Without a table of events nothing can be replayed, but what is missing can be found.
      const asked = kind === 'replay' && events === undefined ? 'verify' : (kind ?? 'verify');
      // The version is in use again, by somebody's will: what it wrote until its abort is meant.
      const untilAbort = new Date(Date.parse(abort.at) + CLOCK_MARGIN_MS).toISOString();
      const to = pods?.gone === false ? untilAbort : progress.to;
      const made = await requestRepair(database, installation, {
        kind: asked,
        noted: { abort, from: progress.from ?? noted.from },
        to,
        byHash: events?.hasHash === true,
      });
      if (made)
        logger.info({ rollout: abort.rollout, hash: abort.hash, kind: asked }, 'a repair was requested');
      progress = await readProgress(database, installation, noted);
    }
    const repair = repairStateOf(abort, progress);
    if (repair.state === 'clean' || repair.state === 'not_clean') this.#finished.add(noted);
    await this.#tell(abort, repair, progress);
    return repair;
  }

  async #tell(abort: Abort, repair: AbortRepair, progress: Parameters<typeof eventOf>[2]): Promise<void> {
    const { logger, pod } = this.#context;
    const rolloutUid = this.#context.rolloutUid();
    if (rolloutUid === undefined) return;
    const event = eventOf(abort, repair, progress, { rolloutUid, pod });
    if (event === undefined || this.#said.has(event.name)) return;
    try {
      const { name, ...body } = event;
      await this.#context.say(body);
      this.#said.add(name);
      this.#mute = false;
      logger.info(
        { rollout: abort.rollout, hash: abort.hash, state: repair.state },
        'the repair was told on the rollout',
      );
    } catch (error) {
      // The Event is a courtesy: metrics say the same.
      if (!this.#mute) logger.warn({ err: error }, 'an Event could not be made on the rollout: trying again');
      this.#mute = true;
    }
  }
}

const isSame = (one: Abort, other: Abort): boolean =>
  one.namespace === other.namespace &&
  one.rollout === other.rollout &&
  one.hash === other.hash &&
  one.at === other.at;
