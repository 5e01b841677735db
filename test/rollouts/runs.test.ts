/**
 * Whole analyses by Argo's own controller, under a clock of our own: when they end and how, whatever their sources say. None of
 * them ends inconclusive: such a pause would leave the canary its traffic and nobody to judge it.
 */
import fc from 'fast-check';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { AnalysisVerdict, type Answer, type TimedAnswer } from './analysis-verdict.ts';
import { type Metric, readRollout, readTemplate } from './rollout-files.ts';

const HOUR = 3_600;
const args = { 'canary-hash': '6d5f7c9b8', 'published-hash': '6d5f7c9b8', since: '2h' };
const one: Answer = { vector: ['1'] };
const zero: Answer = { vector: ['0'] };
const none: Answer = { vector: [] };
const away: Answer = { error: 'connection refused' };
const gate = (verdict: string): Answer => ({ status: 200, body: { verdict } });
const done: Answer = { job: 'Complete', seconds: 20 };
const failed: Answer = { job: 'Failed', seconds: 20 };

/** A good source of each metric. */
const healthy: Readonly<Record<string, Answer>> = {
  loss: zero,
  billing: zero,
  crashes: zero,
  complaints: none,
  verdict: gate('not_enough_data'),
  telemetry: one,
  'service-metrics': one,
  sample: gate('pass'),
  errors: one,
  latency: one,
  probe: done,
  reconciliation: done,
};

const namesIn = (templates: readonly { readonly templateName: string }[]) =>
  templates.map(({ templateName }) => templateName.replace(/^counterfoil-/, ''));
const { analysis, steps } = readRollout('rollout').spec.strategy.canary;
const background = namesIn(analysis.templates);
const gates = namesIn(steps.at(-1)?.analysis?.templates ?? []);

const tools = inject('rolloutTools');

