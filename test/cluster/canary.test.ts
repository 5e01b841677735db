/**
 * The whole of it, once, on a real cluster: the chart installed beside the reference service, customers who complete
 * sessions through Traefik, one good release and one that loses events. What is judged is judged by the chart's own
 * thresholds (more than 0.5 % of at least 400 events, at least 3 lost); only times are shortened, all of them in `hurried`.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sessionBilling } from '../builders/checks.ts';
import { BillingService, SERVICE } from './billing-service.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { query, rulesOf } from './prometheus.ts';
import { Release } from './release.ts';
import type { RolloutStatus } from './rollout.ts';

/** `npm run images -- --tag cluster-test` builds them. */
const TAG = process.env.CLUSTER_IMAGE_TAG ?? 'cluster-test';

/** How long one part of the journey may take before it is given up: it takes half of it. */
const MINUTES = { timeout: 900_000 };

/** At 1 % of it 400 events come in less than three minutes; it takes one core, with all that it goes through. */
const PER_SECOND = 250;
const SESSIONS = 400_000;
/** Sessions that no customer completes. */
const LOST = SESSIONS + 1;
const NEVER_PUBLISHED = SESSIONS + 2;

const INSTALLATION = 'guard-counterfoil';

/** Times alone, over those of charts/counterfoil/examples/staging.yaml. */
const hurried = {
  jobs: { eventReplay: { graceSeconds: 15 } },
  exporter: { settings: { CF_LOSS_DELAY_SECONDS: '15' } },
  checks: [
    sessionBilling({
      grace: '30s',
      event: {
        name: 'services.session.completed.v1',
        key: ['sessionId'],
        // Else what the aborted version leaves is parked for a person.
        match: { amountMinor: 'amount_minor', currency: 'currency' },
      },
    }),
  ],
  prometheusRule: { overrides: { CounterfoilVersionLosesEvents: { for: '15s' } } },
  metrics: { podMonitor: { interval: '5s' }, service: { interval: '5s' } },
  rollout: {
    steps: [
      { weight: 1, pause: '30s', gates: ['sample', 'errors', 'probe', 'reconciliation'] },
      { weight: 10, pause: '10s', gates: ['sample', 'errors', 'probe'] },
      { weight: 50, pause: '10s', gates: ['sample', 'errors', 'latency', 'probe'] },
      // The chart refuses less: a loss that begins here would not be seen any more.
      { weight: 100, pause: '70s', gates: ['sample', 'errors', 'latency', 'probe', 'reconciliation'] },
    ],
    conditions: { loss: { interval: '5s' } },
    // Of 149, one release in twenty that loses 2 % shows nothing bad yet, and goes on to 10 %.
    gates: { interval: '5s', sample: { judged: 500 }, reconciliation: { interval: '15s' } },
    abortScaleDownDelaySeconds: 20,
  },
};

/** Two cores do all of this at once, which takes the hot check some seconds; by default it is cut off after one. */
const patient = { CF_STATEMENT_TIMEOUT_MILLISECONDS: '15000', CF_COLLECTION_TIMEOUT_SECONDS: '20' };

const values = {
  ...hurried,
  image: { tag: TAG },
  exporter: { settings: { ...hurried.exporter.settings, ...patient } },
  rollout: { ...hurried.rollout, replicas: 2 },
};

interface AnalysisRun {
  readonly metadata: { readonly name: string };
  readonly status?: {
    readonly phase?: string;
    readonly metricResults?: readonly { readonly name: string; readonly phase: string }[];
  };
}

interface Pod {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly status: { readonly conditions?: readonly { readonly type: string; readonly status: string }[] };
}

let namespace: Namespace;
let service: BillingService;
let release: Release;

beforeAll(async () => {
  for (const image of ['postgres:18', `counterfoil/jobs:${TAG}`, `counterfoil/reference-service:${TAG}`])
    await loadImage(image);
  namespace = await Namespace.create();
  service = new BillingService(namespace, `counterfoil/reference-service:${TAG}`);
  await service.prepare(NEVER_PUBLISHED);
  await service.deploy({ version: 'v1' });
});
afterAll(async () => {
  await namespace?.remove();
});

const rollout = async () => await namespace.get<RolloutStatus>('rollout', SERVICE);
const versions = ({ status }: RolloutStatus) => ({
  stable: status?.stableRS ?? '',
  canary: status?.currentPodHash ?? '',
  weight: status?.canary?.weights?.canary.weight,
});

const inPhase = async (phase: string, seconds: number) =>
  await eventually(`the rollout is ${phase}`, seconds, async () => {
    const now = await rollout();
    if (now.status?.phase !== phase)
      throw new Error(JSON.stringify({ ...versions(now), is: now.status?.phase }));
    return now;
  });

const atWeight = async (weight: number) =>
  await eventually(`a canary gets ${weight} %`, 90, async () => {
    const now = versions(await rollout());
    if (now.weight !== weight || now.canary === now.stable) throw new Error(JSON.stringify(now));
    return now;
  });

