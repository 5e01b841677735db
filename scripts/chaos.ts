/** The service under load is killed again and again, and in the end every completed session has exactly one bill. */
import { parseArgs } from 'node:util';
import { type ChaosReport, type Disturbance, disturbances, runChaos } from './chaos-run.ts';
import { createProgress } from './progress.ts';

const help = `Disturbs the reference service under load while the jobs repair what is cut off, and judges the bills.

  npm run chaos -- [options]

  --kills N         how often (default 20)
  --seed S          decides the moments (default: the time of day; it is printed)
  --disturb WHAT    sigkill     the service is killed and started again (default)
                    clock       the same, with its clock an hour ahead or behind and another time zone
                    postgres    the database crashes and recovers
                    half-open   its connections to the database go silent (each takes it about 15 s to notice)
  --without-jobs    no replay and no reconciliation: the verdict must then be bad
  --json            the last line of standard output is the result as one JSON object
  --help

Exit code 1: a session without a bill or with two, an event still pending, a discrepancy still open, or fewer than
80 % of the kills left an event pending, and the run proves nothing.
`;

async function main(): Promise<number> {
  const options = parseArgs({
    options: {
      kills: { type: 'string', default: '20' },
      seed: { type: 'string', default: String(Date.now() % 1_000_000) },
      disturb: { type: 'string', default: 'sigkill' },
      'without-jobs': { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  }).values;
  if (options.help) {
    process.stdout.write(help);
    return 0;
  }
  const times = Number(options.kills);
  const seed = Number(options.seed);
  const disturbance = disturbances.find((name) => name === options.disturb);
  if (!Number.isInteger(times) || times < 1 || !Number.isInteger(seed) || disturbance === undefined) {
    process.stderr.write(
      `--kills must be a whole number of at least 1, --seed a whole number, --disturb one of ${disturbances.join(', ')}\n`,
    );
    return 2;
  }
  // An end by exit() takes all processes along; one by the signal itself would leave them behind.
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.once(signal, () => process.exit(130));
  const progress = createProgress(2);
  const loadEnded = Promise.withResolvers<void>();
  const strikes: string[] = [];
  let done = 0;
  const running = runChaos({
    disturbance,
    times,
    seed,
    withoutJobs: options['without-jobs'],
    onStrike(strike, number) {
      done = number;
      const line = `${disturbance} ${number}: ${strike.pending} events pending, ${strike.listenersAtWork} listeners at work, ${strike.requestsOpen} requests open`;
      strikes.push(line);
      if (!process.stderr.isTTY) process.stderr.write(`${line}\n`);
    },
    onLoadEnd: () => loadEnded.resolve(),
  });
  running.catch(() => undefined);
  await progress.step(`${times} times ${disturbance} under load, seed ${seed}`, async (report) => {
    const timer = setInterval(() => report(done / times), 100);
    try {
      await Promise.race([loadEnded.promise, running]);
    } finally {
      clearInterval(timer);
    }
  });
  const report = await progress.step('the jobs, until nothing is left to repair', () => running);
  if (process.stderr.isTTY) process.stdout.write(`${strikes.join('\n')}\n`);
  process.stdout.write(summary(report, disturbance));
  if (options.json) process.stdout.write(`${JSON.stringify(report.result)}\n`);
  return report.problems.length === 0 ? 0 : 1;
}

function summary(report: ChaosReport, disturbance: Disturbance): string {
  const { result } = report;
  return [
    '',
    `${result.completed} sessions were completed, ${report.requestsFailed} requests had no good answer; ${result.kills} times ${disturbance},`,
    `of which ${result.killsWithPending} left events pending: ${result.recovered} of them are processed and billed by now.`,
    `Lost ${result.lost}, billed twice ${result.billedTwice}, still pending ${report.stillPending}, discrepancies open ${report.openDiscrepancies ?? 'unknown'}.`,
    `Until the last event of a kill was processed: p50 ${report.secondsToRecoverP50} s, p99 ${result.secondsToRecoverP99} s.`,
    ...(report.problems.length === 0
      ? ['Every completed session has exactly one bill.']
      : ['Not good:', ...report.problems.map((problem) => `  ${problem}`)]),
    '',
  ].join('\n');
}

try {
  process.exitCode = await main();
} catch (error) {
  if (String((error as { code?: unknown }).code).startsWith('ERR_PARSE_ARGS')) {
    process.stderr.write(`${(error as Error).message}\n\n${help}`);
    process.exitCode = 2;
  } else {
    process.stderr.write(`the chaos run could not go on: ${(error as Error).message}\n`);
    process.exitCode = 1;
  }
}