describe.skipIf(tools === undefined)('an analysis', () => {
  const verdict = new AnalysisVerdict(tools?.['analysis-verdict'] ?? 'true');
  afterAll(async () => await verdict.stop());

  /** @param changed by the name of the metric: what its source says otherwise, from so many seconds on */
  const run = async (
    names: readonly string[],
    changed: Readonly<Record<string, readonly TimedAnswer[]>> = {},
    until = 3 * HOUR,
    dryRun: readonly string[] = [],
  ) =>
    await verdict.run({
      templates: names.map(readTemplate),
      args,
      dryRun,
      until,
      answers: Object.fromEntries(names.map((name) => [name, changed[name] ?? [[0, healthy[name] ?? zero]]])),
    });

  describe('in the background', () => {
    test('watches a good release for fourteen hours and never ends by itself', async () => {
      const { phase, metrics } = await run(background, {}, 14 * HOUR);
      expect(phase).toBe('Running');
      expect(metrics.loss?.count).toBeGreaterThan(3_000);
    });

    test.each(['loss', 'billing', 'crashes', 'complaints'])('aborts within seconds of %s', async (name) => {
      const { phase, endedAt, message } = await run(background, {
        [name]: [
          [0, zero],
          [HOUR, one],
        ],
      });
      expect(phase).toBe('Failed');
      expect(message).toContain(`Metric "${name}" assessed Failed`);
      expect(endedAt).toBeLessThanOrEqual(HOUR + 61);
    });

    test('aborts within a minute of a gate that says fail, and of no other word', async () => {
      const said = (word: string) => ({
        verdict: [
          [0, gate('pass')],
          [HOUR, gate(word)],
        ] as const,
      });
      const { phase, endedAt } = await run(background, said('fail'));
      expect([phase, (endedAt ?? 0) < HOUR + 61]).toEqual(['Failed', true]);
      for (const word of ['pass', 'not_enough_data', 'not_measured'])
        expect((await run(background, said(word))).phase).toBe('Running');
    });

    test.each(['telemetry', 'service-metrics'])(
      'aborts when %s is gone, but not before a new pod can be known',
      async (name) => {
        const early = await run(background, {
          [name]: [
            [0, zero],
            [100, one],
          ],
        });
        expect(early.phase).toBe('Running');
        const late = await run(background, {
          [name]: [
            [0, one],
            [HOUR, zero],
          ],
        });
        expect([late.phase, (late.endedAt ?? 0) < HOUR + 16]).toEqual(['Failed', true]);
      },
    );

    test('lets Prometheus be away for less than five minutes, and aborts after more', async () => {
      const short = {
        loss: [
          [0, zero],
          [HOUR, away],
          [HOUR + 280, zero],
        ] as const,
      };
      expect((await run(background, short)).phase).toBe('Running');
      const long = await run(background, {
        loss: [
          [0, zero],
          [HOUR, away],
        ],
      });
      expect(long.phase).toBe('Error');
      expect(long.endedAt).toBeGreaterThan(HOUR + 280);
      expect(long.endedAt).toBeLessThan(HOUR + 340);
    });

    test('shows what it only observes, and goes on', async () => {
      const { phase, metrics } = await run(background, { complaints: [[0, one]] }, HOUR, ['^complaints$']);
      expect(phase).toBe('Running');
      expect(metrics.complaints).toMatchObject({ phase: 'Failed', dryRun: true });
    });
  });

  describe('at the end of a step', () => {
    test('lets a good release through within minutes', async () => {
      const { phase, endedAt } = await run(gates);
      expect([phase, (endedAt ?? HOUR) < 120]).toEqual(['Successful', true]);
    });

    test('waits for a quiet one, and lets it through when enough was seen', async () => {
      const { phase, endedAt } = await run(
        gates,
        {
          sample: [
            [0, gate('not_enough_data')],
            [9 * HOUR, gate('pass')],
          ],
        },
        10 * HOUR,
      );
      expect(phase).toBe('Successful');
      expect(endedAt).toBeGreaterThan(9 * HOUR);
      expect(endedAt).toBeLessThan(9 * HOUR + 120);
    });

    test('fails after a day without enough, not before', async () => {
      const waiting = { sample: [[0, gate('not_enough_data')]] as const };
      expect((await run(gates, waiting, 23 * HOUR)).phase).toBe('Running');
      expect((await run(gates, waiting, 25 * HOUR)).phase).toBe('Failed');
    });

    test.each(['fail', 'not_measured', 'not_enough_data', 'flibber'])(
      'does not take the verdict %s for a pass',
      async (word) => {
        expect((await run(gates, { sample: [[0, gate(word)]] }, HOUR)).phase).toBe('Running');
      },
    );

    test.each(['errors', 'latency'])('waits while %s are bad, or nobody knows them', async (name) => {
      for (const answer of [zero, none])
        expect((await run(gates, { [name]: [[0, answer]] }, HOUR)).phase).toBe('Running');
      expect(
        (
          await run(
            gates,
            {
              [name]: [
                [0, zero],
                [600, one],
              ],
            },
            HOUR,
          )
        ).phase,
      ).toBe('Successful');
    });

    test('fails when the probe does, although its metric has but one measurement', async () => {
      expect((await run(gates, { probe: [[0, failed]] }, HOUR)).phase).toBe('Failed');
    });

    test('waits for a clean reconciliation: what replay mends is clean at a later look', async () => {
      const { phase, endedAt } = await run(
        gates,
        {
          reconciliation: [
            [0, failed],
            [400, done],
          ],
        },
        HOUR,
      );
      expect(phase).toBe('Successful');
      expect(endedAt).toBeGreaterThan(400);
    });

    test('a source that is away for longer than five minutes ends it', async () => {
      expect((await run(gates, { sample: [[0, away]] }, HOUR)).phase).toBe('Error');
      expect((await run(gates, { sample: [[0, { status: 503, body: {} }]] }, HOUR)).phase).toBe('Error');
    });
  });

  test('never ends inconclusive, whatever the sources say and in whatever order', {
    timeout: 300_000,
  }, async () => {
    const values = fc.constantFrom<Answer>(
      one,
      zero,
      none,
      away,
      { vector: ['NaN'] },
      { vector: ['+Inf'] },
      { scalar: '1' },
    );
    const verdicts = fc.constantFrom('pass', 'fail', 'not_enough_data', 'not_measured').map(gate);
    const answers = (metric: Metric | undefined): fc.Arbitrary<Answer> =>
      metric?.provider.job !== undefined
        ? fc.constantFrom(done, failed)
        : metric?.provider.web !== undefined
          ? fc.oneof(verdicts, fc.constant(away), fc.constant<Answer>({ status: 200, body: 'a login page' }))
          : values;
    const said = (name: string) =>
      fc
        .array(fc.tuple(fc.integer({ min: 1, max: 2 * HOUR }), answers(readTemplate(name).spec.metrics[0])), {
          minLength: 1,
          maxLength: 40,
        })
        .map((changes): TimedAnswer[] => [
          [0, healthy[name] ?? zero],
          ...changes.sort(([left], [right]) => left - right),
        ]);
    for (const names of [background, gates]) {
      const sources = fc.record(Object.fromEntries(names.map((name) => [name, said(name)])));
      const observed = fc.subarray([...names]).map((some) => some.map((name) => `^${name}$`));
      await fc.assert(
        fc.asyncProperty(sources, observed, async (changed, dryRun) => {
          const { phase, metrics } = await run(
            names,
            changed,
            names === gates ? 26 * HOUR : 2.5 * HOUR,
            dryRun,
          );
          const phases = Object.values(metrics).map((metric) => metric.phase);
          expect([phase, ...phases]).not.toContain('Inconclusive');
        }),
        { numRuns: 25 },
      );
    }
  });

  test.each<[string, Partial<Metric>, readonly TimedAnswer[]]>([
    [
      'two conditions, and NaN',
      { successCondition: 'result[0] <= 0', failureCondition: 'result[0] > 0' },
      [[0, { vector: ['NaN'] }]],
    ],
    [
      'limits on failures and on successes, and a source that comes and goes',
      { count: 2, consecutiveSuccessLimit: 2 },
      [
        [0, zero],
        [12, away],
        [25, zero],
      ],
    ],
  ])('careless ones do: %s', async (_what, change, answers) => {
    const template = readTemplate('loss');
    const careless = { ...template.spec.metrics[0], ...change } as Metric;
    const { phase } = await verdict.run({
      templates: [{ ...template, spec: { ...template.spec, metrics: [careless] } }],
      args,
      until: HOUR,
      answers: { loss: answers },
    });
    expect(phase).toBe('Inconclusive');
  });

  test('a careless limit passes whatever happens', async () => {
    const template = readTemplate('probe');
    const careless = { ...template.spec.metrics[0], failureLimit: 1 } as Metric;
    const { phase } = await verdict.run({
      templates: [{ ...template, spec: { metrics: [careless] } }],
      until: HOUR,
      answers: { probe: [[0, failed]] },
    });
    expect(phase).toBe('Successful');
  });
});
