import { setTimeout as delay } from 'node:timers/promises';
import {
  type BeforeApplicationShutdown,
  Controller,
  Get,
  Inject,
  Injectable,
  type OnModuleDestroy,
  ServiceUnavailableException,
} from '@nestjs/common';
import { ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { DATABASE, type Database } from '../database.module.js';
import { Requests } from '../requests.js';
import { SETTINGS, type Settings } from '../settings.js';

/**
 * Whether shutdown has begun. Nest's order is: onModuleDestroy, beforeApplicationShutdown, the server closes, then
 * onApplicationShutdown, where the module drains. During the pause the service answers everything, is not ready, and
 * ends each connection with its next answer.
 */
@Injectable()
export class Readiness implements OnModuleDestroy, BeforeApplicationShutdown {
  stopping = false;

  constructor(
    @Inject(SETTINGS) private readonly settings: Settings,
    @Inject(Requests) private readonly requests: Requests,
  ) {}

  onModuleDestroy(): void {
    this.stopping = true;
    this.requests.endConnections();
  }

  async beforeApplicationShutdown(): Promise<void> {
    const { shutdownPauseMs } = this.settings;
    if (shutdownPauseMs > 0) await delay(shutdownPauseMs);
  }
}

/** A probe asks every few seconds and waits about one. */
const READY_TIMEOUT_MS = 1_000;

/** `GET /health/live` and `GET /health/ready` */
@ApiTags('health')
@Controller('health')
export class HealthController {
  constructor(
    @Inject(Readiness) private readonly readiness: Readiness,
    @Inject(DATABASE) private readonly database: Database,
  ) {}

  /** Says nothing about the database: a restart does not mend that. */
  @Get('live')
  @ApiOperation({ summary: 'Whether the process answers.' })
  @ApiResponse({ status: 200, description: 'It does.' })
  live(): { status: 'ok' } {
    return { status: 'ok' };
  }

  @Get('ready')
  @ApiOperation({
    summary: 'Whether the service can take requests: its database answers and it is not stopping.',
  })
  @ApiResponse({ status: 200, description: 'It can.' })
  @ApiResponse({ status: 503, description: 'It cannot; the message says why.' })
  async ready(): Promise<{ status: 'ok' }> {
    if (this.readiness.stopping) throw new ServiceUnavailableException('stopping');
    const late = Promise.withResolvers<false>();
    const timer = setTimeout(() => late.resolve(false), READY_TIMEOUT_MS);
    const answer = this.database.$client.query('select 1').then(
      () => true,
      () => false,
    );
    const reached = await Promise.race([answer, late.promise]);
    clearTimeout(timer);
    if (!reached) throw new ServiceUnavailableException('the database does not answer');
    return { status: 'ok' };
  }
}
