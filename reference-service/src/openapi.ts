import { MAX_REPLAY_IDS, NOT_STARTED_HEADER, REPLAY_DEADLINE_MS, REPLAY_OUTCOMES } from '@counterfoil/nestjs';
import type { INestApplication } from '@nestjs/common';
import { DocumentBuilder, type OpenAPIObject, SwaggerModule } from '@nestjs/swagger';
import type { Settings } from './settings.js';

const REPLAY_PATH = '/admin/events/replay';

type Operation = NonNullable<OpenAPIObject['paths'][string]['post']>;

/** The module's endpoint; described here, since a service need not have an OpenAPI page. */
const replayOperation: Operation = {
  tags: ['admin'],
  operationId: 'replayEvents',
  summary: 'Runs the listeners that have not succeeded yet, of the events named.',
  description: Object.entries(REPLAY_OUTCOMES)
    .map(([outcome, meaning]) => `- \`${outcome}\`: ${meaning}`)
    .join('\n'),
  security: [{ bearer: [] }],
  parameters: [
    {
      name: 'Idempotency-Key',
      in: 'header',
      required: false,
      description: 'The name of this request, for the log. Repeats are safe with or without it.',
      schema: { type: 'string', maxLength: 200 },
    },
  ],
  requestBody: {
    required: true,
    content: {
      'application/json': {
        schema: {
          type: 'object',
          required: ['eventIds'],
          additionalProperties: false,
          properties: {
            eventIds: { type: 'array', minItems: 1, maxItems: MAX_REPLAY_IDS, items: { type: 'string' } },
            deadlineMs: {
              type: 'integer',
              minimum: REPLAY_DEADLINE_MS.min,
              maximum: REPLAY_DEADLINE_MS.max,
              default: REPLAY_DEADLINE_MS.default,
              description: 'The answer comes within this time, in ms.',
            },
            dryRun: {
              type: 'boolean',
              default: false,
              description:
                'Runs nothing; an event that would run is answered outcome_unknown with error dry_run.',
            },
          },
        },
      },
    },
  },
  responses: {
    200: {
      description: 'One result per distinct id.',
      content: {
        'application/json': {
          schema: {
            type: 'object',
            required: ['serviceVersion', 'listenersDigest', 'results'],
            properties: {
              serviceVersion: { type: 'string' },
              listenersDigest: { type: 'string', description: 'Changes with the listeners of the service.' },
              results: {
                type: 'array',
                items: {
                  type: 'object',
                  required: ['eventId', 'outcome'],
                  properties: {
                    eventId: { type: 'string' },
                    outcome: { type: 'string', enum: Object.keys(REPLAY_OUTCOMES) },
                    retryable: { type: 'boolean' },
                    error: { type: 'string', description: 'A class or code, never a message.' },
                  },
                },
              },
            },
          },
        },
      },
    },
    400: { description: 'The body is malformed; the message says where.' },
    401: { description: 'The token is missing or wrong.' },
    413: { description: `More than ${MAX_REPLAY_IDS} ids.` },
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
  if (replayToken === undefined) delete document.paths[REPLAY_PATH];
  else document.paths[REPLAY_PATH] = { post: replayOperation };
  SwaggerModule.setup('docs', app, document, { jsonDocumentUrl: 'docs/openapi.json' });
}
