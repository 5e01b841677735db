import type { ApiBodyOptions } from '@nestjs/swagger';
import { z } from 'zod';

type SchemaObject = Exclude<Extract<ApiBodyOptions, { schema: unknown }>['schema'], { $ref: string }>;

/** A body's or an answer's form for OpenAPI, from the very schema that judges it. */
export function schemaOf(form: z.ZodType): SchemaObject {
  const { $schema: _dialect, ...schema } = z.toJSONSchema(form, { target: 'openapi-3.0', io: 'input' });
  return schema as SchemaObject;
}
