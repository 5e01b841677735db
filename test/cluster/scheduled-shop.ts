/**
 * A shop without a Rollout: the service as a plain Deployment, its Postgres, and the chart beside it, whose jobs run by
 * their schedules. For the journeys that are about time.
 */
import { randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { sessionBilling } from '../builders/checks.ts';
import { BillingService, SERVICE } from './billing-service.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { alertsAtATenth, hurried, over } from './hurried.ts';
import { JobRuns } from './job-runs.ts';
import { rulesOf } from './prometheus.ts';
import { Release } from './release.ts';
import { INSTALLATION, JOBS_IMAGE, SERVICE_IMAGE } from './shop.ts';

/** How long one part of such a journey may take: three times what it takes. */
export const MINUTES = { timeout: 900_000 };

/** The shortest that a CronJob has. */
const EVERY_MINUTE = '* * * * *';

/** Over `hurried`: times alone, for what is not a release. */
const scheduled = {
  rollout: { enabled: false },
  prometheusRule: alertsAtATenth(/^(?:CounterfoilJob|CounterfoilOverdueEvents|Billing)/),
  checks: [sessionBilling({ grace: '5s' })],
  jobs: {
    // The logs of the whole journey are there at its end.
    defaults: { startingDeadlineSeconds: 20, successfulJobsHistoryLimit: 30, failedJobsHistoryLimit: 30 },
    billingReconciliation: {
      settings: { CF_LEASE_SECONDS: 10, CF_DATABASE_RETRY_SECONDS: 5 },
      tail: { maxAgeSeconds: 120 },
    },
    eventReplay: {
      schedule: EVERY_MINUTE,
      maxAgeSeconds: 120,
      settings: { CF_LEASE_SECONDS: 10, CF_DATABASE_RETRY_SECONDS: 5 },
    },
  },
};

export class ScheduledShop {
  readonly namespace: Namespace;
  readonly service: BillingService;
  readonly runs: JobRuns;

  private constructor(namespace: Namespace, service: BillingService) {
    this.namespace = namespace;
    this.service = service;
    this.runs = new JobRuns(namespace, service, INSTALLATION);
  }

  /**
   * The service at work, with so many sessions that nobody has completed yet, and the release beside it.
   * @param values above the shortened times
   */
  static async open(sessions: number, values: object = {}): Promise<ScheduledShop> {
    for (const image of ['postgres:18', JOBS_IMAGE, SERVICE_IMAGE]) await loadImage(image);
    const namespace = await Namespace.create();
    const shop = new ScheduledShop(namespace, new BillingService(namespace, SERVICE_IMAGE));
    try {
      await shop.#open(sessions, over(over(hurried, scheduled), values));
    } catch (error) {
      await namespace.remove();
      throw error;
    }
    return shop;
  }

  async #open(sessions: number, values: object): Promise<void> {
    await this.service.prepare(sessions);
    await this.#admitRetention();
    await this.#deploy();
    await Release.install('guard', this.namespace, { example: 'staging.yaml', values });
    for (const name of [SERVICE, `${INSTALLATION}-exporter`])
      await this.namespace.kubectl('rollout', 'status', `deployment/${name}`, '--timeout=180s');
    await eventually('the rules are loaded', 180, async () =>
      (await rulesOf(this.namespace.name)).some(({ name }) => name === 'CounterfoilJobOverdue'),
    );
  }

  /** The role that may delete old events, and its key in the secret. */
  async #admitRetention(): Promise<void> {
    await this.service.sql(
      readFileSync(new URL('../../jobs/schema/retention-role.sql', import.meta.url), 'utf8'),
    );
    const password = randomBytes(12).toString('hex');
    await this.service.sql(`ALTER ROLE counterfoil_retention PASSWORD '${password}'`);
    const url = `postgresql://counterfoil_retention:${password}@postgres.${this.namespace.name}:5432/shop`;
    const patch = JSON.stringify({ stringData: { 'retention-url': url } });
    await this.namespace.kubectl('patch', 'secret', 'billing-database', '-p', patch);
  }

  async #deploy(): Promise<void> {
    await this.namespace.apply(
      {
        apiVersion: 'apps/v1',
        kind: 'Deployment',
        metadata: { name: SERVICE },
        spec: {
          replicas: 1,
          selector: { matchLabels: { app: SERVICE } },
          template: this.service.template({ version: 'v1' }),
        },
      },
      {
        apiVersion: 'v1',
        kind: 'Service',
        metadata: { name: SERVICE },
        spec: { selector: { app: SERVICE }, ports: [{ port: 80, targetPort: 3000 }] },
      },
    );
  }

  /** The one pod of the service. */
  async pod(): Promise<string> {
    return (await this.namespace.kubectl('get', 'pods', '-l', `app=${SERVICE}`, '-o', 'name'))
      .trim()
      .replace('pod/', '');
  }

  /** Completes sessions while this fault strikes each of them; afterwards none does. */
  async completeWith(fault: string, ...sessions: readonly number[]): Promise<void> {
    const pod = await this.pod();
    await this.service.arm(pod, fault, 1);
    for (const session of sessions) await this.service.complete(pod, session);
    await this.service.disarm(pod);
  }

  async complete(...sessions: readonly number[]): Promise<void> {
    const pod = await this.pod();
    for (const session of sessions) await this.service.complete(pod, session);
  }

  /** What each of these sessions was billed, in minor units, a list for each. */
  async bills(...sessions: readonly number[]): Promise<number[][]> {
    const rows = await this.service.sql(
      `SELECT json_agg(coalesce(bills, '[]') ORDER BY number)
         FROM unnest(ARRAY[${sessions.map((session) => `'${this.service.sessionId(session)}'`).join()}]::uuid[])
              WITH ORDINALITY AS wanted (id, number)
         LEFT JOIN LATERAL (SELECT json_agg(amount_minor::integer ORDER BY created_at) AS bills
                              FROM mentor_payable_ledgers WHERE session_id = wanted.id) AS billed ON true`,
    );
    return JSON.parse(rows) as number[][];
  }

  async close(): Promise<void> {
    await this.namespace.remove();
  }
}
