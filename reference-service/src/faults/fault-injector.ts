import { setTimeout as delay } from 'node:timers/promises';
import type { CommitAware, CounterfoilDriver, EventMetrics } from '@counterfoil/nestjs';
import { Inject, Injectable } from '@nestjs/common';
import { EVENT_METRICS } from '../metrics/http-metrics.js';
import type { SessionCompleted } from '../sessions/session-events.js';
import { SETTINGS, type Settings } from '../settings.js';
import { DEFAULT_WAIT_MS, type Fault } from './faults.js';

interface ArmedFault {
  rate: number;
  endsAt: number;
  waitMs: number;
}

const oneUnitMore = <Payload extends object>(payload: Payload): Payload =>
  'amountMinor' in payload ? { ...payload, amountMinor: Number(payload.amountMinor) + 1 } : payload;

const die = (): void => {
  process.kill(process.pid, 'SIGKILL');
  // As the first process of a container it is spared its own signals, that one too.
  process.exit(137);
};

/**
 * Makes the service do wrong on demand, as a faulty release would: it writes no log line, metric or row of its own.
 * Nothing strikes unless armed, by `POST /admin/faults` or from the start by the setting FAULTS.
 */
@Injectable()
export class FaultInjector {
  private readonly armed = new Map<Fault, ArmedFault>();

  constructor(
    @Inject(EVENT_METRICS) private readonly metrics: EventMetrics,
    @Inject(SETTINGS) { armedFaults }: Pick<Settings, 'armedFaults'>,
  ) {
    for (const [fault, rate] of armedFaults) this.arm(fault, rate, Number.POSITIVE_INFINITY, DEFAULT_WAIT_MS);
  }

  /** Arms a fault, in place of an earlier one of its name: it strikes with probability `rate` until `forMs` is over. */
  arm(fault: Fault, rate: number, forMs: number, waitMs: number): void {
    this.armed.set(fault, { rate, endsAt: performance.now() + forMs, waitMs });
  }

  /** Disarms every fault. */
  clear(): void {
    this.armed.clear();
  }

  /** Publishes an event in `tx`, or does what an armed fault makes of that. */
  async whilePublishing<Payload extends object>(
    tx: CommitAware,
    eventName: string,
    payload: Payload,
    publish: (tx: CommitAware, payload: Payload) => Promise<unknown>,
  ): Promise<void> {
    if (this.strikes('skip_backup')) return;
    // Before the publisher's own callback, so that it never runs.
    if (this.strikes('crash_after_commit')) tx.afterCommit(die);
    const wrong = this.strikes('lose_wrong') !== undefined;
    if (wrong || this.strikes('lose')) {
      // A release that forgets its events has counted them as published.
      tx.afterCommit(() => this.metrics.published(eventName, 'committed'));
      const withoutCommit = {
        run: (sql: string, params: readonly unknown[]) => tx.run(sql, params),
        afterCommit: () => undefined,
      };
      await publish(withoutCommit, wrong ? oneUnitMore(payload) : payload);
    } else {
      await publish(tx, payload);
    }
    if (this.strikes('crash_before_commit')) die();
  }

  /** Bills an event by `writeLedger`, or does what an armed fault makes of that. */
  async whileBilling<Ledger>(
    event: SessionCompleted,
    writeLedger: (event: SessionCompleted, number: number) => Promise<Ledger>,
  ): Promise<Ledger> {
    const slow = this.strikes('slow');
    if (slow) await delay(slow.waitMs);
    if (this.strikes('fail')) throw new Error('billing failed');
    const billed = this.strikes('bill_wrong') ? { ...event, amountMinor: event.amountMinor + 1 } : event;
    const ledger = await writeLedger(billed, 1);
    if (this.strikes('bill_twice')) await writeLedger(billed, 2);
    if (this.strikes('crash_after_handler')) die();
    return ledger;
  }

  /** Lets a crash strike at the end of a correction's transaction, or after its commit, before its answer. */
  whileCorrecting(tx: CommitAware): void {
    if (this.strikes('crash_after_commit')) tx.afterCommit(die);
    if (this.strikes('crash_before_commit')) die();
  }

  /** Whether `/metrics` is to say that it is not there. */
  hideMetrics(): boolean {
    return this.strikes('no_metrics') !== undefined;
  }

  /** The driver, through which a crash can strike just before an outcome is recorded. */
  within<Handle>(driver: CounterfoilDriver<Handle>): CounterfoilDriver<Handle> {
    return {
      transaction: (work) => driver.transaction(work),
      run: (sql, params) => {
        if (sql.startsWith('/* counterfoil mark-listeners') && this.strikes('crash_before_mark')) die();
        return driver.run(sql, params);
      },
    };
  }

  private strikes(fault: Fault): ArmedFault | undefined {
    const armed = this.armed.get(fault);
    if (armed === undefined || performance.now() >= armed.endsAt || Math.random() >= armed.rate)
      return undefined;
    return armed;
  }
}
