/** `helm install` with the staging example on an empty namespace: what is there afterwards, whether it works, and what it costs. */
import { readdirSync, readFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CODE_LEVEL } from '../../jobs/runtime/schema-level.ts';
import { BillingService, SERVICE } from './billing-service.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { figure } from './figures.ts';
import { type Run, runOf, runsPerHour, SAY_AT_THE_END, type Usage, usageOf } from './footprint.ts';
import { query, rulesOf } from './prometheus.ts';
import { Release } from './release.ts';
import type { RolloutStatus } from './rollout.ts';
import { INSTALLATION, JOBS_IMAGE, SERVICE_IMAGE, TAG } from './shop.ts';

const MINUTES = { timeout: 900_000 };
/** Two pods where the example has four: there are two cores. */
const values = { image: { tag: TAG }, rollout: { replicas: 2 } };
/** So many runs of those CronJobs that fire each minute are looked at. */
const RUNS = 3;
/** As often as the kubelet looks; more would only take from the same cores. */
const BETWEEN_LOOKS_MS = 10_000;

interface CronJob {
  readonly metadata: { readonly name: string };
  readonly spec: { readonly schedule: string };
}
interface Pod {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly spec: { readonly containers: readonly [{ readonly env?: readonly { readonly name: string }[] }] };
  readonly status: { readonly phase: string };
}
interface ConfigMap {
  readonly metadata: { readonly name: string };
  readonly data: Readonly<Record<string, string>>;
}
interface PrometheusRule {
  readonly spec: {
    readonly groups: readonly { readonly rules: readonly { alert?: string; record?: string }[] }[];
  };
}

let namespace: Namespace;
let service: BillingService;
let release: Release;

beforeAll(async () => {
  for (const image of ['postgres:18', JOBS_IMAGE, SERVICE_IMAGE]) await loadImage(image);
  namespace = await Namespace.create();
  service = new BillingService(namespace, SERVICE_IMAGE);
  await service.prepare(1_000);
  await service.deploy({ version: 'v1' });
}, 300_000);
afterAll(async () => {
  await namespace?.remove();
});

async function itemsOf<Item>(...args: readonly string[]): Promise<Item[]> {
  return (await namespace.get<{ items: Item[] }>(...args, '-l', `app.kubernetes.io/instance=${release.name}`))
    .items;
}
const cronJobs = async () => await itemsOf<CronJob>('cronjobs');
const afterInstallation = (name: string) => name.slice(INSTALLATION.length + 1);

