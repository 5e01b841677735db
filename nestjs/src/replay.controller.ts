import {
  Body,
  type CanActivate,
  Controller,
  type ExecutionContext,
  Headers,
  HttpCode,
  Inject,
  Injectable,
  NotFoundException,
  Param,
  Post,
  Res,
  UnauthorizedException,
  UseGuards,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import { bearerMatches } from './bearer-token.js';
import { OPTIONS, type ResolvedOptions } from './options.js';
import { NOT_STARTED_HEADER, NotStartedException, Replay, type ReplayAnswer } from './replay.js';
import { parseReplayRequest, parseSessionReplayRequest } from './replay-request.js';
import { SessionReplay, type SessionReplayAnswer } from './replay-session.js';

/** Lets only the configured bearer token through; without one, the endpoint does not exist. */
@Injectable()
export class ReplayTokenGuard implements CanActivate {
  constructor(@Inject(OPTIONS) private readonly options: ResolvedOptions) {}

  canActivate(context: ExecutionContext): boolean {
    const request = context
      .switchToHttp()
      .getRequest<{ method: string; url: string; headers: Record<string, string | undefined> }>();
    const { replayToken } = this.options;
    if (replayToken === undefined) throw new NotFoundException(`Cannot ${request.method} ${request.url}`);
    if (!bearerMatches(request.headers.authorization, replayToken)) {
      throw new UnauthorizedException('a replay needs the bearer token of this service');
    }
    return true;
  }
}

/** `POST /admin/events/replay` and `POST /admin/events/replay/:sessionId` */
@Controller('admin/events/replay')
@UseGuards(ReplayTokenGuard)
export class ReplayController {
  constructor(
    @Inject(Replay) private readonly replay: Replay,
    @Inject(SessionReplay) private readonly sessions: SessionReplay,
    @Inject(HttpAdapterHost) private readonly host: HttpAdapterHost,
  ) {}

  /** Replays the events named in the body; the answer's form is `ReplayAnswer`. */
  @Post()
  @HttpCode(200)
  async replayEvents(
    @Body() body: unknown,
    @Headers('idempotency-key') idempotencyKey: string | undefined,
    @Res({ passthrough: true }) response: unknown,
  ): Promise<ReplayAnswer> {
    const request = parseReplayRequest(body, idempotencyKey);
    return await this.marked(response, this.replay.run(request));
  }

  /** Replays what is pending of a session, or has its event rebuilt; the answer's form is `SessionReplayAnswer`. */
  @Post(':sessionId')
  @HttpCode(200)
  async replaySession(
    @Param('sessionId') sessionId: string,
    @Body() body: unknown,
    @Headers('idempotency-key') idempotencyKey: string | undefined,
    @Res({ passthrough: true }) response: unknown,
  ): Promise<SessionReplayAnswer> {
    const request = parseSessionReplayRequest(sessionId, body, idempotencyKey);
    return await this.marked(response, this.sessions.run(request));
  }

  private async marked<Answer>(response: unknown, answering: Promise<Answer>): Promise<Answer> {
    try {
      return await answering;
    } catch (error) {
      // On the response, since the body belongs to whatever exception filter the service has.
      if (error instanceof NotStartedException) {
        this.host.httpAdapter.setHeader(response, NOT_STARTED_HEADER.name, NOT_STARTED_HEADER.value);
      }
      throw error;
    }
  }
}
