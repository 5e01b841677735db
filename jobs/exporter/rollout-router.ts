/**
 * Whether the controller fails to set weights. It writes that in no field of the Rollout: it stops before it judges
 * anything and says so in Events, at each attempt, until its library lets no more of them through (25 in a row, then one
 * in five minutes whatever it is about). So an Event alone does not tell how long it goes on: the Rollout has to.
 */
import { z } from 'zod';
import { lenient, time } from './kubernetes-object.ts';
import type { Rollout } from './rollout-read.ts';

export interface RouterError {
  readonly lastAt: number;
  readonly count: number;
}

/** How long an error counts where the weight is right: it may be over, and nothing changes then. */
const COUNTS_FOR_MS = 360_000;
/** A conflict with another writer is over at the next attempt, milliseconds later. */
const FEW = 3;

const shape = z.object({
  reason: z.string().regex(/^TrafficRoutingError$|UpdateError$/),
  lastTimestamp: lenient(time),
  eventTime: lenient(time),
  count: lenient(z.number()),
  metadata: z.object({ creationTimestamp: lenient(time) }),
});

/** An Event that says that a router could not be written to; nothing for any other one. */
export function readRouterError(object: unknown): RouterError | undefined {
  const parsed = shape.safeParse(object);
  if (!parsed.success) return undefined;
  const { lastTimestamp, eventTime, metadata, count } = parsed.data;
  const lastAt = lastTimestamp ?? eventTime ?? metadata.creationTimestamp;
  return lastAt === undefined ? undefined : { lastAt, count: count ?? 1 };
}

export function hasRouterError(rollout: Rollout, errors: Iterable<RouterError>, now: number): boolean {
  // A condition that was changed since then shows that the controller has got past the router. Both are whole seconds,
  // and the first attempts come in the second of the change.
  const since = [...errors].filter(({ lastAt }) => lastAt >= rollout.settledAt);
  if (since.length === 0) return false;
  if (rollout.weight !== rollout.weightDue) return true;
  return since.some(({ lastAt, count }) => count >= FEW && lastAt > now - COUNTS_FOR_MS);
}
