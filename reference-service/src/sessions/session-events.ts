import { z } from 'zod';

/** A session was completed and must be billed. */
export const SESSION_COMPLETED = 'services.session.completed.v1';
/** A completed session was evaluated by the one who had it. */
export const SESSION_EVALUATED = 'services.session.evaluated.v1';

/** What billing needs of a session, so that a replay days later reads nothing else. */
const billable = {
  // Any uuid that Postgres takes: ids made by hash functions carry no RFC version.
  sessionId: z.guid(),
  contractId: z.string().min(1),
  mentorId: z.string().min(1),
  amountMinor: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
};

/** The form of SESSION_COMPLETED. */
export const sessionCompleted = z.object(billable);
/** The form of SESSION_EVALUATED; it bills as well as a completion does, whichever comes first. */
export const sessionEvaluated = z.object({ ...billable, score: z.int().min(1).max(5) });

/** The payload of SESSION_COMPLETED. */
export type SessionCompleted = z.infer<typeof sessionCompleted>;
/** The payload of SESSION_EVALUATED. */
export type SessionEvaluated = z.infer<typeof sessionEvaluated>;
