import {
  MAX_REPLAY_IDS,
  NOT_STARTED_HEADER,
  PENDING_PAGE,
  REPLAY_DEADLINE_MS,
  REPLAY_OUTCOMES,
  SESSION_REBUILDS,
} from '@counterfoil/nestjs';
import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import { z } from 'zod';
import { schemaOf } from './schema-of.js';
import type { Settings } from './settings.js';

const REPLAY_PATH = '/admin/events/replay';
const PENDING_PATH = '/admin/events/pending';

type Operation = NonNullable<OpenAPIObject['paths'][string]['post']>;
type Words = Readonly<Record<string, string>>;

// The module's endpoints; described here, since a service need not have an OpenAPI page.

const describe = (words: Words): string =>
  Object.entries(words)
    .map(([word, meaning]) => `- \`${word}\`: ${meaning}`)
    .join('\n');

const oneOf = (words: Words) => z.enum(Object.keys(words) as [string, ...string[]]);

const settings = {
  deadlineMs: z
    .int()
    .min(REPLAY_DEADLINE_MS.min)
    .max(REPLAY_DEADLINE_MS.max)
    .default(REPLAY_DEADLINE_MS.default)
    .describe('The answer comes within this time, in ms.'),
  dryRun: z.boolean().default(false).describe('Runs nothing; says what would run by error dry_run.'),
};

const answer = {
  serviceVersion: z.string(),
  listenersDigest: z.string().describe('Changes with the listeners of the service.'),
  results: z.array(
    z.object({
      eventId: z.string(),
      outcome: oneOf(REPLAY_OUTCOMES),
      retryable: z.boolean().optional(),
      error: z.string().optional().describe('A class or code, never a message.'),
    }),
  ),
};

function operation(
  own: Pick<Operation, 'operationId' | 'summary' | 'description'>,
  body: z.ZodType,
  form: z.ZodType,
  more: Partial<Operation> = {},
): Operation {
  return {
    tags: ['admin'],
    ...own,
    security: [{ bearer: [] }],
    parameters: [
      ...(more.parameters ?? []),
      {
        name: 'Idempotency-Key',
        in: 'header',
        required: false,
        description: 'The name of this request, for the log. Repeats are safe with or without it.',
        schema: { type: 'string', maxLength: 200 },
      },
    ],
    requestBody: { required: true, content: { 'application/json': { schema: schemaOf(body) } } },
    responses: {
      200: {
        description: 'One result per distinct event.',
        content: { 'application/json': { schema: schemaOf(form) } },
      },
      400: { description: 'The request is malformed; the message says where.' },
      401: { description: 'The token is missing or wrong.' },
      503: {
        description: 'The service is stopping or its database does not answer; nothing was started.',
        headers: {
          [NOT_STARTED_HEADER.name]: {
            description: 'Nothing was started: ask again. A 503 without it comes from something in between.',
            required: true,
            schema: { type: 'string', enum: [NOT_STARTED_HEADER.value] },
          },
        },
      },
      ...more.responses,
    },
  };
}

const replayEvents = operation(
  {
    operationId: 'replayEvents',
    summary: 'Runs the listeners that have not succeeded yet, of the events named.',
    description: describe(REPLAY_OUTCOMES),
  },
  z.strictObject({ eventIds: z.array(z.string()).min(1).max(MAX_REPLAY_IDS), ...settings }),
  z.object(answer),
  { responses: { 413: { description: `More than ${MAX_REPLAY_IDS} ids.` } } },
);

const replaySession = operation(
  {
    operationId: 'replaySession',
    summary: 'Replays what is pending of a session; where nothing is, has its event rebuilt from the fact.',
    description: describe(SESSION_REBUILDS),
  },
  z.strictObject(settings),
  z.object({
    ...answer,
    sessionId: z.string(),
    rebuild: oneOf(SESSION_REBUILDS),
    code: z.string().optional().describe('With refused: why, in a word.'),
    more: z.boolean().optional().describe('More events are pending than one request takes: ask again.'),
  }),
  { parameters: [{ name: 'sessionId', in: 'path', required: true, schema: { type: 'string' } }] },
);

const listPending: Operation = {
  tags: ['admin'],
  operationId: 'listPending',
  summary: 'Lists the events that are not processed, oldest first, without their payloads.',
  security: [{ bearer: [] }],
  parameters: [
    {
      name: 'limit',
      in: 'query',
      required: false,
      schema: { type: 'integer', minimum: 1, maximum: PENDING_PAGE.max, default: PENDING_PAGE.default },
    },
    {
      name: 'after',
      in: 'query',
      required: false,
      description: 'The last id of the page before.',
      schema: { type: 'string' },
    },
  ],
  responses: {
    200: {
      description: 'One page.',
      content: {
        'application/json': {
          schema: schemaOf(
            z.object({
              events: z.array(
                z.object({
                  eventId: z.string(),
                  eventName: z.string(),
                  ageSeconds: z.number(),
                  running: z.boolean().describe('A listener of it runs now, under a live lease.'),
                }),
              ),
              more: z.boolean().optional().describe('More are pending: ask again behind the last one.'),
            }),
          ),
        },
      },
    },
    400: { description: 'The request is malformed, or the event named by after is not there any more.' },
    401: { description: 'The token is missing or wrong.' },
    503: { description: 'The database does not answer.' },
  },
};

/** Serves the API's description as a page at /docs and as JSON at /docs/openapi.json. */
export function serveOpenApi(app: INestApplication, { serviceVersion, replayToken }: Settings): void {
  const config = new DocumentBuilder()
    .setTitle('reference-service')
    .setDescription('Completes sessions and bills them through in-memory events that survive a crash.')
    .setVersion(serviceVersion)
    .addBearerAuth()
    .build();
  const document = SwaggerModule.createDocument(app, config);
  delete document.paths[REPLAY_PATH];
  delete document.paths[`${REPLAY_PATH}/{sessionId}`];
  delete document.paths[PENDING_PATH];
  if (replayToken !== undefined) {
    document.paths[REPLAY_PATH] = { post: replayEvents };
    document.paths[`${REPLAY_PATH}/{sessionId}`] = { post: replaySession };
    document.paths[PENDING_PATH] = { get: listPending };
  }
  SwaggerModule.setup('docs', app, document, { jsonDocumentUrl: 'docs/openapi.json' });
}
