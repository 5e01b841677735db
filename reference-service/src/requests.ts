import type { IncomingMessage, ServerResponse } from 'node:http';
import { Inject, Injectable } from '@nestjs/common';
import type { Logger } from 'pino';
import { HttpMetrics } from './metrics/http-metrics.js';
import { requestIdOf, within } from './request-context.js';
import { LOG } from './service-log.js';

/** A request as express leaves it: with the route it matched. */
interface RoutedRequest extends IncomingMessage {
  route?: { path?: string };
}

/**
 * Around every request: its id into log and answer, its time into the metrics, and at shutdown the end of its
 * connection. A kept-alive connection would else bring requests until its client is tired of it, and the server never
 * close.
 */
@Injectable()
export class Requests {
  private readonly open = new Set<ServerResponse>();
  private closing = false;

  constructor(
    @Inject(HttpMetrics) private readonly metrics: HttpMetrics,
    @Inject(LOG) private readonly log: Logger,
  ) {}

  /** The middleware, to be the first of all. */
  readonly attend = (request: RoutedRequest, response: ServerResponse, next: () => void): void => {
    const startedAt = performance.now();
    const requestId = requestIdOf(request.headers['x-request-id']);
    response.setHeader('x-request-id', requestId);
    if (this.closing) response.setHeader('connection', 'close');
    this.open.add(response);
    within({ requestId }, () => {
      response.once('close', () => {
        this.open.delete(response);
        const seconds = (performance.now() - startedAt) / 1_000;
        const { method = 'none', route: { path: route } = {} } = request;
        this.metrics.observe(method, route, response.statusCode, seconds);
        this.log.debug({ method, route, status: response.statusCode }, 'Request answered');
      });
      next();
    });
  };

  /** From now on each answer ends its connection, those still to be given among them. */
  endConnections(): void {
    this.closing = true;
    for (const response of this.open) {
      if (!response.headersSent) response.setHeader('connection', 'close');
    }
  }
}
