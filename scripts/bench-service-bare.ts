/**
 * A contender of bench:service: a bare loop on node-postgres without any framework. BENCH_COMMITS=1 makes all writes
 * of a completion under one commit; 3 makes them as a service must that bills after the commit: publish, bill, mark.
 */
import { Pool, type PoolClient } from 'pg';
import { serveOrders } from './bench-service-load.ts';
import { newWritten, writesOf } from './bench-service-statements.ts';

const pool = new Pool({
  connectionString: process.env.DATABASE_URL,
  max: Number(process.env.POOL_SIZE),
  application_name: 'bench bare',
});

type Statements = ReturnType<typeof writesOf>['publish'];

async function commit(client: PoolClient, statements: Statements): Promise<void> {
  await client.query('begin');
  for (const [text, params] of statements) await client.query(text, [...params]);
  await client.query('commit');
}

async function inTransaction(statements: Statements): Promise<void> {
  const client = await pool.connect();
  try {
    await commit(client, statements);
  } finally {
    client.release();
  }
}

await serveOrders(
  (sessionId) => {
    const { publish, bill, mark } = writesOf(newWritten(sessionId));
    if (process.env.BENCH_COMMITS === '1') {
      const all = inTransaction([...publish, ...bill, ...mark]);
      return { published: all, processed: all };
    }
    const published = inTransaction(publish);
    const processed = published.then(() => inTransaction(bill)).then(() => inTransaction(mark));
    return { published, processed };
  },
  () => pool.end(),
);
