import { z } from 'zod';

/** The name of the event. */
export const SESSION_COMPLETED = 'services.session.completed.v1';

/** What the event says: all that billing needs, so that a replay days later reads nothing else. */
export const sessionCompleted = z.object({
  // Any uuid that Postgres takes: ids made by hash functions carry no RFC version.
  sessionId: z.guid(),
  contractId: z.string().min(1),
  mentorId: z.string().min(1),
  amountMinor: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
});

/** The payload of SESSION_COMPLETED. */
export type SessionCompleted = z.infer<typeof sessionCompleted>;
