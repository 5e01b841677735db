/** What is used of `@opentelemetry/api`, which a service may have or not. */
interface TraceApi {
  context: { active(): unknown };
  trace: {
    getSpanContext(context: unknown): SpanContext | undefined;
    getTracer(name: string): {
      startActiveSpan<Result>(
        name: string,
        options: { kind: number; root: boolean; links: { context: SpanContext }[]; attributes: object },
        work: (span: { end(): void; setStatus(status: { code: number }): void }) => Promise<Result>,
      ): Promise<Result>;
    };
  };
}

interface SpanContext {
  traceId: string;
  spanId: string;
  traceFlags: number;
  isRemote?: boolean;
}

const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})$/;
const NO_TRACE = /^0+$/;
/** `SpanKind.CONSUMER` and `SpanStatusCode.ERROR` of @opentelemetry/api. */
const CONSUMER = 4;
const ERROR = 2;

let api: TraceApi | undefined;

/** Finds `@opentelemetry/api` where the service has it; nothing is traced otherwise. */
export async function findTraceApi(): Promise<void> {
  // Not a literal, so that neither the compiler nor a bundler demands the package.
  const name: string = '@opentelemetry/api';
  try {
    api ??= (await import(name)) as TraceApi;
  } catch {
    api = undefined;
  }
}

function parse(traceparent: string | null | undefined): SpanContext | undefined {
  const [, version, traceId = '', spanId = '', flags = ''] = TRACEPARENT.exec(traceparent ?? '') ?? [];
  if (version === undefined || version === 'ff' || NO_TRACE.test(traceId) || NO_TRACE.test(spanId))
    return undefined;
  return { traceId, spanId, traceFlags: Number.parseInt(flags, 16), isRemote: true };
}

/** The active trace in the form of W3C's header `traceparent`: what `provide` says, else OpenTelemetry's; null for none. */
export function activeTraceparent(provide: (() => string | undefined) | undefined): string | null {
  try {
    if (provide !== undefined) {
      const given = provide();
      return parse(given) === undefined ? null : (given ?? null);
    }
    const span = api?.trace.getSpanContext(api.context.active());
    if (span === undefined || NO_TRACE.test(span.traceId)) return null;
    return `00-${span.traceId}-${span.spanId}-${(span.traceFlags & 0xff).toString(16).padStart(2, '0')}`;
  } catch {
    // A trace is worth no event.
    return null;
  }
}

/** Runs `work` in a span of its own that is linked to the trace in which the event was published. */
export async function inLinkedSpan(
  traceparent: string | null | undefined,
  attributes: { eventId: string; eventName: string; listener: string },
  work: () => Promise<void>,
): Promise<void> {
  const origin = parse(traceparent);
  if (api === undefined || origin === undefined) return await work();
  const { eventId, eventName, listener } = attributes;
  return await api.trace.getTracer('@counterfoil/nestjs').startActiveSpan(
    `replay ${eventName}`,
    {
      kind: CONSUMER,
      root: true,
      links: [{ context: origin }],
      attributes: { 'messaging.message.id': eventId, 'counterfoil.listener': listener },
    },
    async (span) => {
      try {
        await work();
      } catch (error) {
        span.setStatus({ code: ERROR });
        throw error;
      } finally {
        span.end();
      }
    },
  );
}
