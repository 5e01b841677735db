/** What a scrape shows of a Rollout, and when it shows nothing. */
import { readFile } from 'node:fs/promises';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { waitFor } from '../../test/builders/wait-for.ts';
import { type ApiObject, refuse, TestApiServer } from '../../test/kubernetes/api-server.ts';
import {
  abortedStatus,
  kubeTime,
  paths,
  podObject,
  putCanary,
  replicaSetObject,
  rolloutObject,
  runObject,
} from '../../test/kubernetes/objects.ts';
import { startWatching, type Watching } from '../../test/kubernetes/watching.ts';

let server: TestApiServer;
let watching: Watching | undefined;
const since = Math.floor((Date.now() - 3_600_000) / 1000) * 1000;

beforeEach(async () => {
  server = await TestApiServer.start();
});
afterEach(async () => {
  await watching?.stop();
  watching = undefined;
  await server.stop();
  vi.unstubAllEnvs();
});

type Options = Parameters<typeof startWatching>[1];
async function watch(options: Options = {}): Promise<Watching> {
  watching = await startWatching(server.kubeconfig, options);
  return watching;
}
async function shows(metric: string, labels: Readonly<Record<string, string>>, value: number | undefined) {
  await waitFor(
    `${metric} ${JSON.stringify(labels)} is ${value}`,
    async () => (await watching?.value(metric, labels)) === value,
  );
}

describe('the guarded rollout', () => {
  it('is shown with its versions, weight, step and reason to wait', async () => {
    putCanary(server, since);
    await watch();
    await shows('counterfoil_rollout_weight', {}, 1);
    const value = async (metric: string, labels = {}) => await watching?.value(metric, labels);
    expect(await value('counterfoil_rollout_phase', { phase: 'Paused' })).toBe(1);
    expect(await value('counterfoil_rollout_phase', { phase: 'Healthy' })).toBe(0);
    expect(await value('counterfoil_rollout_version', { role: 'stable', published_hash: 'good' })).toBe(1);
    expect(await value('counterfoil_rollout_version', { role: 'canary', published_hash: 'bad' })).toBe(1);
    expect(await value('counterfoil_rollout_step')).toBe(1);
    expect(await value('counterfoil_rollout_steps')).toBe(4);
    expect(await value('counterfoil_rollout_started_timestamp_seconds')).toBe(since / 1000);
    expect(await value('counterfoil_rollout_paused', { reason: 'step' })).toBe(1);
    expect(await value('counterfoil_rollout_paused', { reason: 'inconclusive' })).toBe(0);
    expect(await value('counterfoil_rollout_paused', { reason: 'manual' })).toBe(0);
    expect(await value('counterfoil_rollout_aborted')).toBe(0);
    expect(await value('counterfoil_rollout_router_error')).toBe(0);
    expect(watching?.watches.view()).toEqual({
      rollout: 'shop',
      version: 'bad',
      weight: 1,
      phase: 'Paused',
      stableHash: 'good',
      canaryHash: 'bad',
      aborted: false,
      canaryStartedAt: new Date(since).toISOString(),
      canaryJudgedSince: new Date(since).toISOString(),
    });
  });

  it('counts a version that comes back from its new begin, not from its first', async () => {
    const begun = since + 1_800_000;
    server.put(paths.replicaSets, replicaSetObject('bad', since));
    server.put(
      paths.rollouts,
      rolloutObject({
        status: {
          conditions: [{ type: 'Completed', status: 'False', lastTransitionTime: kubeTime(begun) }],
        },
      }),
    );
    await watch();
    await shows('counterfoil_rollout_started_timestamp_seconds', {}, begun / 1000);
  });

  it.each([
    [
      'an inconclusive analysis',
      { pauseConditions: [{ reason: 'InconclusiveAnalysis' }] },
      {},
      'inconclusive',
    ],
    ['a person', { pauseConditions: [] }, { paused: true }, 'manual'],
  ])('waits for %s', async (_, status, spec, reason) => {
    server.put(paths.rollouts, rolloutObject({ status, spec: { ...specOf(), ...spec } }));
    await watch();
    await shows('counterfoil_rollout_paused', { reason }, 1);
    await shows('counterfoil_rollout_paused', { reason: 'step' }, 0);
  });

  it.each([
    ['a spec that is refused', { conditions: [{ type: 'InvalidSpec', status: 'True' }] }, 'Invalid'],
    ['a spec that the controller has not seen', { observedGeneration: '2' }, 'Progressing'],
    ['a pause that was just ended', { pauseConditions: [] }, 'Progressing'],
    ['its own word', { phase: 'Degraded' }, 'Degraded'],
  ])('has the phase of %s', async (_, status, phase) => {
    server.put(paths.rollouts, rolloutObject({ status }));
    await watch();
    await shows('counterfoil_rollout_phase', { phase }, 1);
  });

  it('gets its share from the steps where there is no router, and from the largest weight where that is not 100', async () => {
    const canary = { steps: [{ setWeight: 5 }, { pause: {} }, { setWeight: 50 }, { pause: {} }] };
    server.put(
      paths.rollouts,
      rolloutObject({ spec: { ...specOf(), strategy: { canary } }, status: { canary: {} } }),
    );
    await watch();
    await shows('counterfoil_rollout_weight', {}, 5);
    server.put(
      paths.rollouts,
      rolloutObject({ spec: { ...specOf(), strategy: { canary } }, status: { currentStepIndex: 3 } }),
    );
    await shows('counterfoil_rollout_weight', {}, 50);
    const routed = { ...canary, trafficRouting: { maxTrafficWeight: 1000, nginx: {} } };
    server.put(
      paths.rollouts,
      rolloutObject({
        spec: { ...specOf(), strategy: { canary: routed } },
        status: { canary: { weights: { canary: { weight: 5 } } } },
      }),
    );
    await shows('counterfoil_rollout_weight', {}, 0.5);
  });

  it('whose object has lost every field but its name is no canary and no crash', async () => {
    server.put(paths.rollouts, {
      metadata: { name: 'shop', uid: 'bare', creationTimestamp: kubeTime(since) },
      spec: 'nonsense',
      status: { conditions: 'nonsense', abort: 'yes', canary: 7 },
    });
    await watch();
    await shows('counterfoil_rollout_weight', {}, 0);
    expect(await watching?.value('counterfoil_rollout_phase', { phase: 'Healthy' })).toBeUndefined();
    expect(await watching?.value('counterfoil_rollout_step')).toBeUndefined();
    expect(watching?.log.entries().filter(({ level }) => level === 'error')).toEqual([]);
  });

  it('that is not there has no series, says so once, and is seen when it comes', async () => {
    await watch();
    await waitFor(
      'it is said',
      async () => watching?.log.messages().some((text) => text.includes('no rollout')) === true,
    );
    await shows('counterfoil_collection_success', { collection: 'rollout' }, 1);
    expect(await watching?.value('counterfoil_rollout_weight')).toBeUndefined();
    expect(watching?.watches.view()).toBeUndefined();
    putCanary(server, since);
    await shows('counterfoil_rollout_weight', {}, 1);
    server.remove(paths.rollouts, 'a0000000-0000-0000-0000-000000000001');
    await shows('counterfoil_rollout_weight', {}, undefined);
  });

  it('where none is named, nothing is asked of the API server', async () => {
    await watch({ settings: { CF_ROLLOUT_NAME: '' } });
    await watching?.watches.ended;
    expect(server.requests).toEqual([]);
    expect(watching?.log.messages()).toHaveLength(1);
    expect(await watching?.render()).not.toContain('collection="rollout"');
  });
});

