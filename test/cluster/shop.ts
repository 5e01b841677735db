/** A guarded service on a real cluster: the reference service behind Traefik, and the chart beside it; and what becomes of its releases. */
import { BillingService, type DeployOptions, SERVICE } from './billing-service.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { hurried, over } from './hurried.ts';
import { query } from './prometheus.ts';
import { Release } from './release.ts';
import type { RolloutStatus } from './rollout.ts';

/** `npm run images -- --tag cluster-test` builds them. */
export const TAG = process.env.CLUSTER_IMAGE_TAG ?? 'cluster-test';
export const INSTALLATION = 'guard-counterfoil';
export const JOBS_IMAGE = `counterfoil/jobs:${TAG}`;
export const SERVICE_IMAGE = `counterfoil/reference-service:${TAG}`;

export interface ShopOptions {
  /** Instead of `hurried`. */
  readonly base?: object;
  /** Values over those of `hurried`, where they name the namespace as a function of it. */
  readonly values?: object | ((namespace: string) => object);
  /** Sessions that can be completed; their numbers begin with 1. */
  readonly sessions?: number;
  /** Its first version. */
  readonly version?: DeployOptions;
}

export interface Versions {
  readonly stable: string;
  readonly canary: string;
  /** Per cent of the requests that the router gives the canary. */
  readonly weight: number | undefined;
}

export const versionsOf = ({ status }: RolloutStatus): Versions => ({
  stable: status?.stableRS ?? '',
  canary: status?.currentPodHash ?? '',
  weight: status?.canary?.weights?.canary.weight,
});

export interface AnalysisRun {
  readonly metadata: { readonly name: string; readonly labels: Readonly<Record<string, string>> };
  readonly status?: {
    readonly phase?: string;
    readonly message?: string;
    readonly metricResults?: readonly {
      readonly name: string;
      readonly phase: string;
      readonly message?: string;
      readonly measurements?: readonly { readonly value?: string; readonly phase: string }[];
    }[];
  };
}

/** An abort as it was seen from outside. Times are of this machine, in milliseconds. */
export interface Abort {
  readonly canary: string;
  readonly stable: string;
  readonly seenAt: number;
  readonly weightZeroAt: number;
  /** The largest weight that the canary ever had, in per cent. */
  readonly heaviest: number;
  readonly message: string;
  /** The metrics that failed, or that could not be measured, by their names. */
  readonly by: readonly string[];
}

interface Pod {
  readonly metadata: { readonly name: string };
  readonly status: {
    readonly conditions?: readonly { readonly type: string; readonly status: string }[];
  };
}

interface TraefikService {
  readonly spec: {
    readonly weighted: { readonly services: readonly { readonly name: string; readonly weight?: number }[] };
  };
}

export class Shop {
  readonly namespace: Namespace;
  readonly service: BillingService;
  readonly release: Release;

  private constructor(namespace: Namespace, service: BillingService, release: Release) {
    this.namespace = namespace;
    this.service = service;
    this.release = release;
  }

  /** Everything is installed, its first version is stable and serves, Prometheus has its rules. */
  static async open({
    base = hurried,
    values = {},
    sessions = 10_000,
    version = { version: 'v1' },
  }: ShopOptions = {}): Promise<Shop> {
    for (const image of ['postgres:18', JOBS_IMAGE, SERVICE_IMAGE]) await loadImage(image);
    const namespace = await Namespace.create();
    const service = new BillingService(namespace, SERVICE_IMAGE);
    await service.prepare(sessions);
    await service.deploy(version);
    const release = await Release.install('guard', namespace, {
      example: 'staging.yaml',
      values: over(base, typeof values === 'function' ? values(namespace.name) : values),
    });
    const shop = new Shop(namespace, service, release);
    await namespace.kubectl('rollout', 'status', `deployment/${INSTALLATION}-exporter`, '--timeout=180s');
    await shop.inPhase('Healthy', 240);
    await eventually('Prometheus knows the thresholds', 180, async () => {
      const found = await query(
        `count(version:hot_facts:sum{namespace="${namespace.name}",installation="${INSTALLATION}"})
          and on () count(installation:event_loss_ratio:threshold{namespace="${namespace.name}"})`,
      );
      return found.length > 0;
    });
    return shop;
  }

  /** Other values over those of `hurried` than it was opened with. */
  async upgrade(values: object): Promise<void> {
    await this.release.upgrade({ example: 'staging.yaml', values: over(hurried, values) });
  }

  async close(): Promise<void> {
    await this.namespace.remove();
  }

  async rollout(): Promise<RolloutStatus> {
    return await this.namespace.get<RolloutStatus>('rollout', SERVICE);
  }

  async versions(): Promise<Versions> {
    return versionsOf(await this.rollout());
  }

  async inPhase(phase: string, seconds: number): Promise<RolloutStatus> {
    return await eventually(`the rollout is ${phase}`, seconds, async () => {
      const now = await this.rollout();
      if (now.status?.phase !== phase)
        throw new Error(JSON.stringify({ ...versionsOf(now), is: now.status?.phase }));
      return now;
    });
  }

  /** A canary has this weight, and its pods are there. */
  async atWeight(weight: number, seconds = 180): Promise<Versions> {
    return await eventually(`a canary gets ${weight} %`, seconds, async () => {
      const now = await this.versions();
      if (now.weight !== weight || now.canary === now.stable) throw new Error(JSON.stringify(now));
      return now;
    });
  }

  /** Of the router itself, which Argo writes; undefined before the first release. */
  async routerWeight(): Promise<number | undefined> {
    const { spec } = await this.namespace.get<TraefikService>('traefikservice', SERVICE);
    return spec.weighted.services.find(({ name }) => name === `${SERVICE}-canary`)?.weight;
  }

