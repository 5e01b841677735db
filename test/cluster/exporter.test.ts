/**
 * The exporter against a real Rollout: the controller, the pods, the analysis and the API server are real, and the
 * exporter has no other rights than those of jobs/exporter/rbac.yaml and its database role.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { eventReplayJob } from '../../jobs/event-replay/job.ts';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { reconcile } from '../builders/reconciliation.ts';
import { run } from '../builders/run.ts';
import { addSession } from '../builders/service.ts';
import { startTestEndpoint, TEST_TOKEN, type TestEndpoint } from '../event-replay/endpoint.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { eventually, loadImage, Namespace } from './cluster.ts';
import { ExporterProcess } from './exporter.ts';
import { GuardedService, ROLLOUT, type RolloutStatus, traefikService } from './rollout.ts';
import { TcpProxy } from './tcp-proxy.ts';

let database: TestDatabase;
const started: ExporterProcess[] = [];

beforeAll(async () => {
  await loadImage();
  database = await createTestDatabase();
  await database.query('ALTER TABLE event_backups ADD COLUMN IF NOT EXISTS published_hash text');
});
afterAll(async () => {
  for (const exporter of started) if (exporter.process.exitCode === null) await exporter.kill();
  await database?.drop();
});

async function start(
  kubeconfig: string,
  namespace: Namespace,
  settings: Readonly<Record<string, string>> = {},
): Promise<ExporterProcess> {
  const exporter = await ExporterProcess.start({
    DATABASE_URL: database.urlAs('counterfoil_exporter'),
    KUBECONFIG: kubeconfig,
    CF_ROLLOUT_NAME: ROLLOUT,
    CF_INSTALLATION: namespace.name,
    ...settings,
  });
  started.push(exporter);
  return exporter;
}

const label = { rollout: ROLLOUT };
const hashes = ({ status }: RolloutStatus) => ({
  stable: status?.stableRS ?? '',
  canary: status?.currentPodHash ?? '',
});

describe('a release that goes bad', () => {
  let namespace: Namespace;
  let service: GuardedService;
  let kubeconfig: string;
  let exporter: ExporterProcess;
  let endpoint: TestEndpoint;
  let bad = '';
  const repairing = { CF_REPAIR_AFTER_ABORT: 'true' };
  const requests = async () =>
    await database.query<{ kind: string; scope: Record<string, unknown>; status: string }>(
      `SELECT kind, scope, status FROM counterfoil.requests ORDER BY id`,
    );
  const shownEvents = async () => {
    const { items } = await namespace.get<{ items: { reason: string; message: string; type: string }[] }>(
      'events',
      '--field-selector',
      `involvedObject.kind=Rollout,involvedObject.name=${ROLLOUT}`,
    );
    return items.filter(({ reason }) => reason.startsWith('Counterfoil'));
  };

  beforeAll(async () => {
    // The service bills what is replayed, and marks it.
    endpoint = await startTestEndpoint(async (eventIds) => {
      await database.query(
        `WITH done AS (
           UPDATE event_backups SET status = 'processed' WHERE event_id = ANY ($1::text[]) RETURNING payload
         )
         INSERT INTO mentor_payable_ledgers (session_id, mentor_id, amount_minor, currency, idempotency_key)
         SELECT s.id, s.mentor_id, s.amount_minor, s.currency, 'session:' || s.id
           FROM done JOIN sessions AS s ON s.id::text = done.payload ->> 'sessionId'`,
        [eventIds],
      );
    });
    namespace = await Namespace.create();
    service = new GuardedService(namespace);
    await service.install();
    kubeconfig = await namespace.exporterKubeconfig();
    exporter = await start(kubeconfig, namespace, repairing);
  });
  afterAll(async () => {
    await endpoint?.close();
    await namespace?.remove();
  });

  it('the stable version is healthy and gets everything', async () => {
    const { stable } = hashes(await service.status());
    await exporter.shows('counterfoil_rollout_phase', { ...label, phase: 'Healthy' }, 1);
    await exporter.shows('counterfoil_rollout_version', { role: 'stable', published_hash: stable }, 1);
    await exporter.shows('counterfoil_rollout_weight', label, 0);
    await exporter.shows('counterfoil_rollout_steps', label, 4);
    await exporter.shows('counterfoil_rollout_aborted', label, 0);
    await exporter.shows('counterfoil_rollout_router_error', label, 0);
    await exporter.shows('counterfoil_service_pods', { published_hash: stable, ready: 'yes' }, 1);
    await exporter.shows('application_restart_total', { published_hash: stable }, 0);
    await exporter.shows('counterfoil_collection_success', { collection: 'rollout' }, 1);
    await exporter.shows('counterfoil_collection_success', { collection: 'pods' }, 1);
    // Nothing of a canary while there is none.
    expect(await exporter.value('counterfoil_rollout_version', { role: 'canary' })).toBeUndefined();
    expect(await exporter.value('counterfoil_rollout_started_timestamp_seconds')).toBeUndefined();
    expect(await exporter.value('counterfoil_abort_repair', { state: 'waiting' })).toBeUndefined();
    expect(JSON.parse((await exporter.get('/rollout')).text)).toMatchObject({
      version: stable,
      weight: 0,
      phase: 'Healthy',
    });
  });

  it('its canary is seen at 1 % and at 10 %, with what the analysis measures and the limit of it', async () => {
    const before = Date.now() / 1000;
    await service.release('v2');
    bad = hashes(await service.atWeight(1)).canary;
    await exporter.shows('counterfoil_rollout_weight', label, 1, 5);
    await exporter.shows('counterfoil_rollout_step', label, 1);
    await exporter.shows('counterfoil_rollout_paused', { ...label, reason: 'step' }, 1);
    await exporter.shows('counterfoil_rollout_version', { role: 'canary', published_hash: bad }, 1);
    const startedAt = (await exporter.value('counterfoil_rollout_started_timestamp_seconds')) ?? 0;
    expect(Math.abs(startedAt - before)).toBeLessThan(30);
    const metric = { published_hash: bad, analysis: 'background' };
    await exporter.shows('counterfoil_analysis_measurement', { ...metric, metric: 'fault' }, 0, 30);
    // An argument of the template, put in.
    await exporter.shows('counterfoil_analysis_limit', { ...metric, metric: 'fault' }, 0.5);
    await exporter.shows('counterfoil_analysis_measurement', { ...metric, metric: 'beats' }, 42);
    await exporter.shows('counterfoil_analysis_limit', { ...metric, metric: 'beats' }, 0);
    await exporter.shows('counterfoil_analysis_phase', { ...metric, metric: 'fault', phase: 'Running' }, 1);
    await service.promote();
    await service.atWeight(10);
    await exporter.shows('counterfoil_rollout_weight', label, 10, 5);
    await exporter.shows('counterfoil_rollout_step', label, 3);
  });

  it('its abort is seen within seconds, with the metric that did it, and with what it measured', async () => {
    // Of what the canary did, one bill is missing: its event is pending.
    const session = await addSession(database, { completedAt: new Date().toISOString() });
    await database.query(
      `INSERT INTO event_backups (event_id, event_name, payload, status, published_hash)
       VALUES ('lost', 'services.session.completed.v1',
               jsonb_build_object('sessionId', $1::text, 'amountMinor', $3::text), 'pending', $2)`,
      [session.id, bad, session.amountMinor],
    );
    await service.fail();
    const { status } = await service.inPhase('Degraded');
    const seen = Date.now();
    await exporter.shows('counterfoil_rollout_aborted', label, 1, 5);
    expect(Date.now() - seen).toBeLessThan(5_000);
    await exporter.shows('counterfoil_rollout_abort_info', { published_hash: bad, metric: 'fault' }, 1, 5);
    await exporter.shows(
      'counterfoil_rollout_aborted_timestamp_seconds',
      label,
      Date.parse(status?.abortedAt ?? '') / 1000,
    );
    await exporter.shows('counterfoil_rollout_phase', { ...label, phase: 'Degraded' }, 1);
    await exporter.shows('counterfoil_rollout_weight', label, 0);
    const metric = { published_hash: bad, analysis: 'background', metric: 'fault' };
    await exporter.shows('counterfoil_analysis_measurement', metric, 1);
    await exporter.shows('counterfoil_analysis_phase', { ...metric, phase: 'Failed' }, 1);
    await exporter.shows('counterfoil_abort_repair', { published_hash: bad, state: 'waiting' }, 1);
    expect(await requests()).toEqual([]);
    await service.heal();
  });

  it('its repair is asked for once, though the exporter is killed and another one runs beside it', async () => {
    await exporter.kill();
    const both = await Promise.all([
      start(kubeconfig, namespace, repairing),
      start(kubeconfig, namespace, repairing),
    ]);
    const [first] = both;
    exporter = first;
    for (const one of both)
      await one.shows('counterfoil_abort_repair', { published_hash: bad, state: 'requested' }, 1, 60);
    // Gone, or ended and not yet cleared away.
    const { items: left } = await namespace.get<{ items: { status: { phase: string } }[] }>(
      'pods',
      '-l',
      `rollouts-pod-template-hash=${bad}`,
    );
    expect(left.filter(({ status }) => status.phase === 'Running')).toEqual([]);
    const [replay, ...more] = await requests();
    expect(more).toEqual([]);
    expect(replay).toMatchObject({
      kind: 'replay',
      status: 'open',
      scope: { published_hash: bad, abort: { namespace: namespace.name, rollout: ROLLOUT, hash: bad } },
    });
    await both[1]?.kill();
    expect((await shownEvents()).map(({ reason }) => reason)).toEqual(['CounterfoilRepairRequested']);
  });

  it('its repair is carried out by the jobs, found clean, and told on the rollout', async () => {
    const event = {
      name: 'services.session.completed.v1',
      key: ['sessionId'],
      match: { amountMinor: 'amount_minor' },
    };
    const checks = checksFile(sessionBilling({ grace: '1s', event }));
    const replayed = await run(eventReplayJob, {
      DATABASE_URL: database.urlAs('counterfoil_jobs'),
      CF_REPLAY_URL: endpoint.url,
      CF_REPLAY_TOKEN: TEST_TOKEN,
      CF_CHECKS_FILE: checks,
    });
    expect(replayed.exitCode, replayed.log).toBe(0);
    expect(endpoint.calls.flatMap(({ eventIds }) => eventIds)).toEqual(['lost']);
    await exporter.shows('counterfoil_abort_repair', { published_hash: bad, state: 'repairing' }, 1, 30);
    await eventually('the verification is asked for', 30, async () => (await requests()).length === 2);
    await eventually('the verification is answered', 60, async () => {
      const tail = await reconcile(database, {
        CF_MODE: 'tail',
        CF_CHECKS_FILE: checks,
        CF_INSTALLATION: namespace.name,
      });
      expect(tail.outcome, tail.log).toBe('succeeded');
      return (await requests()).every(({ status }) => status === 'done');
    });
    await exporter.shows('counterfoil_abort_repair', { published_hash: bad, state: 'clean' }, 1, 30);
    const told = await eventually('the Event is there', 15, async () => {
      const events = await shownEvents();
      return events.length === 2 && events;
    });
    expect(told.map(({ reason }) => reason).sort()).toEqual([
      'CounterfoilRepairClean',
      'CounterfoilRepairRequested',
    ]);
    expect((await requests()).map(({ kind }) => kind)).toEqual(['replay', 'verify']);
    expect(await namespace.kubectl('describe', 'rollout', ROLLOUT)).toContain('CounterfoilRepairClean');
  });

  it('the way back to the good version is no abort, and the verdict on the repair stays', async () => {
    await service.release('v1');
    await service.inPhase('Healthy');
    await exporter.shows('counterfoil_rollout_aborted', label, 0);
    expect(await exporter.value('counterfoil_rollout_abort_info')).toBeUndefined();
    await exporter.shows('counterfoil_abort_repair', { published_hash: bad, state: 'clean' }, 1);
  });

  it('an abort by a person is told apart from one by the analysis', async () => {
    await service.release('v3');
    await service.atWeight(1);
    await service.abort();
    await service.inPhase('Degraded');
    await exporter.shows('counterfoil_rollout_abort_info', { ...label, metric: 'person' }, 1);
    expect(await exporter.stop()).toBe(0);
  });
});

describe('pods and rollouts that come and go', () => {
  let namespace: Namespace;
  let service: GuardedService;
  let exporter: ExporterProcess;

  beforeAll(async () => {
    namespace = await Namespace.create();
    service = new GuardedService(namespace);
    await service.install();
    exporter = await start(await namespace.exporterKubeconfig(), namespace);
  });
  afterAll(async () => await namespace?.remove());

  const podName = async () =>
    (await namespace.kubectl('get', 'pods', '-l', `app=${ROLLOUT}`, '-o', 'name')).trim().split('\n')[0] ??
    '';
  const restarts = async () => await exporter.value('application_restart_total');

  it('a container that restarts is counted once', async () => {
    await exporter.shows('application_restart_total', {}, 0);
    await namespace.kubectl('exec', await podName(), '--', 'kill', '-TERM', '1');
    await exporter.shows('application_restart_total', {}, 1, 60);
  });

  it('a pod that is replaced counts neither up nor down', async () => {
    const gone = await podName();
    await namespace.kubectl('delete', gone, '--wait=true');
    await eventually('another pod is ready', 60, async () => {
      const name = await podName();
      return (
        name !== '' &&
        name !== gone &&
        (await exporter.value('counterfoil_service_pods', { ready: 'yes' })) === 1
      );
    });
    expect(await restarts()).toBe(1);
  });

  it('a Rollout that is deleted has no series, and is seen again when it comes back', async () => {
    const { metadata } = await service.status();
    await namespace.kubectl('delete', 'rollout', ROLLOUT);
    await exporter.shows('counterfoil_rollout_weight', label, undefined, 30);
    expect((await exporter.get('/rollout')).status).toBe(503);
    // It was seen that there is none: the watch works.
    expect(await exporter.value('counterfoil_collection_success', { collection: 'rollout' })).toBe(1);
    await service.install('v9');
    await exporter.shows('counterfoil_rollout_phase', { ...label, phase: 'Healthy' }, 1, 30);
    expect((await service.status()).metadata.uid).not.toBe(metadata.uid);
    expect(exporter.process.exitCode).toBeNull();
  });

  it('a router that is broken is seen, and that it is mended too', async () => {
    await namespace.kubectl('delete', 'traefikservice', ROLLOUT);
    await service.release('v10');
    await exporter.shows('counterfoil_rollout_router_error', label, 1, 60);
    await namespace.apply(traefikService);
    // What the controller did not find it looks for again at its next resync, 15 min later, or when the Rollout changes.
    await namespace.kubectl('annotate', 'rollout', ROLLOUT, 'counterfoil.test/look=again');
    await service.atWeight(1);
    await exporter.shows('counterfoil_rollout_router_error', label, 0, 30);
  });
});

describe('an API server that is out of reach', () => {
  let namespace: Namespace;
  let proxy: TcpProxy;
  let exporter: ExporterProcess;
  const MAX_AGE_SECONDS = 8;

  beforeAll(async () => {
    namespace = await Namespace.create();
    await new GuardedService(namespace).install();
    const kubeconfig = await namespace.exporterKubeconfig(async (server) => {
      proxy = await TcpProxy.start(server);
      return proxy.url;
    });
    exporter = await start(kubeconfig, namespace, {
      CF_MAX_AGE_SECONDS: String(MAX_AGE_SECONDS),
      CF_STATE_INTERVAL_SECONDS: '2',
      CF_EVENTS_INTERVAL_SECONDS: '2',
      CF_HOT_CHECK_INTERVAL_SECONDS: '2',
    });
    await exporter.shows('counterfoil_rollout_phase', { phase: 'Healthy' }, 1);
    await exporter.shows('application_restart_total', {}, 0);
  });
  afterAll(async () => {
    await proxy?.close();
    await namespace?.remove();
  });

  it('nothing vanishes while it is quiet and within reach', async () => {
    const until = Date.now() + 2_000 * MAX_AGE_SECONDS;
    while (Date.now() < until) {
      expect(await exporter.value('counterfoil_rollout_phase', { phase: 'Healthy' })).toBe(1);
      expect(await exporter.value('application_restart_total')).toBe(0);
      await new Promise((resolve) => setTimeout(resolve, 250));
    }
  });

  it.each([
    ['cuts its connections', () => proxy.cut()],
    ['says nothing any more', () => proxy.silence()],
  ])('it %s: the series vanish when they are too old, and come back by themselves', async (_, breakIt) => {
    breakIt();
    await exporter.shows('counterfoil_rollout_phase', { phase: 'Healthy' }, undefined, 30);
    await exporter.shows('application_restart_total', {}, undefined, 30);
    await exporter.shows('counterfoil_collection_success', { collection: 'rollout' }, 0);
    expect((await exporter.get('/rollout')).status).toBe(503);
    proxy.cut();
    proxy.open();
    await exporter.shows('counterfoil_rollout_phase', { phase: 'Healthy' }, 1, 60);
    await exporter.shows('application_restart_total', {}, 0, 60);
  });
});

describe('the service account of the exporter', () => {
  it('may look and say Events, and change nothing that runs', async () => {
    const namespace = await Namespace.create();
    try {
      await namespace.exporterKubeconfig();
      const as = `--as=system:serviceaccount:${namespace.name}:counterfoil-exporter`;
      const may = async (verb: string, resource: string) =>
        (await namespace.kubectl('auth', 'can-i', verb, resource, as).catch(() => 'no')).trim() === 'yes';
      for (const resource of [
        'rollouts.argoproj.io',
        'analysisruns.argoproj.io',
        'replicasets.apps',
        'pods',
      ]) {
        expect([resource, await may('watch', resource)]).toEqual([resource, true]);
        for (const verb of ['create', 'patch', 'update', 'delete'])
          expect([verb, resource, await may(verb, resource)]).toEqual([verb, resource, false]);
      }
      expect(await may('create', 'events')).toBe(true);
      expect(await may('create', 'jobs.batch')).toBe(false);
      expect(await may('get', 'secrets')).toBe(false);
    } finally {
      await namespace.remove();
    }
  });
});
