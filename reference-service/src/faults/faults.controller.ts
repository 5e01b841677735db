import { bearerMatches } from '@counterfoil/nestjs';
import {
  Body,
  type CanActivate,
  Controller,
  Delete,
  type ExecutionContext,
  HttpCode,
  Inject,
  Injectable,
  Post,
  UnauthorizedException,
  UseGuards,
} from '@nestjs/common';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { Validated } from '../http-refusals.js';
import { SETTINGS, type Settings } from '../settings.js';
import { FAULTS, type Fault, FaultInjector } from './fault-injector.js';

const armedFault = z.strictObject({
  fault: z.enum(Object.keys(FAULTS) as [Fault, ...Fault[]]),
  rate: z.number().min(0).max(1),
  forSeconds: z.number().min(0).max(86_400),
  ms: z.int().min(0).max(3_600_000).default(1_000),
});

/** Lets only the token of the replay endpoint through. */
@Injectable()
export class FaultTokenGuard implements CanActivate {
  constructor(@Inject(SETTINGS) private readonly settings: Settings) {}

  canActivate(context: ExecutionContext): boolean {
    const { headers } = context.switchToHttp().getRequest<{ headers: Record<string, string | undefined> }>();
    const { replayToken } = this.settings;
    if (replayToken !== undefined && bearerMatches(headers.authorization, replayToken)) return true;
    throw new UnauthorizedException('faults need the bearer token of this service');
  }
}

/** `POST /admin/faults` and `DELETE /admin/faults`; registered only where FAULTS is true. */
@ApiTags('admin')
@ApiBearerAuth()
@Controller('admin/faults')
@UseGuards(FaultTokenGuard)
export class FaultsController {
  constructor(@Inject(FaultInjector) private readonly faults: FaultInjector) {}

  @Post()
  @HttpCode(204)
  @ApiOperation({
    summary: 'Arms a fault on this pod.',
    description: Object.entries(FAULTS)
      .map(([fault, effect]) => `- \`${fault}\`: ${effect}`)
      .join('\n'),
  })
  @ApiBody({
    schema: {
      type: 'object',
      required: ['fault', 'rate', 'forSeconds'],
      properties: {
        fault: { type: 'string', enum: Object.keys(FAULTS) },
        rate: { type: 'number', minimum: 0, maximum: 1, description: 'share of events it strikes' },
        forSeconds: { type: 'number', minimum: 0, maximum: 86_400 },
        ms: { type: 'integer', minimum: 0, default: 1_000, description: 'for slow' },
      },
    },
  })
  @ApiResponse({ status: 204, description: 'Armed.' })
  @ApiResponse({ status: 400, description: 'A field is missing or wrong; the message names it.' })
  @ApiResponse({ status: 401, description: 'The token is missing or wrong.' })
  armFault(
    @Body(new Validated(armedFault)) { fault, rate, forSeconds, ms }: z.infer<typeof armedFault>,
  ): void {
    this.faults.arm(fault, rate, forSeconds * 1_000, ms);
  }

  @Delete()
  @HttpCode(204)
  @ApiOperation({ summary: 'Disarms every fault on this pod.' })
  @ApiResponse({ status: 204, description: 'Disarmed.' })
  @ApiResponse({ status: 401, description: 'The token is missing or wrong.' })
  clearFaults(): void {
    this.faults.clear();
  }
}
