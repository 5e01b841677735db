import { Body, Controller, HttpCode, Inject, Param, Post } from '@nestjs/common';
import { ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { storableText, Validated } from '../http-refusals.js';
import { schemaOf } from '../schema-of.js';
import type { Session, SessionEvaluation } from '../tables.js';
import { SessionService } from './session-service.js';

const newSession = z.strictObject({
  id: z.guid().optional().describe('a new one by default'),
  contractId: storableText(200),
  mentorId: storableText(200),
  amountMinor: z.int().min(0).describe('in minor units of the currency'),
  currency: z.string().regex(/^[A-Z]{3}$/, 'three capital letters, such as EUR'),
});

const newEvaluation = z.strictObject({ score: z.int().min(1).max(5) });

const sessionId = z.guid('a UUID is expected');

const SESSION = schemaOf(
  newSession.required().extend({ createdAt: z.iso.datetime(), completedAt: z.iso.datetime().nullable() }),
);
const EVALUATION = schemaOf(newEvaluation.extend({ sessionId: z.guid(), evaluatedAt: z.iso.datetime() }));

/** `POST /sessions`, `POST /sessions/:id/complete` and `POST /sessions/:id/evaluate` */
@ApiTags('sessions')
@Controller('sessions')
export class SessionsController {
  constructor(@Inject(SessionService) private readonly sessions: SessionService) {}

  @Post()
  @ApiOperation({ summary: 'Creates a session.' })
  @ApiBody({ schema: schemaOf(newSession) })
  @ApiResponse({ status: 201, description: 'The session.', schema: SESSION })
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
  @ApiResponse({ status: 200, description: 'The session, completed now or before.', schema: SESSION })
  @ApiResponse({ status: 400, description: 'The id is no UUID.' })
  @ApiResponse({ status: 404, description: 'There is no such session.' })
  async completeSession(@Param('id', new Validated(sessionId)) id: string): Promise<Session> {
    return await this.sessions.completeSession(id);
  }

  @Post(':id/evaluate')
  @HttpCode(200)
  @ApiOperation({
    summary: 'Records what a completed session was worth and publishes services.session.evaluated.v1.',
  })
  @ApiBody({ schema: schemaOf(newEvaluation) })
  @ApiResponse({
    status: 200,
    description: 'Its evaluation: this one, or the first one before.',
    schema: EVALUATION,
  })
  @ApiResponse({ status: 400, description: 'The id is no UUID, or the score none from 1 to 5.' })
  @ApiResponse({ status: 404, description: 'There is no such session.' })
  @ApiResponse({ status: 409, description: 'The session is not completed.' })
  async evaluateSession(
    @Param('id', new Validated(sessionId)) id: string,
    @Body(new Validated(newEvaluation)) { score }: z.infer<typeof newEvaluation>,
  ): Promise<SessionEvaluation> {
    return await this.sessions.evaluateSession(id, score);
  }
}