describe('the analysis', () => {
  it('is shown with the newest value and the limit of each metric, of the canary of now alone', async () => {
    putCanary(server, since);
    server.put(
      paths.runs,
      runObject('shop-bad-2', 'bad', {
        metrics: {
          loss: { failureCondition: 'result[0] > {{args.limit}}', values: ['[0.1]', '[0.002]'] },
          presence: { failureCondition: 'len(result) == 0', values: ['[]'] },
        },
        args: { limit: '0.005' },
      }),
    );
    server.put(paths.runs, runObject('shop-older-1', 'older', { metrics: { loss: { values: ['[9]'] } } }));
    server.put(
      paths.runs,
      runObject('other-bad-1', 'bad', { owner: 'another-rollout', metrics: { loss: { values: ['[9]'] } } }),
    );
    await watch();
    const labels = { analysis: 'background', published_hash: 'bad' };
    await shows('counterfoil_analysis_measurement', { ...labels, metric: 'loss' }, 0.002);
    const value = async (metric: string, more = {}) => await watching?.value(metric, { ...labels, ...more });
    expect(await value('counterfoil_analysis_limit', { metric: 'loss' })).toBe(0.005);
    expect(await value('counterfoil_analysis_phase', { metric: 'loss', phase: 'Running' })).toBe(1);
    expect(await value('counterfoil_analysis_phase', { metric: 'loss', phase: 'Failed' })).toBe(0);
    // Nothing was measured, and nothing is compared with.
    expect(await value('counterfoil_analysis_measurement', { metric: 'presence' })).toBeUndefined();
    expect(await value('counterfoil_analysis_limit', { metric: 'presence' })).toBeUndefined();
    expect(await watching?.render()).not.toMatch(/counterfoil_analysis.*(older|} 9)/);
  });

  it.each(['NaN', '[NaN]', '+Inf', '', 'true', '{"rate": 1}'])(
    'that measures %s has no value',
    async (text) => {
      putCanary(server, since);
      server.put(
        paths.runs,
        runObject('shop-bad-2', 'bad', { metrics: { loss: { values: ['[0.5]', text] } } }),
      );
      await watch();
      await shows('counterfoil_analysis_phase', { metric: 'loss', phase: 'Running' }, 1);
      expect(await watching?.value('counterfoil_analysis_measurement')).toBeUndefined();
    },
  );

  it('of a canary that is tried again is the new one', async () => {
    putCanary(server, since);
    const older = { createdAt: since, metrics: { loss: { values: ['[1]'], phase: 'Failed' } } };
    server.put(paths.runs, runObject('shop-bad-2', 'bad', older));
    server.put(
      paths.runs,
      runObject('shop-bad-2.1', 'bad', { createdAt: since + 60_000, metrics: { loss: { values: ['[0]'] } } }),
    );
    await watch();
    await shows('counterfoil_analysis_measurement', { metric: 'loss' }, 0);
    // The gate judges it from then on; its ReplicaSet and the begin of the update are the old ones.
    expect(watching?.watches.view()).toMatchObject({
      canaryStartedAt: new Date(since).toISOString(),
      canaryJudgedSince: new Date(since + 60_000).toISOString(),
    });
  });
});

