/**
 * From the release before to this one and back, while customers are served: a migration lies in between that only the test
 * has, values are other ones, and each release in its turn has to mend what is lost under it. Only times are shortened.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { sessionBilling } from '../builders/checks.ts';
import { BillingService, SERVICE } from './billing-service.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { type EarlierRelease, earlierCommit, earlierRelease } from './earlier-release.ts';
import { figure } from './figures.ts';
import { migratedImage } from './migrated-image.ts';
import { query } from './prometheus.ts';
import { Release } from './release.ts';
import type { RolloutStatus } from './rollout.ts';
import { INSTALLATION, JOBS_IMAGE, SERVICE_IMAGE } from './shop.ts';

/** A CronJob of each minute, that of reconciliation twice: what was never published is found, then seen again, then rebuilt. */
const MINUTES = { timeout: 900_000 };

const PER_SECOND = 10;
const SESSIONS = 40_000;

/** Over those of the staging example of either chart. */
const earlierValues = (tag: string) => ({
  image: { tag },
  // By its own default a kube-state-metrics without zone data would be away, for every journey.
  jobs: { defaults: { timeZone: 'UTC' }, eventReplay: { graceSeconds: 5 } },
  checks: [sessionBilling({ grace: '15s' })],
  rollout: { replicas: 2 },
});
const otherValues = (tag: string) => ({
  ...earlierValues(tag),
  jobs: {
    eventReplay: { graceSeconds: 6 },
    backupRetention: { enabled: false },
    flowProbe: { enabled: false },
  },
  thresholds: { parkedEvents: 7 },
  prometheusRule: { alertLabels: { team: 'payments' } },
  rollout: { replicas: 2, gates: { interval: '40s' } },
});

interface CronJobs {
  readonly items: readonly {
    readonly metadata: { readonly name: string };
    readonly spec: {
      readonly jobTemplate: { spec: { template: { spec: { containers: [{ image: string }] } } } };
    };
  }[];
}
interface Pods {
  readonly items: readonly {
    readonly metadata: { readonly name: string; readonly uid: string };
    readonly spec: { readonly containers: readonly [{ readonly image: string }] };
    readonly status: {
      readonly containerStatuses?: readonly {
        readonly state: { readonly terminated?: { readonly exitCode: number } };
      }[];
    };
  }[];
}

let earlier: EarlierRelease;
let later: { name: string; tag: string; level: number };
let namespace: Namespace;
let service: BillingService;
let release: Release;
let refusedAtFirst = 0;
/** The last of the sessions that no customer completes. */
let planted = SESSIONS;

beforeAll(async () => {
  earlier = await earlierRelease();
  later = await migratedImage(JOBS_IMAGE);
  for (const image of ['postgres:18', SERVICE_IMAGE, earlier.image.name, later.name]) await loadImage(image);
  namespace = await Namespace.create();
  service = new BillingService(namespace, SERVICE_IMAGE);
  await service.prepare(SESSIONS + 10);
  await service.deploy({ version: 'v1' });
}, 600_000);
afterAll(async () => {
  await namespace?.remove();
  await earlier?.remove();
});

const podsOf = async (labels: string): Promise<Pods['items']> =>
  (await namespace.get<Pods>('pods', '-l', labels)).items;
const servicePods = async () => await podsOf(`app=${SERVICE}`);
const level = async () => await service.sql('SELECT level FROM counterfoil.schema_version');
const billsOf = async (session: number) =>
  await service.sql(
    `SELECT count(*) FROM mentor_payable_ledgers WHERE session_id = '${service.sessionId(session)}'`,
  );
const imagesOfCronJobs = async () => [
  ...new Set(
    (await namespace.get<CronJobs>('cronjobs', '-l', `app.kubernetes.io/instance=${release.name}`)).items.map(
      ({ spec }) => spec.jobTemplate.spec.template.spec.containers[0].image,
    ),
  ),
];

