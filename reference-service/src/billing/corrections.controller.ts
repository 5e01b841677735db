import {
  Body,
  Controller,
  ForbiddenException,
  HttpCode,
  Inject,
  PayloadTooLargeException,
  Post,
  UseGuards,
} from '@nestjs/common';
import { ApiBearerAuth, ApiBody, ApiOperation, ApiResponse, ApiTags } from '@nestjs/swagger';
import { z } from 'zod';
import { AdminTokenGuard } from '../admin-token.guard.js';
import { storableText, Validated } from '../http-refusals.js';
import { schemaOf } from '../schema-of.js';
import { SETTINGS, type Settings } from '../settings.js';
import { CORRECTION_OUTCOMES, type CorrectionResult, Corrections } from './corrections.js';

/** More would keep one request, and what it locks, open for too long. */
export const MAX_CORRECTIONS = 100;

/** Minor units as a text, since JSON's numbers end at 2^53. */
const minorUnits = z.string().regex(/^-?\d{1,30}(\.\d{1,30})?$/, 'minor units as a text of digits');

const correction = z.strictObject({
  key: z.tuple([z.string().min(1).max(200)]),
  kind: z.enum(['duplicate', 'amount']),
  expectedMinor: minorUnits.nullable(),
  actualMinor: minorUnits.nullable(),
  currency: z.string().min(1).max(10).nullable(),
  ledgerRows: z.int().min(0).max(1_000_000),
});

const person = storableText(200).trim().min(1);

const correctionRequest = z.strictObject({
  requestId: person,
  requestedBy: person,
  approvedBy: person,
  reason: storableText(2_000).trim().min(1),
  dryRun: z.boolean().default(false),
  corrections: z
    .array(correction)
    .min(1)
    .max(10_000)
    .refine((all) => new Set(all.map(({ key }) => key[0])).size === all.length, 'a session is named twice'),
});

const answer = z.object({
  serviceVersion: z.string(),
  results: z.array(
    z.object({
      key: z.array(z.string()),
      outcome: z.enum(Object.keys(CORRECTION_OUTCOMES) as [string]),
      reversedIds: z.array(z.string()),
      billedId: z.string().nullable(),
      retryable: z.boolean().optional(),
      error: z.string().optional(),
    }),
  ),
});

/** `POST /admin/billing/corrections`; registered only where there is a token. */
@ApiTags('admin')
@ApiBearerAuth()
@Controller('admin/billing/corrections')
@UseGuards(AdminTokenGuard)
export class CorrectionsController {
  constructor(
    @Inject(Corrections) private readonly corrections: Corrections,
    @Inject(SETTINGS) private readonly settings: Settings,
  ) {}

  @Post()
  @HttpCode(200)
  @ApiOperation({
    summary:
      'Corrects bills as one person has asked for and another has approved; original rows stay as they are.',
    description: Object.entries(CORRECTION_OUTCOMES)
      .map(([outcome, meaning]) => `- \`${outcome}\`: ${meaning}`)
      .join('\n'),
  })
  @ApiBody({ schema: schemaOf(correctionRequest) })
  @ApiResponse({
    status: 200,
    description: 'One result for each correction, in their order.',
    schema: schemaOf(answer),
  })
  @ApiResponse({ status: 400, description: 'A field is missing or wrong; the message names it.' })
  @ApiResponse({ status: 401, description: 'The token is missing or wrong.' })
  @ApiResponse({ status: 403, description: 'Requester and approver are the same person.' })
  @ApiResponse({ status: 413, description: `More than ${MAX_CORRECTIONS} corrections.` })
  async correct(
    @Body(new Validated(correctionRequest)) request: z.infer<typeof correctionRequest>,
  ): Promise<{ serviceVersion: string; results: CorrectionResult[] }> {
    if (request.corrections.length > MAX_CORRECTIONS)
      throw new PayloadTooLargeException(`at most ${MAX_CORRECTIONS} corrections`);
    if (samePerson(request.requestedBy, request.approvedBy))
      throw new ForbiddenException('requester and approver are the same person');
    const results = await this.corrections.correct(request);
    return { serviceVersion: this.settings.serviceVersion, results };
  }
}

/** However the two names are written. */
const samePerson = (one: string, other: string): boolean => folded(one) === folded(other);
// Upper case first: it is what makes two letters of an ß.
const folded = (name: string): string => name.normalize('NFKC').trim().toUpperCase().toLowerCase();
