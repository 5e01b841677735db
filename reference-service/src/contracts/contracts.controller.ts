import { Body, Controller, HttpCode, Inject, Param, Post } from '@nestjs/common';
import { ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { storableText, Validated } from '../http-refusals.js';
import { schemaOf } from '../schema-of.js';
import type { Contract, ServiceConsumption } from '../tables.js';
import { ContractService } from './contract-service.js';

const MOST_UNITS = 1_000_000_000;

const newContract = z.strictObject({
  id: z.guid().optional().describe('a new one by default'),
  mentorId: storableText(200),
  currency: z.string().regex(/^[A-Z]{3}$/, 'three capital letters, such as EUR'),
  unitPriceMinor: z.int().min(0).describe('in minor units of the currency'),
  totalUnits: z.int().min(1).max(MOST_UNITS),
});

const newConsumption = z.strictObject({
  id: z.guid().optional().describe('given, a repeat is recognised by it'),
  units: z.int().min(1).max(MOST_UNITS),
});

const contractId = z.guid('a UUID is expected');

const CONTRACT = schemaOf(
  newContract.required().extend({
    consumedUnits: z.int(),
    status: z.enum(['signed', 'active']),
    signedAt: z.iso.datetime(),
    activatedAt: z.iso.datetime().nullable(),
  }),
);
const CONSUMPTION = schemaOf(
  newConsumption.required().extend({ contractId: z.guid(), consumedAt: z.iso.datetime() }),
);

/** `POST /contracts`, `POST /contracts/:id/activate` and `POST /contracts/:id/consumptions` */
@ApiTags('contracts')
@Controller('contracts')
export class ContractsController {
  constructor(@Inject(ContractService) private readonly contracts: ContractService) {}

  @Post()
  @ApiOperation({ summary: 'Creates a signed contract and publishes contract.signed.v1.' })
  @ApiBody({ schema: schemaOf(newContract) })
  @ApiResponse({ status: 201, description: 'The contract.', schema: CONTRACT })
  @ApiResponse({ status: 400, description: 'A field is missing or wrong; the message names it.' })
  @ApiResponse({ status: 409, description: 'The id is taken.' })
  async createContract(
    @Body(new Validated(newContract)) body: z.infer<typeof newContract>,
  ): Promise<Contract> {
    return await this.contracts.createContract(body);
  }

  @Post(':id/activate')
  @HttpCode(200)
  @ApiOperation({ summary: 'Activates a contract and publishes contract.activated.v1.' })
  @ApiResponse({ status: 200, description: 'The contract, active now or before.', schema: CONTRACT })
  @ApiResponse({ status: 400, description: 'The id is no UUID.' })
  @ApiResponse({ status: 404, description: 'There is no such contract.' })
  async activateContract(@Param('id', new Validated(contractId)) id: string): Promise<Contract> {
    return await this.contracts.activateContract(id);
  }

  @Post(':id/consumptions')
  @HttpCode(200)
  @ApiOperation({
    summary: 'Consumes units of an active contract and publishes contract.service_consumed.v1.',
  })
  @ApiBody({ schema: schemaOf(newConsumption) })
  @ApiResponse({ status: 200, description: 'The consumption, made now or before.', schema: CONSUMPTION })
  @ApiResponse({ status: 400, description: 'A field is missing or wrong; the message names it.' })
  @ApiResponse({ status: 404, description: 'There is no such contract.' })
  @ApiResponse({
    status: 409,
    description: 'It is not active, has not so many units left, or the id is taken.',
  })
  async consumeService(
    @Param('id', new Validated(contractId)) id: string,
    @Body(new Validated(newConsumption)) body: z.infer<typeof newConsumption>,
  ): Promise<ServiceConsumption> {
    return await this.contracts.consumeService(id, body);
  }
}
