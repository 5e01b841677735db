import { NestFactory } from '@nestjs/core';
import type { NestExpressApplication } from '@nestjs/platform-express';
import type { Logger } from 'pino';
import { AppModule } from './app.module.js';
import { serveOpenApi } from './openapi.js';
import { Requests } from './requests.js';
import { NestLog } from './service-log.js';
import type { Settings } from './settings.js';

/** Longer than balancers keep an idle connection (60 s): else one sends a request into a connection just closed. */
const KEEP_ALIVE_MS = 65_000;

/** The whole service over HTTP, ready to listen. Shutdown hooks are the caller's: they belong to a process. */
export async function createApplication(settings: Settings, log: Logger): Promise<NestExpressApplication> {
  const app = await NestFactory.create<NestExpressApplication>(AppModule.of(settings, log), {
    logger: new NestLog(log),
    abortOnError: false,
  });
  app.getHttpServer().keepAliveTimeout = KEEP_ALIVE_MS;
  app.disable('x-powered-by');
  app.use(app.get(Requests).attend);
  serveOpenApi(app, settings);
  return app;
}
