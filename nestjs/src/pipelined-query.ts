import type { PoolClient } from 'pg';
import type { Statement } from './driver.js';

// What pg's own query object and connection offer beyond their types. Looked for before use: see `canPipeline`.

interface Wire {
  parse(message: unknown): void;
  bind(message: unknown): void;
  describe(message: unknown): void;
  execute(message: unknown): void;
  close(message: unknown): void;
  sync(): void;
  _send(message: Uint8Array): boolean;
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
    typeof connection?.describe === 'function' &&
    typeof connection.sync === 'function' &&
    typeof connection._send === 'function'
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
      const messages: Uint8Array[] = [];
      for (const statement of this.first) messages.push(...bytesOf(statement, base, connection));
      const refusal = super.submit(new Recorder(connection, messages, true));
      // All at once: one write to the socket costs as much as a dozen small ones in it.
      if (refusal === null) connection._send(Buffer.concat(messages));
      return refusal;
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

/** The messages of statements without parameters: BEGIN is the same every time. */
const constant = new WeakMap<Statement, readonly Uint8Array[]>();

/** The messages of a statement that others follow: it asks for no description and does not end the batch. */
function bytesOf(statement: Statement, base: WireQueryClass, connection: Wire): readonly Uint8Array[] {
  const known = constant.get(statement);
  if (known !== undefined) return known;
  const messages: Uint8Array[] = [];
  const { sql, params } = statement;
  // Its failure reaches the query behind it: the server answers with one error for all of them.
  new base({ text: sql, queryMode: 'extended' }, params, nothing).submit(
    new Recorder(connection, messages, false),
  );
  if (params.length === 0) constant.set(statement, messages);
  return messages;
}

/**
 * As much of a connection as a query needs to write its messages, which are kept instead of sent: pg's own methods, on
 * an object of its own. (One that inherits from the connection would make every access to the connection slow.)
 */
class Recorder implements Wire {
  /** The query corks the stream around its messages: there is nothing to cork. */
  readonly stream = {};
  readonly parsedStatements = {};
  readonly submittedNamedStatements = {};
  readonly parse: Wire['parse'];
  readonly bind: Wire['bind'];
  readonly describe: Wire['describe'];
  readonly execute: Wire['execute'];
  readonly close: Wire['close'];
  readonly sync: Wire['sync'];

  /** @param last whether the query describes its result and ends the batch */
  constructor(
    connection: Wire,
    private readonly messages: Uint8Array[],
    last: boolean,
  ) {
    this.parse = connection.parse;
    this.bind = connection.bind;
    this.describe = last ? connection.describe : nothing;
    this.execute = connection.execute;
    this.close = connection.close;
    this.sync = last ? connection.sync : nothing;
  }

  _send(message: Uint8Array): boolean {
    this.messages.push(message);
    return true;
  }
}

const nothing = (): void => undefined;
