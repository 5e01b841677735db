import { z } from 'zod';

/** The one type of event that the predecessor publishes and bills. */
export const SESSION_COMPLETED = 'services.session.completed.v1';

/** What it says: all that billing needs. Fields that a later version adds are passed over. */
export const sessionCompleted = z.object({
  sessionId: z.guid(),
  contractId: z.string().min(1),
  mentorId: z.string().min(1),
  amountMinor: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/),
});

/** The payload of SESSION_COMPLETED. */
export type SessionCompleted = z.infer<typeof sessionCompleted>;
