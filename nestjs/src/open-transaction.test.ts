import { expect, test } from 'vitest';
import { type NativeClient, watchCommit } from './open-transaction.js';

/** A client whose server answers every statement with this command, to a promise and to a callback alike. */
const answering = (command: string): NativeClient => ({
  query(...args: unknown[]) {
    const done = args.at(-1);
    if (typeof done !== 'function') return Promise.resolve({ command });
    done(null, { command });
    return undefined;
  },
});

const byCallback = (client: NativeClient, statement: unknown): Promise<unknown> =>
  new Promise((resolve, reject) => {
    client.query(statement, (error: unknown, result: unknown) => (error ? reject(error) : resolve(result)));
  });

test('a COMMIT answered with ROLLBACK fails, however it was sent', async () => {
  const client = answering('ROLLBACK');
  const watch = watchCommit(client);
  await expect(client.query('COMMIT')).rejects.toMatchObject({ name: 'CommitRefusedError' });
  await expect(byCallback(client, { text: 'COMMIT;' })).rejects.toMatchObject({ name: 'CommitRefusedError' });
  expect(watch.committed).toBe(false);
});

test('a COMMIT that is one passes, however it was sent', async () => {
  for (const send of [
    (client: NativeClient) => client.query('COMMIT'),
    (client: NativeClient) => byCallback(client, { text: 'COMMIT;' }),
  ]) {
    const client = answering('COMMIT');
    const watch = watchCommit(client);
    expect(await send(client)).toEqual({ command: 'COMMIT' });
    expect(watch.committed).toBe(true);
  }
});

test('other statements are not judged, and none is after the watch has stopped', async () => {
  const client = answering('ROLLBACK');
  const { query } = client;
  const watch = watchCommit(client);
  expect(await client.query('rollback')).toEqual({ command: 'ROLLBACK' });
  expect(await byCallback(client, { text: 'select 1 -- commit' })).toEqual({ command: 'ROLLBACK' });
  expect(await client.query({ submit: () => undefined })).toEqual({ command: 'ROLLBACK' });
  watch.stop();
  expect(client.query).toBe(query);
  expect(await client.query('COMMIT')).toEqual({ command: 'ROLLBACK' });
});

test('a client whose query is that of its class has none of its own afterwards', () => {
  const client = Object.create(answering('COMMIT')) as NativeClient;
  watchCommit(client).stop();
  expect(Object.keys(client)).toEqual([]);
});
