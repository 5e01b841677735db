/** How releases fare that are good, lose events, bill wrongly, crash, or go dark. See docs/benchmarks.md. */
import { spawnSync } from 'node:child_process';
import { appendFileSync, writeFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { exporterSettings } from '../../jobs/exporter/env.ts';
import type { GateThresholds } from '../../jobs/exporter/gate.ts';
import { createProgress } from '../../scripts/progress.ts';
import { findTool } from '../tools/find-tool.ts';
import { LineProgram } from './line-program.ts';
import { readCanary } from './releases-canary.ts';
import { type PlannedRelease, planAll, shares } from './releases-plan.ts';
import { type Outcome, replayBatch } from './releases-replay.ts';
import { cellsOf, matrixOf, tableOf } from './releases-table.ts';

const help = `Replays synthetic releases through our rules in Prometheus's engine and our templates in Argo's evaluator.

  npm run bench:releases [-- options]

  --each N       releases of each cell; of those without a fault three times as many (default 45)
  --seed N       of the first release (default 1)
  --only RE      only the cells whose "traffic fault" matches
  --held N       hours at a gate after which a release counts as held (default 1)
  --batch N      releases in one storage (default 250)
  --out FILE     writes each outcome as a line of JSON as soon as its batch has ended
  --json         the last line of standard output is the result as one JSON object
  --cluster      instead, real releases on the cluster that KUBECONFIG names (npm run test:cluster says what it needs),
                 with wrong shares and faults from the seed; two hours and more
  --good N       of them without a fault (default 10)
  --bad N        of them with one (default 20)
  --help
`;

const alert = (name: string) => fileURLToPath(new URL(`../../alerts/${name}.yaml`, import.meta.url));
/** What the analysis reads stands in these; of them only the rules that it needs are evaluated. */
export const ruleFiles = ['billing', 'canary', 'events', 'service', 'exporter'].map(alert);
export const thresholdsFile = alert('thresholds');

/** The exporter's own defaults. */
export function gateThresholds(): GateThresholds {
  const of = (name: keyof typeof exporterSettings): number => Number(exporterSettings[name].parse(undefined));
  return {
    billingShare: of('CF_GATE_BILLING_PER_MILLE') / 1_000,
    lossShare: of('CF_GATE_LOSS_PER_MILLE') / 1_000,
    minimumBad: of('CF_GATE_MINIMUM_BAD'),
    minimumJudged: of('CF_GATE_MINIMUM_JUDGED'),
    sample: of('CF_GATE_SAMPLE'),
  };
}

export async function replayAll(
  releases: readonly PlannedRelease[],
  options: {
    readonly batch: number;
    readonly heldAfterSeconds: number;
    readonly askSeconds?: number;
    readonly report?: (share: number) => void;
    readonly ended?: (outcomes: readonly Outcome[]) => void;
  },
): Promise<Outcome[]> {
  const programs = {
    prometheus: new LineProgram(await findTool('release-replay')),
    argo: new LineProgram(await findTool('analysis-verdict')),
  };
  const outcomes: Outcome[] = [];
  try {
    for (const batch of batchesOf(releases, options.batch)) {
      const done = await replayBatch(batch, programs, {
        rules: ruleFiles,
        thresholds: thresholdsFile,
        gate: gateThresholds(),
        canary: readCanary('{{args.canary-hash}}'),
        heldAfterSeconds: options.heldAfterSeconds,
        ...(options.askSeconds === undefined ? {} : { askSeconds: options.askSeconds }),
        report: (share) =>
          options.report?.((outcomes.length + share * batch.length) / Math.max(1, releases.length)),
      });
      outcomes.push(...done);
      options.ended?.(done);
    }
  } finally {
    await Promise.all([programs.prometheus.close(), programs.argo.close()]);
  }
  return outcomes;
}

/**
 * Those that crash are looked at together, since their rules look back a day; and those that go far are kept apart from those
 * that end soon, since what has ended is looked through all the same.
 */
function batchesOf(releases: readonly PlannedRelease[], size: number): PlannedRelease[][] {
  const groups = Map.groupBy(releases, ({ crashesPerHour, perSecond, lost, wrongBill }) =>
    crashesPerHour > 0 ? 'crashes' : perSecond < 1 ? 'quiet' : lost + wrongBill < 0.005 ? 'far' : 'near',
  );
  const batches: PlannedRelease[][] = [];
  for (const group of groups.values())
    for (let from = 0; from < group.length; from += size) batches.push(group.slice(from, from + size));
  return batches;
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      each: { type: 'string', default: '45' },
      seed: { type: 'string', default: '1' },
      only: { type: 'string', default: '.' },
      held: { type: 'string', default: '1' },
      batch: { type: 'string', default: '250' },
      out: { type: 'string' },
      json: { type: 'boolean', default: false },
      cluster: { type: 'boolean', default: false },
      good: { type: 'string', default: '10' },
      bad: { type: 'string', default: '20' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) process.stdout.write(help);
  else if (values.cluster) {
    const start = fileURLToPath(new URL('../cluster/start.ts', import.meta.url));
    const { status } = spawnSync(
      process.execPath,
      [start, '--lane', 'cluster-long', 'test/cluster/long/thirty-releases.test.ts'],
      {
        stdio: 'inherit',
        env: {
          ...process.env,
          CLUSTER_GOOD: values.good,
          CLUSTER_BAD: values.bad,
          CLUSTER_SEED: values.seed,
        },
      },
    );
    process.exitCode = status ?? 1;
  } else {
    const only = new RegExp(values.only);
    const releases = planAll({ each: Number(values.each), seed: Number(values.seed) }).filter(
      ({ traffic, fault }) => only.test(`${traffic} ${fault}`),
    );
    if (values.out !== undefined) writeFileSync(values.out, '');
    const startedAt = Date.now();
    const outcomes = await createProgress(1).step(
      `${releases.length} releases`,
      async (report) =>
        await replayAll(releases, {
          batch: Number(values.batch),
          heldAfterSeconds: Number(values.held) * 3_600,
          report,
          ended: (done) => {
            if (values.out !== undefined)
              appendFileSync(values.out, done.map((one) => `${JSON.stringify(one)}\n`).join(''));
          },
        }),
    );
    const cells = cellsOf(outcomes);
    const seconds = Math.round((Date.now() - startedAt) / 1_000);
    for (const kind of ['lost', 'wrong bills'])
      process.stdout.write(`${kind}\n\n${matrixOf(cells, kind, Object.keys(shares))}\n\n`);
    process.stdout.write(
      `${tableOf(cells)}\n\n${releases.length} releases in ${seconds} s, ${cpus().length} cores\n`,
    );
    if (values.json)
      process.stdout.write(`${JSON.stringify({ releases: releases.length, seconds, cells })}\n`);
  }
}
