import type { PoolClient } from 'pg';
import type { Statement } from './driver.js';

// What pg's own query object and connection offer beyond their types. Looked for before use: see `canPipeline`.

interface Wire {
  stream: { cork(): void; uncork(): void };
  parsedStatements: object;
  submittedNamedStatements: object;
  parse(message: unknown): void;
  bind(message: unknown): void;
  describe(message: unknown): void;
  execute(message: unknown): void;
  close(message: unknown): void;
  sync(): void;
}

/** A statement as pg's client sends it: what `client.query` makes of its arguments. */
interface WireQuery {
  callback?: ((error: unknown, result: WireResult) => void) | undefined;
  submit(connection: Wire): Error | null;
  handleCommandComplete(message: unknown, connection: Wire): void;
}

/** What pg gives back of a statement. */
export interface WireResult {
  command: string;
  rows: Record<string, unknown>[];
}

type WireQueryClass = new (config: object | string, values?: unknown, callback?: unknown) => WireQuery;

type PipelinedQueryClass = new (
  first: readonly Statement[],
  onFirstAnswer: (() => void) | undefined,
  config: object,
  values?: unknown,
) => WireQuery;

interface PipelineClient {
  connection?: Partial<Wire>;
  constructor: { Query?: WireQueryClass };
}

/** Whether statements can be put before another on this client: not on pg-native, which has no messages of its own. */
export function canPipeline(client: PoolClient): boolean {
  const { connection, constructor: clientClass } = client as unknown as PipelineClient;
  return (
    typeof clientClass.Query === 'function' &&
    typeof clientClass.Query.prototype.submit === 'function' &&
    typeof connection?.parse === 'function' &&
    typeof connection.sync === 'function'
  );
}

const classes = new WeakMap<WireQueryClass, PipelinedQueryClass>();

/**
 * The client's class of queries, extended: statements without results go before the query itself, without a Sync
 * between, so that the server runs none after one that failed. That is what makes it safe to send a statement with
 * the BEGIN before it, and a COMMIT with the write before it.
 */
export function pipelinedQueryOf(client: PoolClient): PipelinedQueryClass {
  const base = (client as unknown as PipelineClient).constructor.Query as WireQueryClass;
  const known = classes.get(base);
  if (known !== undefined) return known;
  class Pipelined extends base {
    private answered = 0;

    constructor(
      private readonly first: readonly Statement[],
      private readonly onFirstAnswer: (() => void) | undefined,
      config: object,
      values?: unknown,
    ) {
      super(config, values);
    }

    override submit(connection: Wire): Error | null {
      connection.stream.cork();
      try {
        const quiet = withoutSync(connection);
        for (const { sql, params } of this.first) {
          // Its failure reaches this query: the server answers with one error for all of them.
          new base({ text: sql, queryMode: 'extended' }, params, () => undefined).submit(quiet);
        }
        return super.submit(connection);
      } finally {
        connection.stream.uncork();
      }
    }

    override handleCommandComplete(message: unknown, connection: Wire): void {
      if (this.answered === this.first.length) {
        super.handleCommandComplete(message, connection);
        return;
      }
      this.answered += 1;
      if (this.answered === 1) this.onFirstAnswer?.();
    }
  }
  classes.set(base, Pipelined);
  return Pipelined;
}

/** The connection for a statement that others follow: it neither asks for a description nor ends the batch. */
function withoutSync(connection: Wire): Wire {
  return {
    stream: connection.stream,
    parsedStatements: {},
    submittedNamedStatements: {},
    parse: (message) => connection.parse(message),
    bind: (message) => connection.bind(message),
    execute: (message) => connection.execute(message),
    close: (message) => connection.close(message),
    describe: () => undefined,
    sync: () => undefined,
  };
}
