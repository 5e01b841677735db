import {
  Inject,
  Injectable,
  Logger,
  type OnModuleDestroy,
  ServiceUnavailableException,
} from '@nestjs/common';
import { deferred } from './deferred.js';
import { Deliveries } from './deliveries.js';
import { errorCode } from './error-code.js';
import { OPTIONS, type ResolvedOptions } from './options.js';

/** Why a service takes no requests now. */
export const NOT_READY_REASONS = {
  stopping: 'shutdown has begun',
  database: 'the database does not answer',
  overloaded:
    'half of the events that may wait for room do, for some seconds now: soon they are left pending',
} as const;

/** A word of NOT_READY_REASONS. */
export type NotReadyReason = keyof typeof NOT_READY_REASONS;

/** The result of an indicator, as `@nestjs/terminus` (11 and later) takes it from one. */
export type CounterfoilHealthResult<Key extends string = string> = Record<
  Key,
  { status: 'up' | 'down'; reason?: NotReadyReason; inFlight: number }
>;

/** A probe asks every few seconds and waits about one, so that the database gets less. */
const DATABASE_TIMEOUT_MS = 800;

/** Crowded at one look is a burst; crowded at every look for this long, in ms, is overload. */
const OVERLOADED_AFTER_MS = 5_000;

/**
 * Health of the module, for a probe: with `@nestjs/terminus` as indicators, without it by `refuseUnlessUp`. Tells
 * words and counts, and nothing of settings or errors.
 */
@Injectable()
export class CounterfoilHealth implements OnModuleDestroy {
  private readonly logger = new Logger('Counterfoil');
  private stopping = false;
  private crowdedSince: number | undefined;
  private asking: Promise<boolean> | undefined;

  constructor(
    @Inject(OPTIONS) private readonly options: ResolvedOptions,
    @Inject(Deliveries) private readonly deliveries: Deliveries,
  ) {}

  /** Shutdown begins with this hook: requests still come for a while, and the probe must say so before they stop. */
  onModuleDestroy(): void {
    this.stopping = true;
  }

  /** Up as soon as it answers: neither database nor load nor shutdown is mended by a restart. */
  live<Key extends string = 'counterfoil'>(key = 'counterfoil' as Key): CounterfoilHealthResult<Key> {
    return this.result(key, undefined);
  }

  /**
   * Up where the database answers, shutdown has not begun and there is room for events. Never rejects.
   * @param now in ms, by a clock that only goes forward
   */
  async ready<Key extends string = 'counterfoil'>(
    key = 'counterfoil' as Key,
    now: number = performance.now(),
  ): Promise<CounterfoilHealthResult<Key>> {
    return this.result(key, await this.reason(now));
  }

  /** The answer of a probe without terminus: gives the result, or throws 503 where it is down. */
  async refuseUnlessUp<Result extends CounterfoilHealthResult>(
    checked: Result | Promise<Result>,
  ): Promise<Result> {
    const result = await checked;
    if (Object.values(result).some(({ status }) => status === 'down')) {
      throw new ServiceUnavailableException(result);
    }
    return result;
  }

  private result<Key extends string>(
    key: Key,
    reason: NotReadyReason | undefined,
  ): CounterfoilHealthResult<Key> {
    const { inFlight } = this.deliveries;
    const result =
      reason === undefined
        ? { status: 'up' as const, inFlight }
        : { status: 'down' as const, reason, inFlight };
    return { [key]: result } as CounterfoilHealthResult<Key>;
  }

  private async reason(now: number): Promise<NotReadyReason | undefined> {
    if (this.stopping || this.deliveries.stopping) return 'stopping';
    if (this.isOverloaded(now)) return 'overloaded';
    if (!(await this.databaseAnswers())) return 'database';
    return undefined;
  }

  private isOverloaded(now: number): boolean {
    const { inFlight, waiting } = this.deliveries;
    const { maxInFlight, maxWaiting } = this.options;
    if (inFlight < maxInFlight || waiting < maxWaiting / 2) {
      this.crowdedSince = undefined;
      return false;
    }
    this.crowdedSince ??= now;
    return now - this.crowdedSince >= OVERLOADED_AFTER_MS;
  }

  private async databaseAnswers(): Promise<boolean> {
    // One statement at a time: while the database hangs, probes must not take one connection of the pool each.
    this.asking ??= this.askDatabase().finally(() => {
      this.asking = undefined;
    });
    const late = deferred<false>();
    const timer = setTimeout(() => late.resolve(false), DATABASE_TIMEOUT_MS);
    try {
      return await Promise.race([this.asking, late.promise]);
    } finally {
      clearTimeout(timer);
    }
  }

  private async askDatabase(): Promise<boolean> {
    try {
      await this.options.driver.run('/* counterfoil probe */\nselect 1', []);
      return true;
    } catch (error) {
      this.logger.warn({ message: 'The database did not answer a probe', error: errorCode(error) });
      return false;
    }
  }
}
