/**
 * Requests to the API server, with the address, certificates and token that the Kubernetes client finds: those of the
 * pod's service account, or of `KUBECONFIG`. The client's own watch passes over lines that it cannot read and its other
 * calls wait for ever, so what is sent and how long for stands here.
 */
import type { KubeConfig } from '@kubernetes/client-node';
import { type Dispatcher, request } from 'undici';

/** An answer that is no success, or none. The message holds no word of the answer. */
export class ApiFailure extends Error {
  /** The HTTP status; undefined where no answer came. */
  readonly status: number | undefined;

  constructor(status: number | undefined, code: string) {
    super(
      status === undefined
        ? `the API server did not answer as it should (${code})`
        : `the API server answered ${code}`,
    );
    this.name = 'ApiFailure';
    this.status = status;
  }
}

export type Query = Readonly<Record<string, string>>;

/** A connection, and the head of an answer, take milliseconds; a busy API server gets some patience. */
const ANSWER_LIMIT_MS = 10_000;
/** No object is larger than etcd takes (1.5 MB); what goes on without an end of line is no watch. */
const LONGEST_LINE = 4_000_000;

type Client = typeof import('@kubernetes/client-node');

export class ApiServer {
  readonly #client: Client;
  readonly #config: KubeConfig;
  readonly #server: string;
  /** One for all requests: the client would make a new one, with its own connections, for each. */
  #dispatcher: Dispatcher | undefined;

  private constructor(client: Client, config: KubeConfig, server: string) {
    this.#client = client;
    this.#config = config;
    this.#server = server;
  }

  /**
   * Loads the Kubernetes client, which costs memory that an exporter without a rollout need not pay.
   * @throws Error where neither a service account nor a kubeconfig can be read
   */
  static async load(): Promise<ApiServer> {
    const client = await import('@kubernetes/client-node');
    const config = new client.KubeConfig();
    config.loadFromDefault();
    const server = config.getCurrentCluster()?.server;
    if (server === undefined) throw new Error('the kubeconfig names no cluster');
    return new ApiServer(client, config, server.replace(/\/+$/, ''));
  }

  /** The namespace of the pod, or of the kubeconfig. */
  get namespace(): string | undefined {
    return this.#config.getContextObject(this.#config.getCurrentContext())?.namespace;
  }

  /** @throws ApiFailure */
  async get(path: string, query: Query, signal: AbortSignal): Promise<unknown> {
    const response = await this.#send('GET', path, { query, signal, silenceMs: ANSWER_LIMIT_MS });
    const text = await reading(async () => await response.body.text());
    return parseJson(text);
  }

  /**
   * Gives the status of the answer, 409 (it is there) included.
   * @throws ApiFailure
   */
  async post(path: string, body: unknown, signal: AbortSignal): Promise<number> {
    const response = await this.#send('POST', path, {
      query: {},
      signal,
      silenceMs: ANSWER_LIMIT_MS,
      body: JSON.stringify(body),
      accepts: [409],
    });
    await reading(async () => await response.body.dump());
    return response.statusCode;
  }

  /**
   * The lines of an answer that goes on; ends when the server ends it.
   * @param options.silenceMs after so long without a byte the connection is taken for half open
   * @throws ApiFailure
   */
  async *lines(
    path: string,
    query: Query,
    options: { readonly signal: AbortSignal; readonly silenceMs: number; readonly opened: () => void },
  ): AsyncGenerator<string> {
    const response = await this.#send('GET', path, { query, ...options });
    options.opened();
    const decoder = new TextDecoder();
    let rest = '';
    try {
      for await (const chunk of response.body) {
        rest += decoder.decode(chunk as Uint8Array, { stream: true });
        let end = rest.indexOf('\n');
        while (end >= 0) {
          yield rest.slice(0, end);
          rest = rest.slice(end + 1);
          end = rest.indexOf('\n');
        }
        if (rest.length > LONGEST_LINE) throw new ApiFailure(undefined, 'a line without an end');
      }
      // What is left was cut off in the middle of a line: it comes again.
    } catch (error) {
      throw failureOf(error);
    } finally {
      response.body.destroy();
    }
  }

  /** Ends the idle connections. */
  async close(): Promise<void> {
    await this.#dispatcher?.destroy();
    this.#dispatcher = undefined;
  }

  async #send(
    method: 'GET' | 'POST',
    path: string,
    options: {
      readonly query: Query;
      readonly signal: AbortSignal;
      readonly silenceMs: number;
      readonly body?: string;
      readonly accepts?: readonly number[];
    },
  ): Promise<Dispatcher.ResponseData> {
    const url = new URL(this.#server + path);
    for (const [name, value] of Object.entries(options.query)) url.searchParams.set(name, value);
    try {
      // Reads the token anew: it is replaced while we run.
      const context = new this.#client.RequestContext(url.href, this.#client.HttpMethod[method]);
      await this.#config.applySecurityAuthentication(context);
      this.#dispatcher ??= context.getDispatcher() as Dispatcher | undefined;
      const response = await request(url, {
        method,
        headers: {
          ...context.getHeaders(),
          accept: 'application/json',
          ...(options.body === undefined ? {} : { 'content-type': 'application/json' }),
        },
        signal: options.signal,
        headersTimeout: ANSWER_LIMIT_MS,
        bodyTimeout: options.silenceMs,
        ...(options.body === undefined ? {} : { body: options.body }),
        ...(this.#dispatcher === undefined ? {} : { dispatcher: this.#dispatcher }),
      });
      const { statusCode } = response;
      if ((statusCode >= 200 && statusCode < 300) || options.accepts?.includes(statusCode) === true)
        return response;
      await response.body.dump().catch(() => undefined);
      throw new ApiFailure(statusCode, String(statusCode));
    } catch (error) {
      const failure = failureOf(error);
      // The certificates may have been replaced: the next request reads them anew.
      if (failure.status === undefined) this.#dispatcher = undefined;
      throw failure;
    }
  }
}

/**
 * The parser's own error quotes what it could not read.
 * @throws ApiFailure
 */
export function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw new ApiFailure(undefined, 'no JSON');
  }
}

async function reading<Result>(read: () => Promise<Result>): Promise<Result> {
  try {
    return await read();
  } catch (error) {
    throw failureOf(error);
  }
}

function failureOf(error: unknown): ApiFailure {
  if (error instanceof ApiFailure) return error;
  const { code, name } = error as { code?: unknown; name?: unknown };
  return new ApiFailure(undefined, typeof code === 'string' ? code : String(name));
}
