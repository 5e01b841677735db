/** The watch protocol under the faults that a real API server shows only at bad times. */
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { type CollectedLog, collectLog } from '../../test/builders/open-database.ts';
import { waitFor } from '../../test/builders/wait-for.ts';
import { type ApiObject, line, refuse, TestApiServer } from '../../test/kubernetes/api-server.ts';
import { ApiServer } from './kubernetes-api.ts';
import { type WatchPace, watchObjects } from './kubernetes-watch.ts';

const PATH = '/api/v1/namespaces/shop/pods';
const quick: WatchPace = { watchSeconds: 30, silenceMs: 30_000, firstPauseMs: 20, longestPauseMs: 100 };

let server: TestApiServer;
let log: CollectedLog;
let stop: AbortController;
let ended: Promise<void>;
let seen: string[];
/** `alive`, and `lost` with the status, in their order. */
let signs: string[];

beforeEach(async () => {
  server = await TestApiServer.start();
  vi.stubEnv('KUBECONFIG', server.kubeconfig);
  log = collectLog();
  stop = new AbortController();
  seen = [];
  signs = [];
  ended = Promise.resolve();
});
afterEach(async () => {
  stop.abort();
  await ended;
  await server.stop();
  vi.unstubAllEnvs();
});

const object = (name: string, value = 'a'): ApiObject => ({ metadata: { uid: `uid-${name}`, name }, value });

async function follow(pace: Partial<WatchPace> = {}): Promise<void> {
  const api = await ApiServer.load();
  ended = watchObjects<string>(
    api,
    {
      name: 'pods',
      path: PATH,
      query: { labelSelector: 'app=shop' },
      keep: (one) => {
        const { metadata, value } = one as ApiObject;
        return value === 'not ours' ? undefined : `${String(metadata.name)}=${String(value)}`;
      },
      changed: (objects) => {
        seen = [...objects.values()].sort();
      },
      alive: () => signs.push('alive'),
      lost: (status) => signs.push(`lost ${status ?? 'no answer'}`),
    },
    { logger: log.logger, signal: stop.signal, pace: { ...quick, ...pace } },
  ).finally(async () => await api.close());
}

const lost = () => signs.filter((sign) => sign.startsWith('lost'));

