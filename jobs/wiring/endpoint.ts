/** The replay endpoint, asked for an event that nobody has published: it has to say so, to the token and to nobody else. */
import { randomUUID } from 'node:crypto';
import { z } from 'zod';
import { RunFailure } from '../runtime/failures.ts';
import { type Asked, ask, described, jsonOf } from './ask.ts';
import { type Attempt, needed } from './job.ts';

const answer = z.object({ results: z.array(z.object({ eventId: z.string(), outcome: z.string() })) });

/** What it means where asking again cannot help. */
const refusals: Readonly<Record<number, string>> = {
  401: 'refuses the token: the service and counterfoil need the same one',
  403: 'refuses the token: the service and counterfoil need the same one',
  404: 'is not there: the service has none at this path, or was given no token of its own',
  405: 'is not there: something else answers at this path',
  400: 'refuses the request: it is no replay endpoint of the module',
  422: 'refuses the request: it is no replay endpoint of the module',
};

export const tryEndpoint: Attempt = async (context) => {
  const { logger, signal } = context;
  const url = needed(context, 'CF_REPLAY_URL');
  const token = needed(context, 'CF_REPLAY_TOKEN');
  // An id that no event has: nothing is replayed.
  const eventId = randomUUID();
  const body = { eventIds: [eventId], dryRun: true };
  const asked = await ask(url, signal, {
    method: 'POST',
    headers: { authorization: `Bearer ${token}` },
    body,
  });
  if (asked.kind === 'answered') refuse(asked.status);
  if (asked.kind !== 'answered' || asked.status !== 200) return [`the replay endpoint ${described(asked)}`];
  const parsed = answer.safeParse(jsonOf(asked));
  const result = parsed.data?.results.find((one) => one.eventId === eventId);
  if (result === undefined)
    throw new RunFailure(
      'endpoint_refused',
      'the replay endpoint answers, but not as one: no result for the event that was asked for',
    );
  if (result.outcome !== 'not_found')
    throw new RunFailure(
      'endpoint_refused',
      'the replay endpoint knows an event that nobody has published: it does not look at the ids',
    );
  if (isOpen(await ask(url, signal, { method: 'POST', body })))
    throw new RunFailure(
      'endpoint_refused',
      'the replay endpoint answers without a token too: whoever reaches it can replay',
    );
  logger.info('the replay endpoint knows the token, and nothing without it');
  return [];
};

function refuse(status: number): void {
  if (status >= 300 && status < 400)
    throw new RunFailure(
      'endpoint_refused',
      `the replay endpoint redirects (${status}): name the address where it is, no redirect is followed`,
    );
  const why = refusals[status];
  if (why !== undefined) throw new RunFailure('endpoint_refused', `the replay endpoint ${why} (${status})`);
}

const isOpen = (asked: Asked): boolean => asked.kind === 'answered' && asked.status === 200;