describe('helm install with the staging example', () => {
  it('makes the tables before all else, and its hook is gone', MINUTES, async () => {
    release = await Release.install('guard', namespace, { example: 'staging.yaml', values });
    expect(await service.sql('SELECT level FROM counterfoil.schema_version')).toBe(String(CODE_LEVEL));
    expect(await namespace.kubectl('get', 'jobs', '-o', 'name')).not.toContain('schema');
    expect(await release.notes()).toContain(
      `counterfoil 0.1.0 stands beside ${SERVICE} in ${namespace.name}`,
    );
  });

  it('starts the exporter, and takes the service under guard', MINUTES, async () => {
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=180s');
    await eventually('the rollout is healthy', 240, async () => {
      const { status } = await namespace.get<RolloutStatus>('rollout', SERVICE);
      return status?.phase === 'Healthy';
    });
  });

  it('its schedules fire, and what they start does its work', MINUTES, async () => {
    expect(
      (await cronJobs())
        .map(({ metadata, spec }) => `${afterInstallation(metadata.name)} ${spec.schedule}`)
        .sort(),
    ).toEqual([
      'billing-reconciliation-full 23 2 * * *',
      'billing-reconciliation-incremental 7 * * * *',
      'billing-reconciliation-tail * * * * *',
      'event-replay * * * * *',
      'flow-probe */15 * * * *',
    ]);
    await eventually('both that fire each minute have succeeded', 240, async () => {
      const done =
        await service.sql(`SELECT string_agg(DISTINCT job || ' ' || mode, ',' ORDER BY job || ' ' || mode)
        FROM counterfoil.job_runs WHERE outcome = 'succeeded'`);
      if (!done.includes('billing-reconciliation tail') || !done.includes('event-replay once'))
        throw new Error(done);
      return true;
    });
  });

  it('its rules are in Prometheus, every one, and each can be evaluated', MINUTES, async () => {
    const named = (rule: { alert?: string; record?: string }) => rule.alert ?? rule.record ?? '';
    const rules = (await itemsOf<PrometheusRule>('prometheusrules')).flatMap(({ spec }) =>
      spec.groups.flatMap((group) => group.rules.map(named)),
    );
    expect(rules).toContain('BillingDiscrepancy');
    await eventually('Prometheus has them all, in health', 180, async () => {
      const loaded = await rulesOf(namespace.name);
      const known = new Set(loaded.map(({ name }) => name));
      const absent = rules.filter((name) => !known.has(name));
      const sick = loaded.filter(({ health }) => health !== 'ok');
      if (absent.length > 0 || sick.length > 0)
        throw new Error(`absent: ${absent.join()}; sick: ${JSON.stringify(sick.slice(0, 3))}`);
      return true;
    });
    await eventually('exporter and service are scraped', 90, async () => {
      const up = await query(`up{namespace="${namespace.name}"} == 1`);
      return up.length === 3;
    });
    await eventually('each schedule is known by what Kubernetes says of it', 90, async () => {
      const known = await query(`kube_cronjob_info{namespace="${namespace.name}"}`);
      const { items } = await namespace.get<{ items: CronJob[] }>('cronjobs');
      if (known.length !== items.length) throw new Error(`${known.length} of ${items.length}`);
      return items.length > 0;
    });
  });

  it('its dashboards lie where the sidecar of Grafana finds them', async () => {
    const built = readdirSync(new URL('../../dashboards/built/', import.meta.url));
    const found = await namespace.get<{ items: ConfigMap[] }>('configmaps', '-l', 'grafana_dashboard=1');
    const dashboards = Object.fromEntries(found.items.flatMap(({ data }) => Object.entries(data)));
    // Each installation has its own in the same Grafana: a digest stands in the uid.
    const uid = (json: string) => (JSON.parse(json) as { uid: string }).uid.replace(/-[0-9a-f]{8}-/, '-');
    const uids = built.map((file) =>
      uid(readFileSync(new URL(`../../dashboards/built/${file}`, import.meta.url), 'utf8')),
    );
    expect(Object.values(dashboards).map(uid).sort()).toEqual(uids.sort());
  });

  it(
    'helm test is red where the token is another one, and says so; with the right one it is green',
    MINUTES,
    async () => {
      const token = (value: string) => ({
        apiVersion: 'v1',
        kind: 'Secret',
        metadata: { name: 'billing-token' },
        stringData: { token: value },
      });
      await namespace.apply(token('another'));
      try {
        await expect(release.test()).rejects.toThrow(/endpoint/);
      } finally {
        await namespace.apply(token(service.token));
      }
      await release.test();
    },
  );
});