  /** How the release that is under way ends by itself. */
  async ended(seconds: number): Promise<'promoted' | 'aborted'> {
    return await eventually('the release has ended', seconds, async () => {
      const { status } = await this.rollout();
      if (status?.abort === true) return 'aborted';
      const { canary, stable } = versionsOf({ metadata: { uid: '' }, status: status ?? {} });
      if (status?.phase === 'Healthy' && canary === stable) return 'promoted';
      throw new Error(JSON.stringify({ canary, stable, phase: status?.phase, message: status?.message }));
    });
  }

  /** Waits until Argo has aborted the release that is under way and the router gives it nothing any more. */
  async aborted(seconds: number): Promise<Abort> {
    let heaviest = 0;
    const { at: seenAt, now } = await eventually('the release is aborted', seconds, async () => {
      const seen = await this.rollout();
      heaviest = Math.max(heaviest, versionsOf(seen).weight ?? 0);
      if (seen.status?.abort !== true) throw new Error(JSON.stringify(versionsOf(seen)));
      return { at: Date.now(), now: seen };
    });
    const weightZeroAt = await eventually('the router gives the canary nothing', 60, async () => {
      const weight = await this.routerWeight();
      if (weight !== 0) throw new Error(`weight ${weight}`);
      return Date.now();
    });
    const { canary, stable } = versionsOf(now);
    const judged = (await this.analysisRuns(canary)).flatMap(({ status }) => status?.metricResults ?? []);
    const by = judged.filter(({ phase }) => phase === 'Failed' || phase === 'Error').map(({ name }) => name);
    return {
      ...{ canary, stable, seenAt, weightZeroAt, heaviest },
      message: now.status?.message ?? '',
      by: [...new Set(by)].sort(),
    };
  }

  /** What made Argo abort the release, as the exporter names it. */
  async cause(): Promise<string> {
    return await eventually('the exporter names a cause', 60, async () => {
      const [info] = await query(`counterfoil_rollout_abort_info{namespace="${this.namespace.name}"}`);
      return info?.metric.metric;
    });
  }

  /** Of a version, the newest last. */
  async analysisRuns(hash: string): Promise<readonly AnalysisRun[]> {
    const { items } = await this.namespace.get<{ items: AnalysisRun[] }>(
      ...[
        'analysisruns',
        '-l',
        `rollouts-pod-template-hash=${hash}`,
        '--sort-by=.metadata.creationTimestamp',
      ],
    );
    return items;
  }

  /** Waits until the last looks of a metric at a version have all had this outcome, so many of them in a row. */
  async measured(hash: string, metric: string, phase: string, inARow = 1, seconds = 180): Promise<void> {
    await eventually(`${metric} is ${phase}, ${inARow} times in a row`, seconds, async () => {
      const results = (await this.analysisRuns(hash)).flatMap(({ status }) => status?.metricResults ?? []);
      const looks = results.findLast(({ name }) => name === metric)?.measurements ?? [];
      const last = looks.slice(-inARow).map((look) => look.phase);
      if (last.length < inARow || last.some((seen) => seen !== phase)) throw new Error(JSON.stringify(looks));
      return true;
    });
  }

  /** Waits until the repair after an abort has ended by itself: `clean`, or `not_clean` where only a person can go on. */
  async repaired(hash: string, seconds: number): Promise<'clean' | 'not_clean'> {
    return await eventually('the repair after the abort has ended', seconds, async () => {
      const states = await query(
        `counterfoil_abort_repair{namespace="${this.namespace.name}",published_hash="${hash}"} == 1`,
      );
      const [state] = states.map(({ metric }) => metric.state ?? '');
      if (state !== 'clean' && state !== 'not_clean')
        throw new Error(JSON.stringify(states.map(({ metric }) => metric)));
      return state;
    });
  }

  async readyPods(hash: string): Promise<string[]> {
    const { items } = await this.namespace.get<{ items: Pod[] }>(
      ...['pods', '-l', `rollouts-pod-template-hash=${hash}`],
    );
    return items
      .filter(({ status }) =>
        status.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True'),
      )
      .map(({ metadata }) => metadata.name);
  }

  /** Sessions completed and, of them, those whose event a version has published, from the service's own tables. */
  async completed(hash: string, since: string, until = 'infinity'): Promise<{ own: number; all: number }> {
    const within = (column: string) => `${column} >= '${since}' AND ${column} < '${until}'`;
    const [own, all] = (
      await this.service.sql(`SELECT
        (SELECT count(*) FROM event_backups WHERE published_hash = '${hash}'
           AND event_name = 'services.session.completed.v1' AND ${within('created_at')}),
        (SELECT count(*) FROM sessions WHERE ${within('completed_at')})`)
    ).split('|');
    return { own: Number(own), all: Number(all) };
  }

  /** Completed sessions that are not billed exactly once at their price; reversed bills and their reversals do not count. */
  async wronglyBilled(): Promise<number> {
    return Number(
      await this.service.sql(`SELECT count(*) FROM sessions AS s
        LEFT JOIN (
          SELECT l.session_id, count(*) AS bills, sum(l.amount_minor) AS amount
            FROM mentor_payable_ledgers AS l
           WHERE l.reverses_id IS NULL
             AND NOT EXISTS (SELECT FROM mentor_payable_ledgers AS r WHERE r.reverses_id = l.id)
           GROUP BY l.session_id
        ) AS billed ON billed.session_id = s.id
        WHERE s.completed_at IS NOT NULL
          AND (billed.bills IS DISTINCT FROM 1 OR billed.amount <> s.amount_minor)`),
    );
  }

  /** Of the database, as it compares with `created_at` and `completed_at`. */
  async now(): Promise<string> {
    return await this.service.sql('SELECT clock_timestamp()');
  }
}
