/** What helm prints after an install: what is protected, what is not, and what to do first. */
import { readFileSync } from 'node:fs';
import { describe, expect, inject, test } from 'vitest';
import { sessionBilling } from '../builders/checks.ts';
import { type Layers, renderNotes, required } from './render.ts';

/** The rows of the first table: what, and whether. */
const protection = (notes: string) =>
  Object.fromEntries(
    [...notes.matchAll(/^ {2}(\S.*?) +(yes|NO) +\S.*$/gm)].map(([, what = '', whether]) => [what, whether]),
  );
const gaps = (notes: string) => [...notes.matchAll(/^ {2}! (.*)$/gm)].map(([, gap = '']) => gap);

const guarded = {
  rollout: { enabled: true, deployment: 'billing', replicas: 4, router: { type: 'traefik' } },
  metrics: { service: { elsewhere: true } },
};
const event = { name: 'services.session.completed.v1', key: ['sessionId'] };
/** Nothing is left to complain of. */
const whole: Layers = [
  required,
  guarded,
  {
    service: { correctionsPath: '/admin/billing/corrections', podLabels: { app: 'billing' } },
    metrics: { service: { enabled: true, elsewhere: false } },
    prometheusRule: {
      runbookBaseUrl: 'https://wiki.example.org/runbooks/',
      dashboardBaseUrl: 'https://grafana.example.org/d/',
    },
    checks: [sessionBilling({ event: { ...event, match: { amountMinor: 'amount_minor' } } })],
    complaints: { query: 'vector(0)' },
    alertmanagerConfig: { enabled: true },
    exporter: { replicas: 2 },
    jobs: { flowProbe: { enabled: true }, backupRetention: { enabled: true, days: 90 } },
  },
];
const and = (...layers: object[]): Layers =>
  [whole, ...layers].flat() as readonly (string | Record<string, unknown>)[];