describe('while nothing happens', () => {
  it('a schedule says how often it fires, and one that is not understood is refused', () => {
    const often = ['* * * * *', '*/15 * * * *', '7 * * * *', '0,30 */2 * * *', '23 2 * * *'].map(runsPerHour);
    expect(often).toEqual([60, 4, 1, 1, 1 / 24]);
    expect(() => runsPerHour('7-9 * * * *')).toThrow('7-9 is no field');
    expect(() => runsPerHour('7 * * * 1')).toThrow('has days');
    expect(() => runOf('{"level":"info"}')).toThrow('does not say what it took');
  });

  it('it takes at most 200 MB and 40 thousandths of a core', MINUTES, async () => {
    await release.upgrade({
      example: 'staging.yaml',
      values: {
        ...values,
        extraEnv: [SAY_AT_THE_END],
        // Else the runs are gone before they are read.
        jobs: { defaults: { successfulJobsHistoryLimit: 2 * RUNS } },
      },
    });
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=180s');
    const schedules = new Map(
      (await cronJobs()).map(({ metadata, spec }) => [afterInstallation(metadata.name), spec.schedule]),
    );
    // Those that would not come up within the minutes of a test.
    const rare = [...schedules.keys()].filter((name) => schedules.get(name) !== '* * * * *');
    for (const name of rare)
      await namespace.kubectl('create', 'job', `now-${name}`, `--from=cronjob/${INSTALLATION}-${name}`);
    for (const name of rare)
      await namespace.kubectl('wait', '--for=condition=Complete', `job/now-${name}`, '--timeout=180s');

    const [exporter] = (await itemsOf<Pod>('pods', '--sort-by=.metadata.creationTimestamp'))
      .filter(({ metadata }) => metadata.labels['app.kubernetes.io/component'] === 'exporter')
      .slice(-1);
    if (exporter === undefined) throw new Error('there is no exporter');
    const looks: Usage[] = [];
    const names = [...schedules.keys()];
    const deadline = Date.now() + 600_000;
    for (;;) {
      const usage = await usageOf(namespace, exporter.metadata.name);
      if (usage !== undefined && usage.at !== looks.at(-1)?.at) looks.push(usage);
      const ended = await endedRuns(names);
      const short = names.filter((name) => (ended.get(name)?.length ?? 0) < (rare.includes(name) ? 1 : RUNS));
      const watchedMs = (looks.at(-1)?.at ?? 0) - (looks[0]?.at ?? 0);
      if (short.length === 0 && watchedMs > 120_000) break;
      if (Date.now() > deadline)
        throw new Error(`watched for ${watchedMs} ms; too few runs: ${short.join()}`);
      await delay(BETWEEN_LOOKS_MS);
    }
    const runs = await saidBy(await endedRuns(names));

    const [first, last] = [looks[0], looks.at(-1)];
    if (first === undefined || last === undefined) throw new Error('the kubelet knows no exporter');
    const seconds = (last.at - first.at) / 1_000;
    const mean = (numbers: readonly number[]) =>
      numbers.reduce((sum, value) => sum + value, 0) / numbers.length;
    let cores = (last.cpuSeconds - first.cpuSeconds) / seconds;
    let bytes = mean(looks.map((look) => look.bytes));
    const say = (name: string, value: number, unit: string, limit?: number) =>
      figure('footprint at rest', name, value, unit, limit);
    say(`exporter, over ${Math.round(seconds)} s`, 1_000 * cores, 'm CPU');
    say('exporter', bytes / 1e6, 'MB');
    for (const [name, ofIt] of runs) {
      const perSecond = runsPerHour(schedules.get(name) ?? '') / 3_600;
      cores += perSecond * mean(ofIt.map(({ cpuSeconds }) => cpuSeconds));
      bytes += perSecond * mean(ofIt.map((run) => run.peakBytes * run.seconds));
      say(`a run of ${name}, CPU`, mean(ofIt.map(({ cpuSeconds }) => cpuSeconds)), 's');
      say(`a run of ${name}, lasts`, mean(ofIt.map((run) => run.seconds)), 's');
      say(`a run of ${name}, at its peak`, mean(ofIt.map(({ peakBytes }) => peakBytes)) / 1e6, 'MB');
    }
    const peakOf = (name: string) => Math.max(...(runs.get(name) ?? []).map(({ peakBytes }) => peakBytes));
    const together = ['billing-reconciliation-tail', 'event-replay'].reduce(
      (sum, name) => sum + peakOf(name),
      Math.max(...looks.map((look) => look.bytes)),
    );
    say('at once, where a minute begins', together / 1e6, 'MB');
    say('all, on average', bytes / 1e6, 'MB', 200);
    say('all, on average', 1_000 * cores, 'm CPU', 40);
    expect(bytes / 1e6).toBeLessThanOrEqual(200);
    expect(1_000 * cores).toBeLessThanOrEqual(40);
  });

  /** The pods of the runs that have ended since processes say what they took, by the CronJob's name. */
  async function endedRuns(names: readonly string[]): Promise<Map<string, string[]>> {
    const pods = (await itemsOf<Pod>('pods')).filter(
      ({ spec, status }) =>
        status.phase === 'Succeeded' &&
        spec.containers[0].env?.some(({ name }) => name === SAY_AT_THE_END.name),
    );
    return new Map(
      names.map((name) => [
        name,
        pods
          .filter(({ metadata }) => (metadata.labels['job-name'] ?? '').includes(name))
          .map(({ metadata }) => metadata.name),
      ]),
    );
  }

  async function saidBy(ended: ReadonlyMap<string, readonly string[]>): Promise<Map<string, Run[]>> {
    const runs = new Map<string, Run[]>();
    for (const [name, pods] of ended)
      runs.set(name, await Promise.all(pods.map(async (pod) => runOf(await namespace.kubectl('logs', pod)))));
    return runs;
  }
});
