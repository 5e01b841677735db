import { Registry } from 'prom-client';
import { beforeEach, describe, expect, test } from 'vitest';
import {
  BoundedMetrics,
  LEFT_PENDING_REASONS,
  LISTENER_OUTCOMES,
  type MetricsDeclaration,
  NO_METRICS,
  PROCESSED_STATUSES,
  PUBLISHED_STATUSES,
  REBUILD_OUTCOMES,
} from './metrics.js';
import { promClientMetrics } from './prom-client-metrics.js';
import { REPLAY_OUTCOMES } from './replay.js';

const EVENT = 'services.session.completed.v1';

let working: number;
let queued: number;
const declaration: MetricsDeclaration = {
  serviceVersion: '1.2.3',
  maxInFlight: 100,
  events: [{ eventType: EVENT, listeners: ['bill', 'mail'] }],
  inFlight: () => working,
  waiting: () => queued,
};

let registry: Registry;
let metrics: BoundedMetrics;
beforeEach(() => {
  working = 0;
  queued = 0;
  registry = new Registry();
  metrics = new BoundedMetrics(promClientMetrics(registry));
  metrics.declare(declaration);
});

/** Every sample as `name{label="value",…}` → value. */
const samples = async (): Promise<Map<string, number>> => {
  const lines = (await registry.metrics()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.split(' ').at(-1))]));
};
const changed = async (): Promise<Record<string, number>> =>
  Object.fromEntries(
    [...(await samples())].filter(([name, value]) => value !== 0 && !/_info|_limit/.test(name)),
  );

describe('before anything happens', () => {
  test('every label set stands at 0, for declared events and for undeclared ones together', async () => {
    const found = await samples();
    for (const eventType of [EVENT, 'undeclared']) {
      for (const status of Object.keys(PUBLISHED_STATUSES)) {
        expect(found.get(`event_published_total{event_type="${eventType}",status="${status}"}`)).toBe(0);
      }
      for (const status of Object.keys(PROCESSED_STATUSES)) {
        expect(found.get(`event_processed_total{event_type="${eventType}",status="${status}"}`)).toBe(0);
      }
      for (const reason of Object.keys(LEFT_PENDING_REASONS)) {
        const name = `counterfoil_event_left_pending_total{event_type="${eventType}",reason="${reason}"}`;
        expect(found.get(name)).toBe(0);
      }
      expect(found.get(`event_duration_seconds_count{event_type="${eventType}"}`)).toBe(0);
    }
    for (const outcome of Object.keys(LISTENER_OUTCOMES)) {
      for (const listener of ['bill', 'mail']) {
        const labels = `event_type="${EVENT}",listener="${listener}",outcome="${outcome}"`;
        expect(found.get(`counterfoil_listener_runs_total{${labels}}`)).toBe(0);
      }
    }
    for (const outcome of Object.keys(REPLAY_OUTCOMES)) {
      expect(found.get(`counterfoil_replay_results_total{outcome="${outcome}"}`)).toBe(0);
    }
    for (const outcome of Object.keys(REBUILD_OUTCOMES)) {
      expect(found.get(`counterfoil_rebuilds_total{outcome="${outcome}"}`)).toBe(0);
    }
    expect(found.get('event_publish_error_total')).toBe(0);
    expect(found.get('counterfoil_drain_left_total')).toBe(0);
    expect(found.get('counterfoil_events_in_flight')).toBe(0);
    expect(found.get('counterfoil_events_in_flight_limit')).toBe(100);
    expect(found.get('counterfoil_service_info{service_version="1.2.3"}')).toBe(1);
    expect(await changed()).toEqual({});
  });

  test('the duration has the buckets agreed, and finer ones below', async () => {
    const bounds = [...(await samples()).keys()].flatMap((name) => {
      const [, bound] =
        new RegExp(`event_duration_seconds_bucket{le="([^"]+)",event_type="${EVENT}"}`).exec(name) ?? [];
      return bound === undefined ? [] : [bound];
    });
    expect(bounds).toEqual(['0.005', '0.01', '0.025', '0.05', '0.1', '0.25', '0.5', '1', '2', '5', '+Inf']);
  });
});

