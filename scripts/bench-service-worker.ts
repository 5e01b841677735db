/**
 * A contender of bench:service: the built reference service in this process, without HTTP. `completeSession` is
 * called as a controller would call it, and the module's own line `Event processed` says when an event is done.
 */
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';
import { serveOrders } from './bench-service-load.ts';

interface BackedEvent {
  readonly payload: { readonly sessionId: string };
}
/** Of the built service, what is used here; it is compiled apart and has types of its own. */
interface BuiltService {
  readonly AppModule: { of(settings: unknown, log: unknown): unknown };
  readonly SessionService: new (...parts: never[]) => { completeSession(id: string): Promise<unknown> };
  readonly EventPublisher: new (
    ...parts: never[]
  ) => { publish(tx: unknown, event: BackedEvent): Promise<string> };
  readonly readSettings: (environment: NodeJS.ProcessEnv) => { readonly logLevel: string };
  readonly makeLog: (level: string) => unknown;
  readonly NestLog: new (log: unknown) => { log(message: unknown, ...rest: unknown[]): void };
}
interface NestContext {
  get<Provider>(token: new (...parts: never[]) => Provider): Provider;
  close(): Promise<void>;
}

const dist = new URL('../reference-service/dist/', import.meta.url);
const fromService = createRequire(new URL('main.js', dist));
const load = async (name: string) => (await import(name)) as Record<string, unknown>;
const ofPackage = (name: string) => load(pathToFileURL(fromService.resolve(name)).href);
const ofService = (path: string) => load(new URL(path, dist).href);

await ofPackage('reflect-metadata');
const built = {
  ...(await ofService('app.module.js')),
  ...(await ofService('settings.js')),
  ...(await ofService('service-log.js')),
  ...(await ofService('sessions/session-service.js')),
  ...(await ofPackage('@counterfoil/nestjs')),
} as unknown as BuiltService;
const { NestFactory } = (await ofPackage('@nestjs/core')) as unknown as {
  NestFactory: { createApplicationContext(module: unknown, options: unknown): Promise<NestContext> };
};

/** By event id: who waits for its line. */
const waiting = new Map<string, () => void>();
/** By session: who waits for the id of its event. */
const publishing = new Map<string, () => void>();

/** The service's own log, which goes to standard output as always; a line that is waited for is noticed on its way. */
class WatchedLog extends built.NestLog {
  override log(message: unknown, ...rest: unknown[]): void {
    super.log(message, ...rest);
    const line = message as { readonly message?: unknown; readonly eventId?: string };
    if (line.message !== 'Event processed' || line.eventId === undefined) return;
    waiting.get(line.eventId)?.();
    waiting.delete(line.eventId);
  }
}

const settings = built.readSettings(process.env);
const log = built.makeLog(settings.logLevel);
const app = await NestFactory.createApplicationContext(built.AppModule.of(settings, log), {
  logger: new WatchedLog(log),
  abortOnError: false,
});
const service = app.get(built.SessionService);
const publisher = app.get(built.EventPublisher);
const publish = publisher.publish.bind(publisher);
publisher.publish = async (tx, event) => {
  const eventId = await publish(tx, event);
  const done = publishing.get(event.payload.sessionId);
  if (done !== undefined) waiting.set(eventId, done);
  return eventId;
};

await serveOrders(
  (sessionId) => {
    const { promise: processed, resolve } = Promise.withResolvers<void>();
    publishing.set(sessionId, resolve);
    const published = service.completeSession(sessionId).finally(() => publishing.delete(sessionId));
    return { published, processed };
  },
  () => app.close(),
);