describe('an abort', () => {
  const at = since + 1_800_000;
  const failed = {
    phase: 'Failed',
    completedAt: at - 1_000,
    metrics: {
      loss: { values: ['[0]'], phase: 'Successful' },
      watched: { values: ['[9]'], phase: 'Failed', dryRun: true },
      billing: { values: ['[0.2]'], phase: 'Failed' },
    },
  };

  it('is shown with the metric that did it; one that was only watched did not', async () => {
    putCanary(server, since);
    server.put(paths.runs, runObject('shop-bad-2', 'bad', failed));
    server.put(paths.rollouts, rolloutObject({ status: abortedStatus(at) }));
    await watch();
    await shows('counterfoil_rollout_abort_info', { published_hash: 'bad', metric: 'billing' }, 1);
    await shows('counterfoil_rollout_aborted', {}, 1);
    await shows('counterfoil_rollout_aborted_timestamp_seconds', {}, at / 1000);
    await shows('counterfoil_abort_repair', { state: 'off' }, 1);
  });

  it('by a person is not laid on an analysis that failed long before', async () => {
    putCanary(server, since);
    server.put(paths.runs, runObject('shop-bad-2', 'bad', { ...failed, completedAt: at - 600_000 }));
    server.put(paths.rollouts, rolloutObject({ status: abortedStatus(at) }));
    await watch();
    await shows('counterfoil_rollout_abort_info', { metric: 'person' }, 1);
  });

  it('for want of progress is remembered when the controller says so no longer', async () => {
    putCanary(server, since);
    await watch();
    await shows('counterfoil_rollout_weight', {}, 1);
    const condition = { type: 'Progressing', status: 'False' };
    server.put(
      paths.rollouts,
      rolloutObject({
        status: { ...abortedStatus(at), conditions: [{ ...condition, reason: 'ProgressDeadlineExceeded' }] },
      }),
    );
    await shows('counterfoil_rollout_abort_info', { metric: 'progress_deadline' }, 1);
    server.put(
      paths.rollouts,
      rolloutObject({
        status: { ...abortedStatus(at), conditions: [{ ...condition, reason: 'RolloutAborted' }] },
      }),
    );
    await shows('counterfoil_rollout_phase', { phase: 'Degraded' }, 1);
    await shows('counterfoil_rollout_abort_info', { metric: 'progress_deadline' }, 1);
  });
});

