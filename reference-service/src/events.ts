import type { z } from 'zod';
import {
  CONTRACT_ACTIVATED,
  CONTRACT_SIGNED,
  contractActivated,
  contractSigned,
  SERVICE_CONSUMED,
  serviceConsumed,
} from './contracts/contract-events.js';
import {
  SESSION_COMPLETED,
  SESSION_EVALUATED,
  sessionCompleted,
  sessionEvaluated,
} from './sessions/session-events.js';

/** Every event this service publishes, with its form. */
const FORMS: Readonly<Record<string, z.ZodType>> = {
  [CONTRACT_SIGNED]: contractSigned,
  [CONTRACT_ACTIVATED]: contractActivated,
  [SERVICE_CONSUMED]: serviceConsumed,
  [SESSION_COMPLETED]: sessionCompleted,
  [SESSION_EVALUATED]: sessionEvaluated,
};

/** Their names. */
export const PUBLISHED_EVENTS: readonly string[] = Object.keys(FORMS);

/** By name, whether a payload has the form its listeners expect. */
export const ACCEPTED_PAYLOADS: Readonly<Record<string, (payload: unknown) => boolean>> = Object.fromEntries(
  Object.entries(FORMS).map(([name, form]) => [name, (payload: unknown) => form.safeParse(payload).success]),
);
