import { Body, Controller, HttpCode, Inject, Param, Post } from '@nestjs/common';
import { ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { Validated } from '../http-refusals.js';
import type { Session } from '../tables.js';
import { SessionService } from './session-service.js';

/** A name as other systems give it. Postgres takes no NUL in a text, and no lone surrogate in an event's payload. */
const name = z
  .string()
  .min(1)
  .max(200)
  .refine((text) => text.isWellFormed() && !text.includes('\u0000'), 'a character that cannot be stored');

const newSession = z.strictObject({
  id: z.guid().optional(),
  contractId: name,
  mentorId: name,
  amountMinor: z.int().min(0),
  currency: z.string().regex(/^[A-Z]{3}$/, 'three capital letters, such as EUR'),
});

const sessionId = z.uuid('a UUID is expected');

const SESSION_SCHEMA = {
  type: 'object',
  properties: {
    id: { type: 'string', format: 'uuid' },
    contractId: { type: 'string' },
    mentorId: { type: 'string' },
    amountMinor: { type: 'integer', minimum: 0 },
    currency: { type: 'string', example: 'EUR' },
    createdAt: { type: 'string', format: 'date-time' },
    completedAt: { type: 'string', format: 'date-time', nullable: true },
  },
} as const;

/** `POST /sessions` and `POST /sessions/:id/complete` */
@ApiTags('sessions')
@Controller('sessions')
export class SessionsController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService) {}

  @Post()
  @ApiOperation({ summary: 'Creates a session.' })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['contractId', 'mentorId', 'amountMinor', 'currency'],
      properties: {
        id: { type: 'string', format: 'uuid', description: 'a new one by default' },
        contractId: { type: 'string' },
        mentorId: { type: 'string' },
        amountMinor: { type: 'integer', minimum: 0, description: 'in minor units of the currency' },
        currency: { type: 'string', pattern: '^[A-Z]{3}$' },
      },
    },
  })
  @ApiResponse({ status: 201, description: 'The session.', schema: SESSION_SCHEMA })
  @ApiResponse({ status: 400, description: 'A field is missing or wrong; the message names it.' })
  @ApiResponse({ status: 409, description: 'The id is taken.' })
  async createSession(@Body(new Validated(newSession)) body: z.infer<typeof newSession>): Promise<Session> {
    return await this.sessions.createSession(body);
  }

  @Post(':id/complete')
  @HttpCode(200)
  @ApiOperation({
    summary: 'Completes a session and publishes services.session.completed.v1; its bill follows.',
  })
  @ApiResponse({ status: 200, description: 'The session, completed now or before.', schema: SESSION_SCHEMA })
  @ApiResponse({ status: 400, description: 'The id is no UUID.' })
  @ApiResponse({ status: 404, description: 'There is no such session.' })
  async completeSession(@Param('id', new Validated(sessionId)) id: string): Promise<Session> {
    return await this.sessions.completeSession(id);
  }
}