async function readyPods(hash: string): Promise<string[]> {
  const { items } = await namespace.get<{ items: Pod[] }>('pods', '-l', `rollouts-pod-template-hash=${hash}`);
  return items
    .filter(({ status }) =>
      status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True'),
    )
    .map(({ metadata }) => metadata.name);
}

/** Phases by metric of the analysis that ran in the background of a version, and of its gates. */
async function analysisOf(
  hash: string,
): Promise<{ phase: string | undefined; metrics: Record<string, string> }[]> {
  const { items } = await namespace.get<{ items: AnalysisRun[] }>(
    ...['analysisruns', '-l', `rollouts-pod-template-hash=${hash}`],
  );
  return items.map(({ status }) => ({
    phase: status?.phase,
    metrics: Object.fromEntries((status?.metricResults ?? []).map(({ name, phase }) => [name, phase])),
  }));
}

/** Events that a version has published, and all of that time, from the service's own table. */
async function published(
  hash: string,
  since: string,
  until = 'infinity',
): Promise<{ own: number; all: number }> {
  const [own, all] = (
    await service.sql(`SELECT count(*) FILTER (WHERE published_hash = '${hash}'), count(*) FROM event_backups
      WHERE event_name = 'services.session.completed.v1' AND created_at >= '${since}' AND created_at < '${until}'`)
  ).split('|');
  return { own: Number(own), all: Number(all) };
}

const now = async () => await service.sql('SELECT localtimestamp');
const billsOf = async (session: number) =>
  Number(
    await service.sql(
      `SELECT count(*) FROM mentor_payable_ledgers WHERE session_id = '${service.sessionId(session)}'`,
    ),
  );

describe('an install beside a service', () => {
  it('makes the tables, takes the service under guard and is whole', async () => {
    release = await Release.install('guard', namespace, { example: 'staging.yaml', values });
    // Its hook has migrated before anything else was there.
    expect(await service.sql('SELECT count(*) FROM counterfoil.schema_version')).toBe('1');
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=90s');
    const { stable } = versions(await inPhase('Healthy', 120));
    expect(await readyPods(stable)).toHaveLength(2);
  });

  it('is at work when an event reaches no listener, and when another is never written', async () => {
    const [pod = ''] = await readyPods(versions(await rollout()).stable);
    await service.arm(pod, 'lose', 1);
    await service.complete(pod, LOST);
    await service.arm(pod, 'skip_backup', 1);
    await service.complete(pod, NEVER_PUBLISHED);
    await service.disarm(pod);
    expect([await billsOf(LOST), await billsOf(NEVER_PUBLISHED)]).toEqual([0, 0]);
    // Only now, so that the faults of this pod strike nobody else.
    await service.open(PER_SECOND, SESSIONS);
    await eventually(
      'customers are served',
      30,
      async () => (await service.customers()).completed > PER_SECOND,
    );
  });

  it('its rules are loaded and can be evaluated, and exporter and service are scraped', async () => {
    const rules = await eventually('the rules are loaded', 120, async () => {
      const loaded = await rulesOf(namespace.name);
      return loaded.some(({ name }) => name === 'CounterfoilVersionLosesEvents') && loaded;
    });
    expect(rules.length).toBeGreaterThan(60);
    await eventually('every rule was evaluated without an error', 60, async () => {
      const sick = (await rulesOf(namespace.name)).filter(({ health }) => health !== 'ok');
      if (sick.length > 0) throw new Error(JSON.stringify(sick.slice(0, 3)));
      return true;
    });
    await eventually('three pods are scraped', 60, async () => {
      const up = await query(`up{namespace="${namespace.name}"} == 1`);
      return up.length === 3;
    });
    // What the gates ask of the canary alone, by its hash.
    const { stable } = versions(await rollout());
    const labelled = await query(
      `event_published_total{namespace="${namespace.name}",rollouts_pod_template_hash="${stable}"}`,
    );
    expect(labelled.length).toBeGreaterThan(0);
  });

  it('helm test finds database, endpoint, Prometheus and Rollout wired', async () => {
    await release.test();
  });
});

describe('a good release', () => {
  it(
    'gets a real 1 %, is held until what was lost before is mended, passes its gates and is promoted',
    MINUTES,
    async () => {
      const before = versions(await rollout()).stable;
      await service.deploy({ version: 'v2' });
      const { canary } = await atWeight(1);
      const since = await now();
      await eventually('it is past 1 %', 480, async () => versions(await rollout()).weight !== 1);
      const { own, all } = await published(canary, since, await now());
      const sigma = Math.sqrt(all * 0.01 * 0.99);
      process.stdout.write(`good release: ${own} of ${all} events at 1 %\n`);
      expect(Math.abs(own - all * 0.01)).toBeLessThan(3 * sigma);

      const healthy = await inPhase('Healthy', 360);
      expect(versions(healthy).stable).toBe(canary);
      expect(canary).not.toBe(before);
      await eventually(
        'all of its analysis was good: that of the background, and the gates of four steps',
        30,
        async () => {
          const phases = (await analysisOf(canary)).map(({ phase }) => phase);
          if (phases.length !== 5 || phases.some((phase) => phase !== 'Successful'))
            throw new Error(phases.join());
          return true;
        },
      );
    },
  );

  it(
    'before it the schedules have replayed and rebuilt what was lost, and have billed it once',
    MINUTES,
    async () => {
      await eventually('both are billed', 240, async () => {
        const bills = [await billsOf(LOST), await billsOf(NEVER_PUBLISHED)];
        if (bills.join() !== '1,1') throw new Error(`bills: ${bills}`);
        return true;
      });
      const jobs = await service.sql(
        `SELECT string_agg(DISTINCT job, ',' ORDER BY job) FROM counterfoil.job_runs WHERE outcome = 'succeeded'`,
      );
      expect(jobs).toContain('billing-reconciliation');
      expect(jobs).toContain('event-replay');
    },
  );
});

