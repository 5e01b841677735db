/** The runs of an installation's jobs: what they wrote down, the Jobs and pods that they were, and what these logged. */
import type { BillingService } from './billing-service.ts';
import { eventually, type Namespace } from './cluster.ts';

export interface Run {
  readonly runId: string;
  readonly job: string;
  readonly mode: string;
  readonly outcome: string;
  readonly exitCode: number | null;
  readonly failureId: string | null;
  readonly message: string | null;
  readonly pod: string;
  readonly counts: Readonly<Record<string, number>>;
}

export interface LogLine {
  readonly time: string;
  readonly level: string;
  readonly job: string;
  readonly runId: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export interface KubernetesJob {
  readonly metadata: { readonly name: string };
  readonly status?: {
    readonly succeeded?: number;
    readonly failed?: number;
    readonly conditions?: readonly {
      readonly type: string;
      readonly status: string;
      readonly reason?: string;
    }[];
  };
}

interface Pod {
  readonly metadata: { readonly name: string; readonly creationTimestamp: string };
  readonly status: {
    readonly phase: string;
    readonly containerStatuses?: readonly {
      readonly state: { readonly terminated?: { readonly exitCode: number } };
    }[];
  };
}

export interface Attempt {
  readonly pod: string;
  readonly phase: string;
  readonly exitCode: number | undefined;
}

/** `event-replay` and `event-replay-once` are one: only reconciliation has a mode in the name of its CronJob. */
const nameOf = (job: string, mode: string) => (job === 'billing-reconciliation' ? `${job}-${mode}` : job);

export class JobRuns {
  readonly #namespace: Namespace;
  readonly #service: BillingService;
  readonly #installation: string;

  constructor(namespace: Namespace, service: BillingService, installation: string) {
    this.#namespace = namespace;
    this.#service = service;
    this.#installation = installation;
  }

  /** Of the database, for `since`. */
  async now(): Promise<string> {
    return await this.#service.sql('SELECT clock_timestamp()');
  }

  /** Those of a CronJob (`billing-reconciliation-tail`, `event-replay`) that began since then, oldest first. */
  async list(job: string, since = '-infinity'): Promise<Run[]> {
    const rows = await this.#service.sql(
      `SELECT coalesce(json_agg(json_build_object('runId', run_id, 'job', job, 'mode', mode, 'outcome', outcome,
                'exitCode', exit_code, 'failureId', failure_id, 'message', message, 'pod', pod, 'counts', counts)
                ORDER BY started_at), '[]')
         FROM counterfoil.job_runs WHERE started_at > '${since}'`,
    );
    return (JSON.parse(rows) as Run[]).filter((run) => nameOf(run.job, run.mode) === job);
  }

  /** Waits for the first run since then that is as wanted. */
  async wait(job: string, since: string, seconds: number, wanted: (run: Run) => boolean): Promise<Run> {
    return await eventually(`a run of ${job}`, seconds, async () => {
      const runs = await this.list(job, since);
      const found = runs.find(wanted);
      if (found !== undefined) return found;
      throw new Error(JSON.stringify(runs.map(({ outcome, message, pod }) => ({ outcome, message, pod }))));
    });
  }

  async succeeded(job: string, since: string, seconds: number): Promise<Run> {
    return await this.wait(job, since, seconds, ({ outcome }) => outcome === 'succeeded');
  }

  cronJob(job: string): string {
    return `${this.#installation}-${job}`;
  }

  /** As the runbooks say it. */
  async startNow(job: string, name: string): Promise<void> {
    await this.#namespace.kubectl('create', 'job', `--from=cronjob/${this.cronJob(job)}`, name);
  }

  async suspend(job: string, suspend: boolean): Promise<void> {
    const spec = JSON.stringify({ spec: { suspend } });
    await this.#namespace.kubectl('patch', 'cronjob', this.cronJob(job), '-p', spec);
  }

  /** The Job that a pod is an attempt of. */
  async jobOf(pod: string): Promise<string> {
    const { metadata } = await this.#namespace.get<{ metadata: { labels: Record<string, string> } }>(
      'pod',
      pod,
    );
    return metadata.labels['batch.kubernetes.io/job-name'] ?? '';
  }

  async job(name: string): Promise<KubernetesJob> {
    return await this.#namespace.get<KubernetesJob>('job', name);
  }

  /** Waits until a Job has ended, and gives how: `Complete`, or why it failed. */
  async ended(name: string, seconds: number): Promise<string> {
    return await eventually(`the Job ${name} has ended`, seconds, async () => {
      const { status } = await this.job(name);
      const end = status?.conditions?.find(
        ({ type, status: is }) => is === 'True' && (type === 'Complete' || type === 'Failed'),
      );
      if (end === undefined) throw new Error(JSON.stringify(status));
      return end.type === 'Complete' ? end.type : (end.reason ?? end.type);
    });
  }

  /** The pods of a Job, oldest first. */
  async attempts(name: string): Promise<Attempt[]> {
    const { items } = await this.#namespace.get<{ items: Pod[] }>(
      ...['pods', '-l', `batch.kubernetes.io/job-name=${name}`],
    );
    return items
      .sort((a, b) => a.metadata.creationTimestamp.localeCompare(b.metadata.creationTimestamp))
      .map(({ metadata, status }) => ({
        pod: metadata.name,
        phase: status.phase,
        exitCode: status.containerStatuses?.[0]?.state.terminated?.exitCode,
      }));
  }

  /** What the pods of these jobs have logged that are still there, in the order of time. */
  async logs(...jobs: readonly string[]): Promise<LogLine[]> {
    const { items } = await this.#namespace.get<{ items: Pod[] }>(
      ...['pods', '-l', `app.kubernetes.io/component in (${jobs.join()})`],
    );
    const lines: LogLine[] = [];
    for (const { metadata, status } of items) {
      if (status.phase === 'Pending') continue;
      const text = await this.#namespace.kubectl('logs', metadata.name);
      for (const line of text.split('\n')) if (line.startsWith('{')) lines.push(JSON.parse(line) as LogLine);
    }
    return lines.sort((a, b) => a.time.localeCompare(b.time));
  }
}