describe.skipIf(inject('chartTools') === undefined)('the notes', () => {
  test('say of three values what is protected, and what is not', async () => {
    const notes = await renderNotes(required);
    expect(protection(notes)).toEqual({
      'lost events come back': 'yes',
      'every fact has its right bill': 'yes',
      'what is missing is mended': 'yes',
      'the flow is walked as a customer': 'NO',
      'processed events are deleted': 'NO',
      'people are told': 'yes',
      'releases stop themselves': 'NO',
    });
    expect(gaps(notes)).toContain('A bad release reaches all customers: rollout.enabled is false.');
    expect(notes).not.toContain('ADOPTING');
  });

  test('have no gap to tell where there is none', async () => {
    const notes = await renderNotes(whole);
    expect(Object.values(protection(notes))).toEqual(Array(7).fill('yes'));
    expect(gaps(notes)).toEqual([]);
    expect(notes).not.toContain('WHAT IS NOT');
  });

  test.each<[string, object, RegExp]>([
    [
      'replay',
      {
        jobs: { eventReplay: { enabled: false }, billingReconciliation: { repair: false } },
        exporter: { repairAfterAbort: false },
      },
      /^Lost events stay lost/,
    ],
    ['reconciliation', { jobs: { billingReconciliation: { enabled: false } } }, /^Nobody compares facts/],
    ['one mode', { jobs: { billingReconciliation: { full: { enabled: false } } } }, /has no mode full/],
    ['repair', { jobs: { billingReconciliation: { repair: false } } }, /found and not mended/],
    ['corrections', { service: { correctionsPath: '' } }, /^Approved corrections are refused/],
    ['an outbox', { service: { republishFunction: 'f' } }, /outbox of a predecessor/],
    [
      'a job that is suspended',
      { jobs: { eventReplay: { overrides: { suspend: true } } } },
      /^jobs\.eventReplay stands still/,
    ],
    ['the migration', { jobs: { schema: { mode: 'none' } } }, /^Nobody migrates/],
    ['a dry retention', { jobs: { backupRetention: { dryRun: true } } }, /named and not deleted/],
    ['a monitor', { metrics: { podMonitor: { enabled: false } } }, /^No monitor asks/],
    ['the alerts', { prometheusRule: { enabled: false }, rollout: { enabled: false } }, /^Nobody is told/],
    ['shared alerts', { prometheusRule: { shared: true } }, /those of another release/],
    [
      'one alert',
      { prometheusRule: { disabled: { CounterfoilOverdueEvents: true } } },
      /^The alert CounterfoilOverdueEvents is left out/,
    ],
    [
      'runbooks',
      { prometheusRule: { runbookBaseUrl: 'https://counterfoil.example/runbooks/' } },
      /runbooks that are not there/,
    ],
    [
      'dashboards',
      { prometheusRule: { dashboardBaseUrl: 'https://grafana.example/d/' } },
      /dashboards that are not there/,
    ],
    ['inhibition', { alertmanagerConfig: { enabled: false } }, /page several times/],
    ['complaints', { complaints: { query: '' } }, /^Nobody counts complaints/],
    [
      'the service’s metrics',
      { metrics: { service: { enabled: false } }, rollout: { enabled: false } },
      /^Nobody is known to scrape the service/,
    ],
    ['versions', { service: { versions: false } }, /service\.versions is false/],
    [
      'what of an event must agree, of the built-in check',
      { checks: [] },
      /^What an aborted .* check session-billing /,
    ],
    [
      'what of an event must agree, of a check',
      { checks: [sessionBilling({ name: 'evaluations', event })] },
      /^What an aborted .* check evaluations /,
    ],
    ['the canary', { rollout: { enabled: false } }, /^A bad release reaches all customers/],
    [
      'a condition',
      { rollout: { conditions: { loss: { mode: 'observe' } } } },
      /^No release is rolled back at once for loss/,
    ],
    ['a gate', { rollout: { gates: { observe: ['probe'] } } }, /^The gate probe only shows/],
    ['the router', { rollout: { replicas: 100, router: { type: 'none' } } }, /share of the pods/],
    [
      'what a canary is judged by',
      { metrics: { podMonitor: { enabled: false } } },
      /^Unless something else loads the rules/,
    ],
    ['the rules of complaints', { prometheusRule: { enabled: false } }, /^Nobody records complaints/],
    ['a second exporter', { exporter: { replicas: 1 } }, /set exporter\.replicas to 2/],
    ['the network policies', { networkPolicy: { enabled: false } }, /may reach anything/],
  ])('say aloud that it is off: %s', async (_, values, sentence) => {
    const found = gaps(await renderNotes(and(values)));
    expect(found.filter((gap) => sentence.test(gap))).toHaveLength(1);
  });

  test('do not say it of the service’s metrics where something else scrapes them', async () => {
    const found = gaps(await renderNotes(and({ metrics: { service: { enabled: false, elsewhere: true } } })));
    expect(found).toEqual([]);
  });

  test('say that without the exporter there is nothing to see, and then nothing of its parts', async () => {
    const found = gaps(await renderNotes([required, { exporter: { enabled: false } }]));
    expect(found).toContain(
      'There are no metrics, no alerts, no dashboards and no canary: exporter.enabled is false.',
    );
    expect(found.join(' ')).not.toContain('runbooks');
  });

  test('name the two steps of the service’s own chart where its Deployment is adopted, and only there', async () => {
    const notes = await renderNotes(whole);
    expect(notes).toContain('ADOPTING THE DEPLOYMENT billing');
    expect(notes).toContain('`replicas: 0`');
    expect(notes).toContain('`role: stable`');
    const owning = await renderNotes(
      and({
        rollout: {
          deployment: '',
          selector: { matchLabels: { app: 'billing' } },
          template: {
            metadata: { labels: { app: 'billing' } },
            spec: { containers: [{ name: 'billing', image: 'billing' }] },
          },
        },
      }),
    );
    expect(owning).not.toContain('ADOPTING');
  });

  test('say the opposite where no router splits: the service’s own Service does', async () => {
    const notes = await renderNotes(and({ rollout: { replicas: 100, router: { type: 'none' } } }));
    expect(notes).toContain('ADOPTING THE DEPLOYMENT billing');
    expect(notes).not.toContain('`role: stable`');
    expect(notes).toContain('its own Service selects no `role`');
  });

  test('say how much traffic the first step needs, and who decides with less', async () => {
    // 149 of 1 % within 2 h and the 24 h that the gate waits: 14,900 / 26.
    const notes = await renderNotes(whole);
    expect(notes).toContain('wants 149 events');
    expect(notes).toContain('fewer than 574 an hour');
    expect(notes).toContain('every release is rolled back');
    const probed = await renderNotes(and({ rollout: { gates: { quiet: 'probe' } } }));
    expect(probed).toContain('the gate probe decides alone');
    expect(probed).not.toContain('every release is rolled back');
    const unsampled = await renderNotes(and({ service: { versions: false } }));
    expect(unsampled).not.toContain('an hour in the whole');
  });

  test('quote of a guarded release what docs/canary-figures.md has, and of another nothing', async () => {
    const figures = readFileSync(new URL('../../docs/canary-figures.md', import.meta.url), 'utf8');
    const [lost = ''] = /^Lost events:.*?(?=^Wrong bills)/ms.exec(figures) ?? [];
    /** Median minutes to the abort of a release that loses 2 %. */
    const minutes = (traffic: string) => {
      const row = lost.split('\n').find((line) => line.startsWith(`| ${traffic} |`)) ?? '';
      return Number(/aborted .*?, (\d+) min, at 1 %/.exec(row.split(' | ')[5] ?? '')?.[1]);
    };
    const notes = await renderNotes(and());
    const [, ten, hundred, thousand] =
      /after (\d+) min where .* 10 events a second, (\d+) min at 100, (\d+) min at 1,000/.exec(notes) ?? [];
    expect([Number(ten), Number(hundred)]).toEqual([minutes('10/s'), minutes('100/s')]);
    // The second run of that cell was slower, and stands below the tables.
    expect(figures).toContain(
      `1,000 events a second (${thousand} min where the table says ${minutes('1,000/s')})`,
    );
    const [, good] = /of (\d+) good releases none/.exec(notes) ?? [];
    expect(figures).toContain(`0 of ${good} with enough traffic`);
    expect(await renderNotes(required)).not.toContain('WHAT A CANARY FINDS');
  });

  test('say what stays behind', async () => {
    expect(await renderNotes(whole)).not.toContain('that a hook made');
    expect(await renderNotes(and({ rollout: { router: { create: true } } }))).toContain(
      "the router's object that a hook made",
    );
  });

  test('name commands with the names of this release', async () => {
    const notes = await renderNotes(whole);
    expect(notes).toContain('helm test guard -n shop --logs');
    expect(notes).toContain(
      'exec -n shop deploy/guard-counterfoil-exporter -- env CF_EXPORTER_URL=http://127.0.0.1:9464',
    );
    expect(notes).toContain('kubectl argo rollouts get rollout billing -n shop');
    expect(notes).toContain('helm uninstall guard -n shop');
    expect(notes).toContain('keeps the Rollout, its Services and its analysis');
    expect(await renderNotes(required)).not.toContain('argo rollouts');
  });

  test('hold no name of a Secret', async () => {
    const notes = await renderNotes(whole);
    expect(notes).not.toContain('billing-database');
    expect(notes).not.toContain('billing-token');
  });
});
