/** Every job through PgBouncer in transaction mode: no session state, no named statement is relied on. */
import { describe, expect, test } from 'vitest';
import { openSession } from '../builders/session.ts';
import { everyJob } from './every-job.ts';
import { Shop } from './shop.ts';

describe('with PgBouncer in between', () => {
  everyJob({ pooler: true });
});

test('that pooler breaks what relies on a session', async () => {
  const shop = await Shop.open({ pooler: true });
  try {
    const [one, other] = [await openSession(shop.poolerUrl()), await openSession(shop.poolerUrl())];
    await one.query("SET application_name = 'one'");
    const backend = 'SELECT pg_backend_pid() AS pid';
    expect(await other.query(backend)).toEqual(await one.query(backend));
    await one.query('PREPARE mine AS SELECT 1');
    await other.query('BEGIN');
    await other.query('SELECT 1');
    await expect(one.query('EXECUTE mine')).rejects.toThrow('does not exist');
    await one.end();
    await other.end();
  } finally {
    await shop.close();
  }
});
