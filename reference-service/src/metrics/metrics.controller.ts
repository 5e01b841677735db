import { Controller, Get, Header, Inject } from '@nestjs/common';
import { ApiOperation, ApiProduces, ApiResponse, ApiTags } from '@nestjs/swagger';
import { Registry } from 'prom-client';
import { METRICS_REGISTRY } from './http-metrics.js';

/** `GET /metrics` */
@ApiTags('metrics')
@Controller('metrics')
export class MetricsController {
  constructor(@Inject(METRICS_REGISTRY) private readonly registry: Registry) {}

  @Get()
  @Header('content-type', Registry.PROMETHEUS_CONTENT_TYPE)
  @Header('cache-control', 'no-store')
  @ApiOperation({ summary: 'What the process, its requests and its events have come to, for Prometheus.' })
  @ApiProduces('text/plain')
  @ApiResponse({ status: 200, description: 'Text in the exposition format.' })
  async metrics(): Promise<string> {
    return await this.registry.metrics();
  }
}
