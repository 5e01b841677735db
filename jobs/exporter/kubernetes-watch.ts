/**
 * Follows the objects of one kind: lists them, then reads what changes, and lists again whenever it cannot be sure to
 * have seen every change. Never gives up: while the API server is away it is asked again, with growing pauses.
 */
import { z } from 'zod';
import type { Logger } from '../runtime/logger.ts';
import { pause } from '../runtime/pause.ts';
import { ApiFailure, type ApiServer, parseJson, type Query } from './kubernetes-api.ts';

export interface WatchedKind<Kept> {
  /** For the log, such as `pods`. */
  readonly name: string;
  readonly path: string;
  readonly query: Query;
  /** What of an object is kept; nothing where it is none of ours, or nothing in it can be read. */
  keep(object: unknown): Kept | undefined;
  /** All objects as they are now, by uid; called after the first list and after each change. */
  changed(objects: ReadonlyMap<string, Kept>): void;
  /** A sign of life of the watch. */
  alive(): void;
  /** The watch is cut off; `status` is what the API server answered, if it did. */
  lost(status: number | undefined): void;
}

export interface WatchPace {
  /** The server ends a watch after this long: the next one is a sign of life where nothing changes. */
  readonly watchSeconds: number;
  /** After so long without a byte a connection is taken for half open. Longer than a watch. */
  readonly silenceMs: number;
  /** Pause after the first failure; doubled up to the longest. */
  readonly firstPauseMs: number;
  readonly longestPauseMs: number;
}

/**
 * At most a request every twenty seconds and kind, which is nothing to an API server; and quick enough for what is half
 * open to be seen, and for a quiet watch to give signs of life, long before series get too old.
 */
export function paceFor(maxAgeMs: number): WatchPace {
  const watchSeconds = Math.min(20, Math.max(1, Math.floor(maxAgeMs / 4_000)));
  return { watchSeconds, silenceMs: watchSeconds * 1_250 + 1_000, firstPauseMs: 500, longestPauseMs: 15_000 };
}

/** Objects in one page of a list: what is not kept is garbage at once. */
const PAGE = '100';

const metadata = z.object({ uid: z.string().min(1) });
const list = z.object({
  metadata: z.object({ resourceVersion: z.string().min(1), continue: z.string().optional() }),
  items: z.array(z.unknown()),
});
const event = z.object({ type: z.string(), object: z.unknown() });
const versioned = z.object({ metadata: z.object({ resourceVersion: z.string().min(1) }) });
const identified = z.object({ metadata });
const status = z.object({ code: z.number() });

/** Runs until `signal` is aborted. */
export async function watchObjects<Kept>(
  api: ApiServer,
  kind: WatchedKind<Kept>,
  options: { readonly logger: Logger; readonly signal: AbortSignal; readonly pace: WatchPace },
): Promise<void> {
  const { logger, signal, pace } = options;
  let failures = 0;
  while (!signal.aborted) {
    try {
      const { objects, version } = await listObjects(api, kind, signal);
      if (signal.aborted) return;
      kind.alive();
      kind.changed(objects);
      if (failures > 0) logger.info({ kind: kind.name }, 'the watch goes on');
      failures = 0;
      let from = version;
      while (!signal.aborted) from = await followOnce(api, kind, objects, from, { signal, pace });
    } catch (error) {
      if (signal.aborted) return;
      const answered = error instanceof ApiFailure ? error.status : undefined;
      // Expired: we have been away for too long, which is no fault of anybody.
      if (answered === 410) {
        await pause(pace.firstPauseMs * Math.random(), signal);
        continue;
      }
      failures += 1;
      kind.lost(answered);
      if (failures === 1) {
        logger.warn(
          { kind: kind.name, err: error },
          answered === 403
            ? 'the API server does not let us watch: the Role of jobs/exporter/rbac.yaml is missing'
            : 'a watch was cut off: trying again',
        );
      }
      const ms = Math.min(pace.firstPauseMs * 2 ** (failures - 1), pace.longestPauseMs);
      await pause(ms * (0.5 + Math.random() / 2), signal);
    }
  }
}

async function listObjects<Kept>(
  api: ApiServer,
  kind: WatchedKind<Kept>,
  signal: AbortSignal,
): Promise<{ objects: Map<string, Kept>; version: string }> {
  const objects = new Map<string, Kept>();
  let next: string | undefined;
  for (;;) {
    const query = { ...kind.query, limit: PAGE, ...(next === undefined ? {} : { continue: next }) };
    const page = read(list, await api.get(kind.path, query, signal));
    for (const item of page.items) put(objects, kind, item);
    next = page.metadata.continue;
    if (next === undefined || next === '') return { objects, version: page.metadata.resourceVersion };
  }
}

/** One watch, until the server ends it; gives the version to go on from. */
async function followOnce<Kept>(
  api: ApiServer,
  kind: WatchedKind<Kept>,
  objects: Map<string, Kept>,
  from: string,
  { signal, pace }: { readonly signal: AbortSignal; readonly pace: WatchPace },
): Promise<string> {
  const openedAt = Date.now();
  let version = from;
  const query = {
    ...kind.query,
    watch: '1',
    allowWatchBookmarks: 'true',
    resourceVersion: from,
    timeoutSeconds: String(pace.watchSeconds),
  };
  const opened = () => kind.alive();
  for await (const line of api.lines(kind.path, query, { signal, silenceMs: pace.silenceMs, opened })) {
    const { type, object } = read(event, parseJson(line));
    if (type === 'ERROR') {
      const { code } = read(status, object);
      throw new ApiFailure(code, String(code));
    }
    version = read(versioned, object).metadata.resourceVersion;
    kind.alive();
    if (type === 'ADDED' || type === 'MODIFIED') put(objects, kind, object);
    else if (type === 'DELETED') objects.delete(read(identified, object).metadata.uid);
    else continue; // BOOKMARK: only the version is new
    kind.changed(objects);
  }
  // A watch that ends at once, again and again, must not become a loop without a pause.
  if (Date.now() - openedAt < pace.firstPauseMs) await pause(pace.firstPauseMs, signal);
  return version;
}

function put<Kept>(objects: Map<string, Kept>, kind: WatchedKind<Kept>, object: unknown): void {
  const { uid } = read(identified, object).metadata;
  const kept = kind.keep(object);
  if (kept === undefined) objects.delete(uid);
  else objects.set(uid, kept);
}

/** What cannot be read is as good as lost; zod's own error would quote it. */
function read<Output>(schema: z.ZodType<Output>, input: unknown): Output {
  const parsed = schema.safeParse(input);
  if (!parsed.success) throw new ApiFailure(undefined, 'no object of Kubernetes');
  return parsed.data;
}
