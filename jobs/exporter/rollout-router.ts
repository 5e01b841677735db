/**
 * Whether the controller fails to set weights. It writes that in no field of the Rollout: it stops before it judges
 * anything and says so in an Event, again at each attempt.
 */
import { z } from 'zod';
import { lenient, time } from './kubernetes-object.ts';
import type { Rollout } from './rollout-read.ts';

export const routerErrorReason = 'TrafficRoutingError';

/** The controller tries every ten seconds; of an Event that repeats itself the API server is told every five minutes. */
const SAID_AGAIN_WITHIN_MS = 360_000;

const shape = z.object({
  lastTimestamp: lenient(time),
  eventTime: lenient(time),
  metadata: z.object({ creationTimestamp: lenient(time) }),
});

/** When an Event was last said. */
export function readEventTime(object: unknown): number | undefined {
  const parsed = shape.safeParse(object);
  if (!parsed.success) return undefined;
  const { lastTimestamp, eventTime, metadata } = parsed.data;
  return lastTimestamp ?? eventTime ?? metadata.creationTimestamp;
}

/** @param errors when the controller said that it could not set weights */
export function hasRouterError(rollout: Rollout, errors: Iterable<number>, now: number): boolean {
  const last = Math.max(0, ...errors);
  // A condition that was changed since then shows that the controller has got past the router.
  return last > now - SAID_AGAIN_WITHIN_MS && last > rollout.settledAt;
}
