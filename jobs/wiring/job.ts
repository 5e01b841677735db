/** wiring as a job: tries one thing that the chart has wired, until it is right or its time is over. */
import { RunFailure } from '../runtime/failures.ts';
import { pause } from '../runtime/pause.ts';
import type { Job } from '../runtime/run-job.ts';
import { tryDatabase } from './database.ts';
import { tryEndpoint } from './endpoint.ts';
import { type WiringContext, wiringSettings } from './env.ts';
import { tryExporter } from './exporter.ts';
import { tryPrometheus } from './prometheus.ts';

/** What is not right yet, one sentence each; throws where waiting cannot help. */
export type Attempt = (context: WiringContext) => Promise<readonly string[]>;

const PAUSE_MS = 2_000;

const attempts: Readonly<Record<WiringContext['settings']['CF_SUBJECT'], Attempt>> = {
  database: tryDatabase,
  endpoint: tryEndpoint,
  prometheus: tryPrometheus,
  exporter: tryExporter,
};

export const wiringJob: Job<typeof wiringSettings> = {
  name: 'wiring',
  settings: wiringSettings,
  mode: (settings) => settings.CF_SUBJECT,
  // It looks from outside: what it tries may not be there at all.
  hasState: () => false,
  exitsOnFindings: () => false,
  async run(context) {
    const { settings, signal, logger } = context;
    const attempt = attempts[settings.CF_SUBJECT];
    const deadline = performance.now() + settings.CF_WAIT_SECONDS;
    for (;;) {
      const problems = await attempt(context);
      if (problems.length === 0) break;
      const leftMs = deadline - performance.now();
      if (leftMs <= 0 || signal.aborted) throw new RunFailure('wiring_wrong', problems.join('; '));
      logger.info({ problems }, 'not right yet');
      await pause(Math.min(PAUSE_MS, leftMs), signal);
    }
    return { outcome: 'succeeded', counts: {}, message: `${settings.CF_SUBJECT}: wired as it must be` };
  },
};

/** A setting that this subject cannot do without. */
export function needed(context: WiringContext, name: keyof typeof wiringSettings): string {
  const value = context.settings[name];
  if (typeof value !== 'string')
    throw new RunFailure(
      'settings_invalid',
      `${name}: is required with CF_SUBJECT=${context.settings.CF_SUBJECT}`,
    );
  return value;
}
