import { STATUS_CODES } from 'node:http';
import {
  type ArgumentsHost,
  BadRequestException,
  Catch,
  type ExceptionFilter,
  HttpException,
  Inject,
  type PipeTransform,
} from '@nestjs/common';
import { HttpAdapterHost } from '@nestjs/core';
import type { Logger } from 'pino';
import { z } from 'zod';
import { LOG } from './service-log.js';

/** A text as other systems give it: Postgres takes no NUL in one, and no lone surrogate in an event's payload. */
export const storableText = (maxLength: number) =>
  z
    .string()
    .min(1)
    .max(maxLength)
    .refine((text) => text.isWellFormed() && !text.includes('\u0000'), 'a character that cannot be stored');

/** Refuses a body with 400 and one line per problem: the field and what is expected, never the value given. */
export class Validated<Output> implements PipeTransform<unknown, Output> {
  constructor(private readonly schema: z.ZodType<Output>) {}

  transform(value: unknown): Output {
    const parsed = this.schema.safeParse(value);
    if (parsed.success) return parsed.data;
    throw new BadRequestException(
      parsed.error.issues.map((issue) => {
        const field = issue.path.length === 0 ? 'body' : issue.path.join('.');
        // zod's own text repeats the names of unknown fields, and those may be anybody's words.
        return issue.code === 'unrecognized_keys'
          ? `${field}: has an unknown field`
          : `${field}: ${issue.message}`;
      }),
    );
  }
}

/** Answers every error without its inner text: what the service says itself is kept, the rest is a code in the log. */
@Catch()
export class HttpRefusals implements ExceptionFilter {
  constructor(
    @Inject(LOG) private readonly log: Logger,
    @Inject(HttpAdapterHost) private readonly host: HttpAdapterHost,
  ) {}

  catch(error: unknown, host: ArgumentsHost): void {
    const response: unknown = host.switchToHttp().getResponse();
    const { httpAdapter } = this.host;
    const status = statusOf(error);
    if (status >= 500) this.log.error({ err: error, status }, 'Request failed');
    if (httpAdapter.isHeadersSent(response)) return;
    httpAdapter.reply(response, { statusCode: status, message: messageOf(error, status) }, status);
  }
}

/** Express and its body parser name a status in errors of their own kind. */
function statusOf(error: unknown): number {
  if (error instanceof HttpException) return error.getStatus();
  const status = (error as { statusCode?: unknown } | null)?.statusCode;
  return typeof status === 'number' && status >= 400 && status < 500 ? status : 500;
}

function messageOf(error: unknown, status: number): unknown {
  if (!(error instanceof HttpException)) return STATUS_CODES[status];
  const answer = error.getResponse();
  const message = typeof answer === 'object' ? (answer as { message?: unknown }).message : answer;
  // The router's own text quotes method and path.
  if (status === 404 && typeof message === 'string' && message.startsWith('Cannot ')) {
    return 'there is no such endpoint';
  }
  // Our own 400s are lists. A text comes from a parser, which quotes the body or the path that it could not read.
  return status === 400 && !Array.isArray(message)
    ? 'the request could not be read: send valid JSON'
    : message;
}