describe('a router that fails', () => {
  const said = (ago: number, count = 4, reason = 'TrafficRoutingError') => ({
    metadata: { uid: 'event-1', name: 'shop.1', creationTimestamp: kubeTime(since) },
    reason,
    count,
    lastTimestamp: kubeTime(Date.now() - ago),
  });
  const changed = (ago: number, more = {}) =>
    rolloutObject({
      status: {
        ...more,
        conditions: [{ type: 'Progressing', status: 'True', lastUpdateTime: kubeTime(Date.now() - ago) }],
      },
    });

  it('is shown while the controller says so, and not when it has got past it', async () => {
    putCanary(server, since);
    await watch();
    await shows('counterfoil_rollout_router_error', {}, 0);
    server.put(paths.events, said(2_000));
    await shows('counterfoil_rollout_router_error', {}, 1);
    server.put(paths.rollouts, changed(0));
    await shows('counterfoil_rollout_router_error', {}, 0);
  });

  it('is shown for as long as the weight of the step is not set, though no more is said of it', async () => {
    putCanary(server, since);
    await watch();
    // At the step of 10 % with 1 %, said in the second of the last change and an hour ago.
    server.put(paths.rollouts, changed(3_600_000, { currentStepIndex: 2 }));
    server.put(paths.events, said(3_600_000, 1));
    await shows('counterfoil_rollout_router_error', {}, 1);
    const canary = { weights: { canary: { weight: 10 } } };
    server.put(paths.rollouts, changed(3_600_000, { currentStepIndex: 2, canary }));
    await shows('counterfoil_rollout_router_error', {}, 0);
  });

  it.each([
    ['a conflict that was over at once', said(2_000, 1)],
    ['one that was long ago', said(3_600_000)],
    ['another complaint', said(2_000, 4, 'MetricFailed')],
  ])('is not shown for %s while the weight is right', async (_, event) => {
    putCanary(server, since);
    server.put(paths.events, event);
    await watch();
    await shows('counterfoil_rollout_router_error', {}, 0);
    server.put(paths.events, said(2_000));
    await shows('counterfoil_rollout_router_error', {}, 1);
  });

  it('cannot be seen without the right to read Events, which costs no other series', async () => {
    putCanary(server, since);
    for (let time = 0; time < 1_000; time += 1) server.once(`list ${paths.events}`, refuse(403));
    await watch();
    await shows('counterfoil_rollout_weight', {}, 1);
    expect(await watching?.value('counterfoil_rollout_router_error')).toBeUndefined();
  });
});

describe('what Argo Rollouts 1.9.1 wrote on a real cluster', () => {
  type Recorded = Record<'rollouts' | 'analysisruns' | 'replicasets' | 'pods' | 'events', ApiObject[]>;
  async function replay(stage: string): Promise<void> {
    const text = await readFile(
      new URL(`../../test/kubernetes/recorded/${stage}.json`, import.meta.url),
      'utf8',
    );
    const { rollouts, analysisruns, replicasets, pods, events } = JSON.parse(text) as Recorded;
    for (const [path, objects] of [
      [paths.runs, analysisruns],
      [paths.replicaSets, replicasets],
      [paths.pods, pods],
      [paths.events, events],
      [paths.rollouts, rollouts],
    ] as const)
      for (const object of objects) server.put(path, object);
    await watch();
  }
  const stable = '675d9894dd';
  const bad = '77578cbcfc';
  const analysis = { analysis: 'background', published_hash: bad, metric: 'fault' };

  it('is read of a healthy rollout', async () => {
    await replay('healthy');
    await shows('counterfoil_rollout_phase', { phase: 'Healthy' }, 1);
    await shows('counterfoil_rollout_version', { role: 'stable', published_hash: stable }, 1);
    await shows('counterfoil_rollout_version', { role: 'canary' }, undefined);
    await shows('counterfoil_rollout_weight', {}, 0);
    await shows('counterfoil_rollout_step', {}, 4);
    await shows('counterfoil_service_pods', { published_hash: stable, ready: 'yes' }, 1);
  });

  it('is read of a canary that is judged', async () => {
    await replay('canary');
    await shows('counterfoil_rollout_weight', {}, 1);
    await shows('counterfoil_rollout_paused', { reason: 'step' }, 1);
    await shows(
      'counterfoil_rollout_started_timestamp_seconds',
      {},
      Date.parse('2026-11-27T22:45:07Z') / 1000,
    );
    await shows('counterfoil_analysis_measurement', analysis, 0);
    await shows('counterfoil_analysis_limit', analysis, 0.5);
    await shows('counterfoil_analysis_measurement', { ...analysis, metric: 'beats' }, 42);
    await shows('counterfoil_analysis_phase', { ...analysis, phase: 'Running' }, 1);
  });

  it('is read of an abort', async () => {
    await replay('aborted');
    await shows('counterfoil_rollout_aborted', {}, 1);
    await shows('counterfoil_rollout_weight', {}, 0);
    await shows('counterfoil_rollout_abort_info', { published_hash: bad, metric: 'fault' }, 1);
    await shows(
      'counterfoil_rollout_aborted_timestamp_seconds',
      {},
      Date.parse('2026-11-27T22:45:23Z') / 1000,
    );
    await shows('counterfoil_analysis_measurement', analysis, 1);
    await shows('counterfoil_analysis_phase', { ...analysis, phase: 'Failed' }, 1);
    await shows('counterfoil_rollout_router_error', {}, 0);
  });

  it('is read of a router that is not there', async () => {
    await replay('router-error');
    await shows('counterfoil_rollout_router_error', {}, 1);
    await shows('counterfoil_rollout_phase', { phase: 'Progressing' }, 1);
    // The analysis of the version before is nobody's any more.
    await shows('counterfoil_analysis_measurement', {}, undefined);
  });
});

