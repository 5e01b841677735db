import { AsyncLocalStorage } from 'node:async_hooks';
import { readFileSync } from 'node:fs';
import { Injectable } from '@nestjs/common';
import {
  type Context,
  context,
  type Link,
  ROOT_CONTEXT,
  type Span,
  type SpanOptions,
  trace,
} from '@opentelemetry/api';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { createTestDatabase } from '../../test/postgres/database.ts';
import { OnBackedEvent } from './on-backed-event.js';
import { deliveryRows, isProcessed } from './testing/stored-events.js';
import { EVENT, eventually, startTrial } from './testing/trial-app.js';
import { activeTraceparent, findTraceApi, inLinkedSpan } from './tracing.js';

const TRACE_ID = '0af7651916cd43dd8448eb211c80319c';
const SPAN_ID = 'b7ad6b7169203331';
const TRACEPARENT = `00-${TRACE_ID}-${SPAN_ID}-01`;

/** What an OpenTelemetry SDK would have recorded. */
interface Recorded {
  name: string;
  links: readonly Link[];
  status?: number;
  ended?: boolean;
}
let spans: Recorded[] = [];

const storage = new AsyncLocalStorage<Context>();

beforeAll(async () => {
  // The SDK is not installed: the smallest one that keeps a context and records spans.
  context.setGlobalContextManager({
    active: () => storage.getStore() ?? ROOT_CONTEXT,
    with: (active, work, self, ...args) => storage.run(active, () => work.call(self, ...args)) as never,
    bind: (_active, target) => target,
    enable() {
      return this;
    },
    disable() {
      return this;
    },
  });
  trace.setGlobalTracerProvider({
    getTracer: () => ({
      startSpan: () => {
        throw new Error('not used');
      },
      startActiveSpan: ((name: string, options: SpanOptions, work: (span: Span) => unknown) => {
        const recorded: Recorded = { name, links: options.links ?? [] };
        spans.push(recorded);
        const span = {
          end: () => {
            recorded.ended = true;
          },
          setStatus: ({ code }: { code: number }) => {
            recorded.status = code;
          },
        };
        return work(span as unknown as Span);
      }) as never,
    }),
  });
});
afterAll(() => {
  trace.disable();
  context.disable();
});
beforeEach(() => {
  spans = [];
});

const within = <Result>(traceId: string, work: () => Result): Result =>
  context.with(trace.setSpanContext(ROOT_CONTEXT, { traceId, spanId: SPAN_ID, traceFlags: 1 }), work);

const names = { eventId: 'e-1', eventName: 'a.b.v1', listener: 'bill' };

test('without OpenTelemetry nothing is traced, and the work is done', async () => {
  expect(within(TRACE_ID, () => activeTraceparent(undefined))).toBeNull();
  let done = false;
  await inLinkedSpan(TRACEPARENT, names, async () => {
    done = true;
  });
  expect([done, spans]).toEqual([true, []]);
});

test('the active trace is what OpenTelemetry says, where there is one', async () => {
  await findTraceApi();
  expect(activeTraceparent(undefined)).toBeNull();
  expect(within(TRACE_ID, () => activeTraceparent(undefined))).toBe(TRACEPARENT);
  expect(within('0'.repeat(32), () => activeTraceparent(undefined))).toBeNull();
});

test('a provider of its own goes before OpenTelemetry, and what is no traceparent is left out', () => {
  const given = `00-${'1'.repeat(32)}-${'2'.repeat(16)}-00`;
  within(TRACE_ID, () => {
    expect(activeTraceparent(() => given)).toBe(given);
    expect(activeTraceparent(() => undefined)).toBeNull();
    expect(activeTraceparent(() => 'Ada Lovelace')).toBeNull();
    expect(activeTraceparent(() => `ff-${TRACE_ID}-${SPAN_ID}-01`)).toBeNull();
    expect(
      activeTraceparent(() => {
        throw new Error('no trace today');
      }),
    ).toBeNull();
  });
});

test('a replay runs in a span of its own that links to the trace in which the event was published', async () => {
  await findTraceApi();
  await inLinkedSpan(TRACEPARENT, names, async () => undefined);
  const failing = inLinkedSpan(TRACEPARENT, names, async () => {
    throw new Error('failed');
  });
  await expect(failing).rejects.toThrow('failed');
  await inLinkedSpan(null, names, async () => undefined);
  const links = [{ context: { traceId: TRACE_ID, spanId: SPAN_ID, traceFlags: 1, isRemote: true } }];
  expect(spans).toEqual([
    { name: 'replay a.b.v1', links, ended: true },
    { name: 'replay a.b.v1', links, ended: true, status: 2 },
  ]);
});

let fails = false;
const spansAtRun: number[] = [];

@Injectable()
class Billing {
  @OnBackedEvent(EVENT)
  bill(): void {
    spansAtRun.push(spans.filter(({ ended }) => ended !== true).length);
    if (fails) throw new Error('not now');
  }
}

test('an event keeps the trace it was published in; live it runs there, and each replay in a span that links to it', async () => {
  const database = await createTestDatabase();
  await database.query(readFileSync(new URL('../sql/event_backups.extend.sql', import.meta.url), 'utf8'));
  const trial = await startTrial(database.url, [Billing]);
  const link = { name: `replay ${EVENT}`, links: [{ context: { traceId: TRACE_ID, spanId: SPAN_ID } }] };
  const left = async (): Promise<string> => {
    fails = true;
    const eventId = await within(TRACE_ID, () => trial.publish({ sessionId: 's-1' }));
    await eventually('failed', async () => (await deliveryRows(database, eventId))[0]?.status === 'failed');
    await eventually('its end', () => trial.deliveries.inFlight === 0);
    fails = false;
    return eventId;
  };
  try {
    const one = await left();
    expect(spans).toEqual([]);
    await trial.replay([one]);
    expect(await isProcessed(database, one)).toBe(true);
    expect(spans).toMatchObject([link]);

    const other = await left();
    await trial.replaySession('s-1');
    expect(await isProcessed(database, other)).toBe(true);
    expect(spans).toMatchObject([link, link]);
    // Without a span twice, when live, and within one at each replay.
    expect(spansAtRun).toEqual([0, 1, 0, 1]);
  } finally {
    await trial.stop();
    await database.drop();
  }
});