/** What the router, the Rollout and its pods are: nothing of it is Helm's to change. */
async function ofTheService() {
  const rollout = await namespace.get<RolloutStatus>('rollout', SERVICE);
  const selectors = await Promise.all(
    ['stable', 'canary'].map(
      async (role) =>
        await namespace.kubectl('get', 'service', `${SERVICE}-${role}`, '-o', 'jsonpath={.spec.selector}'),
    ),
  );
  return {
    pods: (await servicePods()).map(({ metadata }) => metadata.uid).sort(),
    stable: rollout.status?.stableRS,
    phase: rollout.status?.phase,
    selectors,
    weights: await namespace.kubectl('get', 'traefikservice', SERVICE, '-o', 'jsonpath={.spec}'),
  };
}

/** An event that reaches no listener, of a pod of the service; and a session that was completed past it, so that there is none. */
async function plant(): Promise<{ lost: number; neverPublished: number }> {
  const [pod] = await servicePods();
  if (pod === undefined) throw new Error('the service has no pod');
  planted += 2;
  const [lost, neverPublished] = [planted - 1, planted];
  await service.arm(pod.metadata.name, 'lose', 1);
  await service.complete(pod.metadata.name, lost);
  await service.disarm(pod.metadata.name);
  await service.sql(
    `UPDATE sessions SET completed_at = now() WHERE id = '${service.sessionId(neverPublished)}'`,
  );
  expect([await billsOf(lost), await billsOf(neverPublished)]).toEqual(['0', '0']);
  return { lost, neverPublished };
}

const billed = async (session: number) =>
  await eventually(`session ${session} is billed`, 480, async () => (await billsOf(session)) === '1');

/** The images of the pods that have worked with success since then. */
async function atWorkSince(time: string): Promise<Record<string, string[]>> {
  const rows = await service.sql(`SELECT DISTINCT job, pod FROM counterfoil.job_runs
    WHERE outcome = 'succeeded' AND started_at >= '${time}' AND job IN ('event-replay', 'billing-reconciliation')`);
  const pods = await podsOf(`app.kubernetes.io/instance=${release.name}`);
  const images: Record<string, string[]> = {};
  for (const row of rows.split('\n')) {
    const [job = '', name = ''] = row.split('|');
    const image = pods.find(({ metadata }) => metadata.name === name)?.spec.containers[0].image;
    // The oldest of more than three are gone.
    if (image !== undefined) images[job] = [...new Set([...(images[job] ?? []), image])];
  }
  return images;
}
const now = async () => await service.sql('SELECT clock_timestamp()');

const threshold = async (name: string) =>
  (await query(`installation:${name}:threshold{namespace="${namespace.name}"}`))[0]?.value[1];

it('a clone that does not go back to the release before says so in one line', async () => {
  await expect(earlierCommit(['v0.0.0-never', '0'.repeat(40)])).rejects.toThrow(
    `this clone has neither v0.0.0-never nor ${'0'.repeat(40)}: git fetch --unshallow --tags`,
  );
});

describe('the release before', () => {
  it('is installed and mends what is lost', MINUTES, async () => {
    release = await Release.install('guard', namespace, {
      chart: earlier.chart,
      example: 'staging.yaml',
      values: earlierValues(earlier.image.tag),
    });
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=90s');
    await eventually('the service is up', 120, async () => (await ofTheService()).phase === 'Healthy');
    await service.open(PER_SECOND, SESSIONS);
    await eventually('customers are served', 90, async () => (await service.customers()).completed > 50);
    // The router takes some seconds to hear of a new service.
    refusedAtFirst = (await service.customers()).refused;
    const since = await now();
    const { lost } = await plant();
    await billed(lost);
    expect((await atWorkSince(since))['event-replay']).toEqual([earlier.image.name]);
    expect(Number(await level())).toBeLessThan(later.level);
  });
});

