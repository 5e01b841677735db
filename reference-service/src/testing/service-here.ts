import 'reflect-metadata';
import type { AddressInfo } from 'node:net';
import type { NestExpressApplication } from '@nestjs/platform-express';
import { createApplication } from '../application.js';
import { makeLog } from '../service-log.js';
import { readSettings } from '../settings.js';
import { clientOf, type ServiceClient, TRIAL_SETTINGS } from './service-client.js';

/** The service within the process of the test: what is asked of it is seen by the coverage. */
export interface ServiceHere extends ServiceClient {
  app: NestExpressApplication;
  /** Everything the services of this test file have written to their log: Nest has one logger per process. */
  output(): string;
  /** The lines among it that hold all these words, read. */
  // biome-ignore lint/suspicious/noExplicitAny: a test says itself what it expects of a line.
  lines(...words: string[]): any[];
  /** Ends it as SIGTERM would. */
  stop(): Promise<void>;
}

let output = '';
const log = makeLog('debug', {
  write(line) {
    output += line;
  },
});

/** Starts the service on a free port of this process. */
export async function startServiceHere(
  databaseUrl: string,
  env: Readonly<Record<string, string>> = {},
): Promise<ServiceHere> {
  const app = await createApplication(
    readSettings({ ...TRIAL_SETTINGS, DATABASE_URL: databaseUrl, ...env }),
    log,
  );
  await app.listen(0, '127.0.0.1');
  const { port } = app.getHttpServer().address() as AddressInfo;
  return {
    ...clientOf(`http://127.0.0.1:${port}`),
    app,
    output: () => output,
    lines: (...words) =>
      output
        .split('\n')
        .filter((line) => line !== '' && words.every((word) => line.includes(word)))
        .map((line) => JSON.parse(line)),
    stop: () => app.close(),
  };
}
