/** What a run has done: counts, one log line per finding that changed, and the same for the report. */
import { writeFileSync } from 'node:fs';
import { RunFailure } from '../runtime/failures.ts';
import type { Logger } from '../runtime/logger.ts';
import type { RunCounts } from '../runtime/run-record.ts';
import type { FindingChange, FindingStatus } from './findings.ts';
import { formatInstant, parseInstant } from './instant.ts';

/** A finding as it is logged and reported: keys, causes, amounts and ids, nothing else of a row. */
interface ReportedFinding {
  readonly check: string;
  readonly kind: string;
  readonly key: readonly (string | null)[];
  readonly status: FindingStatus;
  readonly finding?: string;
  readonly was?: FindingStatus;
  readonly row_id?: string;
  readonly cause?: string;
  readonly event_id?: string;
  readonly published_hash?: string;
  /** `2026-11-23T06:00:00.000000Z`. */
  readonly fact_at?: string;
  readonly expected_minor?: string;
  readonly actual_minor?: string;
  readonly currency?: string;
  readonly provisional?: true;
}

const zeroCounts = {
  windows: 0,
  facts: 0,
  ledger_rows: 0,
  looked_again: 0,
  suspected: 0,
  opened: 0,
  resolved: 0,
  waived: 0,
  updated: 0,
  future_facts: 0,
  requests: 0,
  replays_requested: 0,
  rebuilds_requested: 0,
  standing_suspected: 0,
  standing_open: 0,
  standing_acknowledged: 0,
};

type CountName = keyof typeof zeroCounts;

export class Tally {
  readonly #logger: Logger;
  readonly #counts = { ...zeroCounts };
  readonly #findings: ReportedFinding[] = [];

  constructor(logger: Logger) {
    this.#logger = logger;
  }

  count(name: CountName, by: number): void {
    this.#counts[name] += by;
  }

  counts(): RunCounts {
    return { ...this.#counts };
  }

  /** A finding that this run wrote: a line when its status changed, else only a count. */
  note(check: string, change: FindingChange): void {
    if (change.was === change.status) {
      this.count('updated', 1);
      return;
    }
    switch (change.status) {
      case 'suspected':
        this.count('suspected', 1);
        break;
      case 'open':
        this.count('opened', 1);
        break;
      case 'resolved':
        this.count('resolved', 1);
        break;
      case 'waived':
        this.count('waived', 1);
        break;
      case 'acknowledged':
        throw new RunFailure('internal', `a run must not make a finding ${change.status}`);
    }
    this.report({
      check,
      kind: change.kind,
      key: JSON.parse(change.key) as (string | null)[],
      status: change.status,
      finding: change.id,
      ...present({
        was: change.was,
        row_id: change.row_id === '' ? null : change.row_id,
        cause: change.cause,
        event_id: change.event_id,
        published_hash: change.published_hash,
        fact_at: change.fact_at === null ? null : formatInstant(parseInstant(change.fact_at)),
        expected_minor: change.expected_minor,
        actual_minor: change.actual_minor,
        currency: change.currency,
      }),
      ...(change.provisional ? { provisional: true } : {}),
    });
  }

  report(finding: ReportedFinding): void {
    this.#findings.push(finding);
    const level = finding.status === 'open' ? 'warn' : 'info';
    this.#logger[level](finding, `finding ${finding.status}`);
  }

  /** Writes the report file; a report that cannot be written is a failure, since somebody waits for it. */
  writeReport(path: string, summary: Readonly<Record<string, unknown>>): void {
    try {
      writeFileSync(
        path,
        `${JSON.stringify({ ...summary, counts: this.counts(), findings: this.#findings }, null, 2)}\n`,
      );
    } catch (error) {
      throw new RunFailure('settings_invalid', 'the file that CF_REPORT_FILE names cannot be written', {
        cause: error,
      });
    }
  }
}

/** The fields that are known. */
export function present<Fields extends Readonly<Record<string, unknown>>>(
  fields: Fields,
): { [Name in keyof Fields]?: NonNullable<Fields[Name]> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== null)) as {
    [Name in keyof Fields]?: NonNullable<Fields[Name]>;
  };
}