describe('a watch', () => {
  it('knows what was there, what comes, what changes and what goes; what is not ours it does not keep', async () => {
    server.put(PATH, object('one'));
    server.put(PATH, object('other', 'not ours'));
    await follow();
    await waitFor('one object is seen', async () => seen.length === 1);
    expect(seen).toEqual(['one=a']);
    await server.watched(PATH);
    server.put(PATH, object('two'));
    server.put(PATH, object('one', 'b'));
    await waitFor('two objects are seen', async () => seen.length === 2);
    expect(seen).toEqual(['one=b', 'two=a']);
    server.put(PATH, object('two', 'not ours'));
    server.remove(PATH, 'uid-one');
    await waitFor('nothing is left', async () => seen.length === 0);
    expect(server.urls.every((url) => url.searchParams.get('labelSelector') === 'app=shop')).toBe(true);
    expect(lost()).toEqual([]);
  });

  it('goes on where it was when the server ends it, without listing again; what happened between is not missed', async () => {
    server.put(PATH, object('one'));
    await follow();
    await server.watched(PATH);
    server.put(PATH, object('two'));
    await waitFor('two objects are seen', async () => seen.length === 2);
    server.bookmark(PATH);
    server.end(PATH);
    server.put(PATH, object('three'));
    await waitFor('three objects are seen', async () => seen.length === 3);
    expect(server.count(`list ${PATH}`)).toBe(1);
    expect(lost()).toEqual([]);
  });

  it('reads a list of many pages to its end', async () => {
    server.pageSize = 2;
    for (const name of ['a', 'b', 'c', 'd', 'e']) server.put(PATH, object(name));
    await follow();
    await waitFor('the list is read', async () => seen.length > 0);
    expect(seen).toHaveLength(5);
    expect(server.count(`list ${PATH}`)).toBe(3);
  });

  it.each([
    ['as the answer', () => server.once(`watch ${PATH}`, refuse(410))],
    [
      'in the stream',
      () =>
        server.once(`watch ${PATH}`, (response) => {
          response.writeHead(200);
          response.end(line('ERROR', { kind: 'Status', code: 410, message: 'secret-of-the-api-server' }));
        }),
    ],
  ])('that has expired, said %s, lists again and forgets what has gone meanwhile', async (_, expire) => {
    server.put(PATH, object('stays'));
    server.put(PATH, object('goes'));
    await follow();
    await server.watched(PATH);
    await waitFor('two objects are seen', async () => seen.length === 2);
    server.removeUnseen(PATH, 'uid-goes');
    expire();
    server.end(PATH);
    await waitFor('one object is seen', async () => seen.length === 1);
    expect(seen).toEqual(['stays=a']);
    expect(server.count(`list ${PATH}`)).toBe(2);
    // It is nobody's fault, so nothing counts as lost.
    expect(lost()).toEqual([]);
  });

  it('over a half-open connection is given up and begun anew; one that is quiet but alive is not', async () => {
    await follow({ silenceMs: 2_000 });
    await server.watched(PATH);
    // Quiet for longer than the limit in all, with a bookmark now and then: still the first watch.
    for (let beat = 0; beat < 4; beat += 1) {
      await new Promise((resolve) => setTimeout(resolve, 800));
      server.bookmark(PATH);
    }
    expect(server.count(`watch ${PATH}`)).toBe(1);
    expect(lost()).toEqual([]);
    server.silence(PATH);
    server.put(PATH, object('unheard'));
    await waitFor('one object is seen', async () => seen.length === 1);
    expect(lost()).toEqual(['lost no answer']);
    expect(server.count(`list ${PATH}`)).toBe(2);
  });

  it.each([
    ['no JSON', '<html>secret-of-a-proxy</html>\n'],
    ['no event', '["secret-of-a-proxy"]\n'],
    ['an object without a version', line('ADDED', { metadata: { uid: 'secret-of-a-proxy' } })],
  ])('that brings %s lists again, and quotes nothing of it', async (_, garbage) => {
    server.put(PATH, object('one'));
    await follow();
    await server.watched(PATH);
    server.write(PATH, garbage);
    server.put(PATH, object('two'));
    await waitFor(
      'it watches or lists again',
      async () => server.count(`list ${PATH}`) === 2 && seen.length === 2,
    );
    expect(lost()).toEqual(['lost no answer']);
    expect(log.lines.join('')).not.toContain('secret');
  });

  it('that is cut in the middle of a line loses nothing of it', async () => {
    await follow();
    await server.watched(PATH);
    const whole = line('ADDED', {
      ...object('one'),
      metadata: { uid: 'uid-one', name: 'one', resourceVersion: '999' },
    });
    server.write(PATH, whole.slice(0, 40));
    server.cut(PATH);
    server.put(PATH, object('one'));
    await waitFor('one object is seen', async () => seen.length === 1);
    expect(seen).toEqual(['one=a']);
  });

  it('outlives an API server that goes away, says so once, and comes back by itself', async () => {
    server.put(PATH, object('one'));
    await follow();
    await server.watched(PATH);
    await server.stop();
    await waitFor('it is lost for the third time', async () => lost().length >= 3);
    server.put(PATH, object('meanwhile'));
    await server.resume();
    await waitFor('two objects are seen', async () => seen.length === 2);
    expect(signs.at(-1)).toBe('alive');
    expect(log.entries().map(({ level }) => level)).toEqual(['warn', 'info']);
  });

  it.each([
    [403, 'rbac.yaml'],
    [401, 'trying again'],
    [500, 'trying again'],
    [429, 'trying again'],
  ])('that is answered with %i says what to do, and is tried again', async (status, words) => {
    server.once(`list ${PATH}`, refuse(status));
    server.put(PATH, object('one'));
    await follow();
    await waitFor('one object is seen', async () => seen.length === 1);
    expect(lost()).toEqual([`lost ${status}`]);
    expect(log.messages()[0]).toContain(words);
    expect(log.lines.join('')).not.toContain('secret');
  });

  it('that the server ends at once, every time, does not become a storm of requests', async () => {
    for (let time = 0; time < 50; time += 1)
      server.once(`watch ${PATH}`, (response) => {
        response.writeHead(200);
        response.end();
      });
    await follow({ firstPauseMs: 200 });
    await waitFor('it watches or lists again', async () => server.count(`watch ${PATH}`) >= 2);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(server.count(`watch ${PATH}`)).toBeLessThan(8);
  });

  it('ends when it is told to, in the middle of anything', async () => {
    await follow();
    await server.watched(PATH);
    stop.abort();
    await ended;
    expect(lost()).toEqual([]);
  });
});
