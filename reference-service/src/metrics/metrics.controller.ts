import { Controller, Get, Header, Inject, NotFoundException } from '@nestjs/common';
import { ApiOperation, ApiProduces, ApiResponse, ApiTags } from '@nestjs/swagger';
import { Registry } from 'prom-client';
import { FaultInjector } from '../faults/fault-injector.js';
import { METRICS_REGISTRY } from './http-metrics.js';

/** `GET /metrics` */
@ApiTags('metrics')
@Controller('metrics')
export class MetricsController {
  constructor(
    @Inject(METRICS_REGISTRY) private readonly registry: Registry,
    @Inject(FaultInjector) private readonly faults: FaultInjector,
  ) {}

  @Get()
  @Header('content-type', Registry.PROMETHEUS_CONTENT_TYPE)
  @Header('cache-control', 'no-store')
  @ApiOperation({ summary: 'What the process, its requests and its events have come to, for Prometheus.' })
  @ApiProduces('text/plain')
  @ApiResponse({ status: 200, description: 'Text in the exposition format.' })
  async metrics(): Promise<string> {
    if (this.faults.hideMetrics()) throw new NotFoundException('there are no metrics');
    return await this.registry.metrics();
  }
}