describe('the pods of the service', () => {
  it('are counted by version and readiness, and their restarts from 0', async () => {
    putCanary(server, since);
    server.put(paths.pods, podObject('good-2', 'good', { ready: false }));
    server.put(paths.pods, podObject('evicted', 'good', { phase: 'Failed' }));
    await watch();
    await shows('counterfoil_service_pods', { published_hash: 'good', ready: 'yes' }, 1);
    await shows('counterfoil_service_pods', { published_hash: 'good', ready: 'no' }, 1);
    await shows('counterfoil_service_pods', { published_hash: 'bad', ready: 'no' }, 0);
    await shows('application_restart_total', { published_hash: 'bad' }, 0);
    server.put(paths.pods, podObject('bad-1', 'bad', { restarts: 2, createdAt: since }));
    await shows('application_restart_total', { published_hash: 'bad' }, 2);
    await shows('application_restart_total', { published_hash: 'good' }, 0);
  });

  it('are those that the Rollout selects, also when it selects others', async () => {
    putCanary(server, since);
    await watch();
    await shows('application_restart_total', { published_hash: 'bad' }, 0);
    const selectors = () =>
      server.urls
        .filter((url) => url.pathname === paths.pods)
        .map((url) => url.searchParams.get('labelSelector'));
    expect(new Set(selectors())).toEqual(new Set(['app=shop']));
    server.put(paths.rollouts, rolloutObject({ status: { selector: 'app=shop,tier=web' } }));
    await waitFor('the others are listed', async () => selectors().includes('app=shop,tier=web'));
  });
});

describe('while the API server is away', () => {
  const quick = { settings: { CF_MAX_AGE_SECONDS: '5' }, pace: { watchSeconds: 1, silenceMs: 2_000 } };

  it('series stay until they are too old, vanish then, and come back by themselves', async () => {
    putCanary(server, since);
    await watch(quick);
    await shows('counterfoil_rollout_weight', {}, 1);
    await shows('application_restart_total', { published_hash: 'bad' }, 0);
    await server.stop();
    await shows('counterfoil_collection_success', { collection: 'rollout' }, 0);
    expect(await watching?.value('counterfoil_rollout_weight')).toBe(1);
    expect(watching?.watches.view()?.weight).toBe(1);
    await shows('counterfoil_rollout_weight', {}, undefined);
    await shows('application_restart_total', { published_hash: 'bad' }, undefined);
    expect(watching?.watches.view()).toBeUndefined();
    await server.resume();
    await shows('counterfoil_rollout_weight', {}, 1);
    await shows('application_restart_total', { published_hash: 'bad' }, 0);
  });

  it('a scrape never mixes what is fresh with what one dead watch last said', async () => {
    putCanary(server, since);
    for (let time = 0; time < 1_000; time += 1) server.once(`list ${paths.runs}`, refuse(500));
    await watch(quick);
    await shows('counterfoil_collection_success', { collection: 'rollout' }, 0);
    server.put(paths.rollouts, rolloutObject({ status: { currentStepIndex: 2 } }));
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(await watching?.value('counterfoil_rollout_weight')).toBeUndefined();
    // What hangs on no dead watch goes on.
    await shows('application_restart_total', { published_hash: 'bad' }, 0);
  });

  it('nothing vanishes where it is only quiet', async () => {
    putCanary(server, since);
    await watch(quick);
    await shows('counterfoil_rollout_weight', {}, 1);
    const until = Date.now() + 7_000;
    while (Date.now() < until) {
      expect(await watching?.value('counterfoil_rollout_weight')).toBe(1);
      await new Promise((resolve) => setTimeout(resolve, 100));
    }
    expect(server.count(`list ${paths.rollouts}`)).toBe(1);
  });
});

const specOf = () => rolloutObject().spec as Record<string, unknown>;