test('each call counts once, where it says', async () => {
  metrics.published(EVENT, 'committed');
  metrics.processed(EVENT, 'processed');
  metrics.duration(EVENT, 0.3);
  metrics.leftPending(EVENT, 'overload');
  metrics.listenerRan(EVENT, 'bill', 'succeeded');
  metrics.drained(3);
  metrics.replayed('in_flight');
  metrics.rebuilt('rebuilt');
  working = 7;
  queued = 11;
  expect(await changed()).toEqual({
    [`event_published_total{event_type="${EVENT}",status="committed"}`]: 1,
    [`event_processed_total{event_type="${EVENT}",status="processed"}`]: 1,
    [`event_duration_seconds_bucket{le="0.5",event_type="${EVENT}"}`]: 1,
    [`event_duration_seconds_bucket{le="1",event_type="${EVENT}"}`]: 1,
    [`event_duration_seconds_bucket{le="2",event_type="${EVENT}"}`]: 1,
    [`event_duration_seconds_bucket{le="5",event_type="${EVENT}"}`]: 1,
    [`event_duration_seconds_bucket{le="+Inf",event_type="${EVENT}"}`]: 1,
    [`event_duration_seconds_sum{event_type="${EVENT}"}`]: 0.3,
    [`event_duration_seconds_count{event_type="${EVENT}"}`]: 1,
    [`counterfoil_event_left_pending_total{event_type="${EVENT}",reason="overload"}`]: 1,
    [`counterfoil_listener_runs_total{event_type="${EVENT}",listener="bill",outcome="succeeded"}`]: 1,
    counterfoil_drain_left_total: 3,
    'counterfoil_replay_results_total{outcome="in_flight"}': 1,
    'counterfoil_rebuilds_total{outcome="rebuilt"}': 1,
    counterfoil_events_in_flight: 7,
    counterfoil_events_waiting: 11,
  });
});

test.each([
  ['a refused publish', 'refused', 1],
  ['a failed publish', 'failed', 1],
  ['a committed publish', 'committed', 0],
] as const)('%s raises the publish errors as it should', async (_title, status, errors) => {
  metrics.published(EVENT, status);
  expect((await samples()).get('event_publish_error_total')).toBe(errors);
});

test('a thousand unknown event names make not one series more', async () => {
  const before = (await samples()).size;
  for (let index = 0; index < 1_000; index += 1) {
    metrics.published(`typing.error_${index}.v1`, 'refused');
    metrics.leftPending(`typing.error_${index}.v1`, 'no_listener');
    metrics.processed(`typing.error_${index}.v1`, 'failed');
    metrics.duration(`typing.error_${index}.v1`, 0);
  }
  const after = await samples();
  expect(after.size).toBe(before);
  expect(after.get('event_published_total{event_type="undeclared",status="refused"}')).toBe(1_000);
});

test('names the service publishes are known before its listeners are', async () => {
  const early = new Registry();
  const announced = new BoundedMetrics(promClientMetrics(early), [EVENT]);
  announced.published(EVENT, 'committed');
  announced.published('typing.error.v1', 'committed');
  const text = await early.metrics();
  expect(text).toContain(`event_published_total{event_type="${EVENT}",status="committed"} 1`);
  expect(text).toContain('event_published_total{event_type="undeclared",status="committed"} 1');
});

test('metrics that throw stop nobody', () => {
  const broken = new BoundedMetrics(
    new Proxy(NO_METRICS, {
      get: () => () => {
        throw new Error('out of order');
      },
    }),
  );
  broken.declare(declaration);
  broken.published(EVENT, 'committed');
  broken.listenerRan(EVENT, 'bill', 'failed');
  expect(() => broken.drained(1)).not.toThrow();
});
