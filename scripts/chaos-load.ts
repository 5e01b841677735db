/** Callers that go on whatever becomes of the service: as people and other services would. */
import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { Agent, request } from 'undici';

export interface Load {
  /** Sessions whose completion was answered with success. */
  completed(): readonly string[];
  /** Requests that wait for an answer at this moment. */
  open(): number;
  /** Requests that were not answered with success: refused, cut off, timed out. */
  failed(): number;
  /** Resolves when `more` further completions were answered. */
  after(more: number): Promise<void>;
  stop(): Promise<void>;
}

/** Eight callers that ask again more often would take the processor from the service that is starting. */
const RETRY_MS = 100;
/** Between two sessions of a caller: the machine must have room for the service's starts too. */
const THINK_MS = 15;
const ANSWER_WITHIN_MS = 5_000;
/** The share of callers that never ask again after a failure: what they began is finished without them. */
const GIVE_UP_SHARE = 0.5;

/** @param random gives numbers from 0 to 1, so that a seed decides who gives up */
export function startLoad(url: string, callers: number, random: () => number): Load {
  const agent = new Agent({
    connections: callers,
    headersTimeout: ANSWER_WITHIN_MS,
    bodyTimeout: ANSWER_WITHIN_MS,
  });
  const completed: string[] = [];
  let open = 0;
  let failed = 0;
  let stopped = false;
  const waiting: { at: number; resolve: () => void }[] = [];
  const send = async (path: string, body: unknown): Promise<boolean> => {
    open += 1;
    try {
      const response = await request(`${url}${path}`, {
        method: 'POST',
        dispatcher: agent,
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(body),
      });
      await response.body.dump();
      // 409: an earlier try of ours got through, and its answer did not.
      if (response.statusCode < 300 || response.statusCode === 409) return true;
    } catch {
      // Refused, cut off or too late.
    } finally {
      open -= 1;
    }
    failed += 1;
    return false;
  };
  const insist = async (path: string, body: unknown, gaveUp: () => boolean): Promise<boolean> => {
    for (;;) {
      if (await send(path, body)) return true;
      if (stopped || gaveUp()) return false;
      await delay(RETRY_MS);
    }
  };
  const call = async (caller: number) => {
    while (!stopped) {
      const id = randomUUID();
      const session = {
        id,
        contractId: 'contract-1',
        mentorId: `mentor-${caller}`,
        amountMinor: 4_200,
        currency: 'EUR',
      };
      if (!(await insist('/sessions', session, () => false))) return;
      if (await insist(`/sessions/${id}/complete`, {}, () => random() < GIVE_UP_SHARE)) {
        completed.push(id);
        for (const waiter of waiting.filter(({ at }) => at <= completed.length)) waiter.resolve();
      }
      await delay(THINK_MS);
    }
  };
  const ended = Promise.all(Array.from({ length: callers }, (_, caller) => call(caller)));
  return {
    completed: () => completed,
    open: () => open,
    failed: () => failed,
    after: (more) =>
      new Promise((resolve) => {
        waiting.push({ at: completed.length + more, resolve });
      }),
    async stop() {
      stopped = true;
      await ended;
      await agent.close();
    },
  };
}
