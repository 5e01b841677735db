import { Body, Controller, Delete, HttpCode, Inject, Post, UseGuards } from '@nestjs/common';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { AdminTokenGuard } from '../admin-token.guard.js';
import { Validated } from '../http-refusals.js';
import { schemaOf } from '../schema-of.js';
import { FaultInjector } from './fault-injector.js';
import { DEFAULT_WAIT_MS, FAULTS, type Fault } from './faults.js';

const armedFault = z.strictObject({
  fault: z.enum(Object.keys(FAULTS) as [Fault, ...Fault[]]),
  rate: z.number().min(0).max(1).describe('share of events it strikes'),
  forSeconds: z.number().min(0).max(86_400),
  ms: z.int().min(0).max(3_600_000).default(DEFAULT_WAIT_MS).describe('for slow'),
});

/** `POST /admin/faults` and `DELETE /admin/faults`; registered only where FAULTS is true. */
@ApiTags('admin')
@ApiBearerAuth()
@Controller('admin/faults')
@UseGuards(AdminTokenGuard)
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
  @ApiBody({ schema: schemaOf(armedFault) })
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
