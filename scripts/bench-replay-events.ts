/** The events of bench:replay: their ids, which every process knows without asking, and the one POST for each of them. */
import { createHash } from 'node:crypto';
import { Agent, request } from 'undici';

export const TOKEN = 'only-in-benches';
/** What an event id begins with that no listener can ever process: the sink answers accordingly. */
export const POISON_PREFIX = 'poison-';
/** What the job gives the service for one call, its default; the others ask for the same. */
const DEADLINE_MS = 30_000;

/** The id of event `n`, from 1: as spread over an index as the random ids of the service. */
export function eventId(n: number): string {
  const hex = createHash('md5').update(`e${n}`).digest('hex');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

/** The same in SQL. */
export const eventIdInSql = (n: string) => `md5('e' || ${n})::uuid::text`;

export interface ReplayCall {
  readonly eventIds: readonly string[];
  readonly deadlineMs: number;
}

/** What the sink answers: the form of the replay endpoint. */
export interface ReplayAnswer {
  readonly serviceVersion: string;
  readonly listenersDigest: string;
  readonly results: readonly {
    readonly eventId: string;
    readonly outcome: string;
    readonly retryable?: boolean;
  }[];
}

export interface Poster {
  /** Sends one event; rejects unless the answer says that it is processed. */
  post(id: string): Promise<void>;
  close(): Promise<void>;
}

/** The POST of all contenders but the job, which has its own: same address, same body, same headers, a connection per lane. */
export function openPoster(url: string, lanes: number): Poster {
  const agent = new Agent({ connections: lanes, pipelining: 1 });
  return {
    async post(id) {
      const call: ReplayCall = { eventIds: [id], deadlineMs: DEADLINE_MS };
      const response = await request(url, {
        dispatcher: agent,
        method: 'POST',
        headers: {
          authorization: `Bearer ${TOKEN}`,
          'content-type': 'application/json',
          accept: 'application/json',
          'idempotency-key': id,
        },
        body: JSON.stringify(call),
      });
      const text = await response.body.text();
      const [result] = response.statusCode === 200 ? (JSON.parse(text) as ReplayAnswer).results : [];
      if (result?.outcome !== 'processed')
        throw new Error(`the sink answered ${response.statusCode}: ${text}`);
    },
    close: async () => await agent.close(),
  };
}

/** Runs `work` on so many lanes at once until each of them finds nothing more to do; rejects with the first failure. */
export async function onLanes(lanes: number, work: () => Promise<boolean>): Promise<void> {
  let failed = false;
  const lane = async () => {
    try {
      while (!failed && (await work()));
    } catch (error) {
      failed = true;
      throw error;
    }
  };
  await Promise.all(Array.from({ length: lanes }, lane));
}