describe('an upgrade to this release, with other values and a migration', () => {
  it('migrates, says what is new, and changes nothing of the service', MINUTES, async () => {
    const before = await ofTheService();
    await release.upgrade({ example: 'staging.yaml', values: otherValues(later.tag) });
    expect(await level()).toBe(String(later.level));
    expect(await imagesOfCronJobs()).toEqual([later.name]);
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=90s');
    expect(await namespace.kubectl('get', 'cronjobs', '-o', 'name')).not.toContain('flow-probe');
    await eventually(
      'Prometheus has the new threshold',
      180,
      async () => (await threshold('parked_events')) === '7',
    );
    expect(await ofTheService()).toEqual(before);
  });

  it('goes on mending', MINUTES, async () => {
    const since = await now();
    const { lost } = await plant();
    await billed(lost);
    expect((await atWorkSince(since))['event-replay']).toEqual([later.name]);
  });
});

describe('a rollback', () => {
  it(
    'brings back values and image, and leaves the newer tables and the service as they are',
    MINUTES,
    async () => {
      const before = await ofTheService();
      await release.rollback();
      expect(await imagesOfCronJobs()).toEqual([earlier.image.name]);
      expect(await level()).toBe(String(later.level));
      await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=90s');
      expect(await namespace.kubectl('get', 'cronjobs', '-o', 'name')).toContain('flow-probe');
      await eventually(
        'Prometheus has the old threshold',
        180,
        async () => (await threshold('parked_events')) === '0',
      );
      expect(await ofTheService()).toEqual(before);
    },
  );

  it(
    'and the jobs of the release before mend on them what is lost and what was never published',
    MINUTES,
    async () => {
      const since = await now();
      const { lost, neverPublished } = await plant();
      await billed(lost);
      await billed(neverPublished);
      expect(await atWorkSince(since)).toEqual({
        'event-replay': [earlier.image.name],
        'billing-reconciliation': [earlier.image.name],
      });
      await release.test();
    },
  );

  it('but tables that no longer admit it, it refuses, and says which image they need', MINUTES, async () => {
    await service.sql(`UPDATE counterfoil.schema_version SET min_compatible_code = ${later.level}`);
    try {
      const job = `job/refused`;
      const cronJob = `cronjob/${INSTALLATION}-event-replay`;
      await namespace.kubectl('create', 'job', 'refused', `--from=${cronJob}`);
      await namespace.kubectl('wait', '--for=condition=Failed', job, '--timeout=60s');
      const pods = await podsOf('job-name=refused');
      // Once: a retry cannot help.
      expect(pods.map(({ status }) => status.containerStatuses?.[0]?.state.terminated?.exitCode)).toEqual([
        2,
      ]);
      expect(await namespace.kubectl('logs', job)).toContain(
        `the state schema needs code of level ${later.level} or newer`,
      );
    } finally {
      await service.sql('UPDATE counterfoil.schema_version SET min_compatible_code = 1');
    }
  });
});

describe('of all this', () => {
  it('no customer has noticed anything, and every session is billed once', MINUTES, async () => {
    const { completed, refused } = await service.customers();
    figure('upgrade and rollback', 'sessions completed', completed);
    figure('upgrade and rollback', 'requests refused', refused - refusedAtFirst, '', 0);
    expect(refused - refusedAtFirst).toBe(0);
    expect(completed).toBeGreaterThan(500);
    const time = await now();
    await eventually('every session completed so far is billed', 480, async () => {
      const unbilled = await service.sql(`SELECT count(*) FROM sessions AS s
        LEFT JOIN mentor_payable_ledgers AS l ON l.session_id = s.id
        WHERE s.completed_at < '${time}' AND l.id IS NULL`);
      if (unbilled !== '0') throw new Error(`${unbilled} are not`);
      return true;
    });
    const twice = await service.sql(
      'SELECT count(*) FROM (SELECT FROM mentor_payable_ledgers GROUP BY session_id HAVING count(*) > 1) AS t',
    );
    expect(twice).toBe('0');
  });
});
