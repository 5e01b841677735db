import {
  BadRequestException,
  Controller,
  Get,
  Inject,
  Logger,
  Query,
  ServiceUnavailableException,
  UseGuards,
} from '@nestjs/common';
import { errorCode } from './error-code.js';
import { PENDING_PAGE, PendingEvents, type PendingPage, PendingPageLostError } from './pending-events.js';
import { ReplayTokenGuard } from './replay.controller.js';
import { isId, MAX_ID_LENGTH } from './replay-request.js';

/** `GET /admin/events/pending` */
@Controller('admin/events/pending')
@UseGuards(ReplayTokenGuard)
export class PendingEventsController {
  private readonly logger = new Logger('Counterfoil');

  constructor(@Inject(PendingEvents) private readonly pending: PendingEvents) {}

  /** Lists what is pending; the answer's form is `PendingPage`. */
  @Get()
  async list(@Query('limit') limit: unknown, @Query('after') after: unknown): Promise<PendingPage> {
    const page = parsePage(limit, after);
    try {
      return await this.pending.list(page);
    } catch (thrown) {
      if (thrown instanceof PendingPageLostError) throw new BadRequestException([thrown.message]);
      this.logger.error({ message: 'Pending events could not be read', error: errorCode(thrown) });
      throw new ServiceUnavailableException('the database did not answer');
    }
  }
}

/** Throws 400 with every problem. Values are never repeated. */
function parsePage(limit: unknown, after: unknown): { limit?: number; after?: string } {
  const problems: string[] = [];
  const count = typeof limit === 'string' && /^\d{1,4}$/.test(limit) ? Number(limit) : undefined;
  if (limit !== undefined && (count === undefined || count < 1 || count > PENDING_PAGE.max)) {
    problems.push(`limit must be an integer from 1 to ${PENDING_PAGE.max}`);
  }
  if (after !== undefined && !isId(after)) {
    problems.push(`after must be an event id of 1 to ${MAX_ID_LENGTH} characters`);
  }
  if (problems.length > 0) throw new BadRequestException(problems);
  return {
    ...(count === undefined ? {} : { limit: count }),
    ...(isId(after) ? { after } : {}),
  };
}