describe('a release that loses 2 % of its events', () => {
  let good: string;
  let bad: string;
  let aborted: RolloutStatus;
  let abortedBy: readonly string[] = [];

  it('is aborted at 1 % by Argo itself, for its losses and nothing else', MINUTES, async () => {
    good = versions(await rollout()).stable;
    await service.deploy({ version: 'v3' });
    bad = (
      await eventually('the canary is there', 60, async () => {
        const both = versions(await rollout());
        return both.canary !== both.stable && (await readyPods(both.canary)).length > 0 && both;
      })
    ).canary;
    for (const pod of await readyPods(bad)) await service.arm(pod, 'lose', 0.02);
    const since = await now();
    const startedAt = Date.now();
    let heaviest = 0;
    aborted = await eventually('the release is aborted', 420, async () => {
      const seen = await rollout();
      heaviest = Math.max(heaviest, versions(seen).weight ?? 0);
      if (seen.status?.abort !== true) throw new Error(JSON.stringify(versions(seen)));
      return seen;
    });
    const { own } = await published(bad, since);
    process.stdout.write(
      `bad release: aborted after ${(Date.now() - startedAt) / 1000} s and ${own} events: ${aborted.status?.message}\n`,
    );
    expect(heaviest).toBe(1);
    const judged = (await analysisOf(bad)).flatMap(({ metrics }) => Object.entries(metrics));
    const failed = judged.filter(([, phase]) => phase !== 'Successful' && phase !== 'Running');
    // Both judge the same losses: of the last minutes, and of the whole release. Whichever looks first aborts.
    expect([['loss'], ['verdict'], ['loss', 'verdict']]).toContainEqual(failed.map(([name]) => name).sort());
    expect(failed.every(([, phase]) => phase === 'Failed')).toBe(true);
    abortedBy = failed.map(([name]) => name);
    expect(versions(await inPhase('Degraded', 30)).stable).toBe(good);
  });

  it('gets nothing any more: all traffic is back on the good one', async () => {
    await eventually('its weight is 0', 30, async () => versions(await rollout()).weight === 0);
    // Requests that were on their way.
    const { own } = await eventually('it publishes nothing any more', 60, async () => {
      const from = await now();
      const { completed } = await service.customers();
      await eventually(
        '500 more sessions',
        30,
        async () => (await service.customers()).completed > completed + 500,
      );
      const seen = await published(bad, from);
      return seen.own === 0 && seen;
    });
    expect(own).toBe(0);
    await eventually('the exporter says why', 60, async () => {
      const [cause] = await query(
        `counterfoil_rollout_abort_info{namespace="${namespace.name}",published_hash="${bad}"}`,
      );
      return cause !== undefined && abortedBy.includes(cause.metric.metric ?? '');
    });
  });

  it('and what it lost is replayed and billed, once each, and found clean', MINUTES, async () => {
    expect(Date.parse(aborted.status?.abortedAt ?? '')).toBeGreaterThan(0);
    await eventually('the repair has ended clean', 420, async () => {
      const states = await query(
        `counterfoil_abort_repair{namespace="${namespace.name}",published_hash="${bad}"} == 1`,
      );
      if (states.length !== 1 || states[0]?.metric.state !== 'clean')
        throw new Error(JSON.stringify(states.map(({ metric }) => metric.state)));
      return true;
    });
    const [lost, replayed] = (
      await service.sql(`SELECT count(*), count(*) FILTER (WHERE b.status = 'processed')
        FROM event_backups AS b JOIN counterfoil.replay_events AS r USING (event_id)
        WHERE b.published_hash = '${bad}'`)
    ).split('|');
    process.stdout.write(`bad release: ${lost} events lost, ${replayed} replayed\n`);
    expect(Number(lost)).toBeGreaterThanOrEqual(3);
    expect(replayed).toBe(lost);
    const unbilled = await service.sql(`SELECT count(*) FROM event_backups AS b
      LEFT JOIN mentor_payable_ledgers AS l ON l.session_id::text = b.payload ->> 'sessionId'
      WHERE b.published_hash = '${bad}' AND b.event_name = 'services.session.completed.v1' AND l.id IS NULL`);
    expect(unbilled).toBe('0');
    const twice = await service.sql(
      'SELECT count(*) FROM (SELECT FROM mentor_payable_ledgers GROUP BY session_id HAVING count(*) > 1) AS t',
    );
    expect(twice).toBe('0');
  });
});
