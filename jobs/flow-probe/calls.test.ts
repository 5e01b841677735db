import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { type Calls, openCalls, valueAt } from './calls.ts';
import type { Step } from './flow.ts';

interface Seen {
  readonly method: string | undefined;
  readonly url: string | undefined;
  readonly headers: IncomingMessage['headers'];
  readonly body: string;
}

let server: Server;
let url: string;
let seen: Seen[];
let answer: (response: ServerResponse) => void;
const opened: Calls[] = [];

beforeEach(async () => {
  seen = [];
  answer = (response) => response.end('{}');
  server = createServer((request, response) => {
    let body = '';
    request.on('data', (part) => {
      body += part;
    });
    request.on('end', () => {
      seen.push({ method: request.method, url: request.url, headers: request.headers, body });
      answer(response);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  for (const calls of opened.splice(0)) await calls.close();
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
});

const open = (more: Partial<Parameters<typeof openCalls>[0]> = {}): Calls => {
  const calls = openCalls({ url, token: undefined, limitMs: 1_000, ...more });
  opened.push(calls);
  return calls;
};
const step = (override: Partial<Step> = {}): Step => ({
  name: 'order',
  method: 'POST',
  path: '/orders/{id}',
  expect: [200],
  take: {},
  ...override,
});
const signal = new AbortController().signal;

test('a step is sent as it is declared, below the path of the address, with its placeholders filled in', async () => {
  const body = { id: '{id}', amount: 107 };
  expect(await open({ url: `${url}/api/` }).send(step({ body }), { id: 'a/1' }, signal)).toEqual({
    kind: 'answered',
    status: 200,
    content: undefined,
  });
  expect(seen[0]).toMatchObject({
    method: 'POST',
    url: '/api/orders/a%2F1',
    body: '{"id":"a/1","amount":107}',
  });
  expect(seen[0]?.headers).toMatchObject({ 'content-type': 'application/json' });
});

test('the token is sent where there is one, and no header of it where there is none', async () => {
  await open({ token: 'abc' }).send(step(), {}, signal);
  await open().send(step({ method: 'GET' }), {}, signal);
  expect(seen.map(({ headers }) => headers.authorization)).toEqual(['Bearer abc', undefined]);
  expect(seen[1]?.headers['content-type']).toBeUndefined();
});

test('a redirect is an answer like any other: the token goes nowhere else', async () => {
  answer = (response) => response.writeHead(307, { location: `${url}/elsewhere` }).end();
  expect(await open({ token: 'abc' }).send(step(), {}, signal)).toMatchObject({
    kind: 'answered',
    status: 307,
  });
  expect(seen).toHaveLength(1);
});

describe('without an answer', () => {
  test('in time, the code is timeout, also where the head came and the body does not end', async () => {
    answer = () => undefined;
    expect(await open({ limitMs: 200 }).send(step(), {}, signal)).toEqual({
      kind: 'unanswered',
      code: 'timeout',
    });
    answer = (response) => response.writeHead(200).write('{');
    expect(await open({ limitMs: 200 }).send(step(), {}, signal)).toMatchObject({ kind: 'unanswered' });
  });

  test('because it is too large or was cut, it says so by a code', async () => {
    answer = (response) => response.end('x'.repeat(2_000_000));
    expect(await open().send(step(), {}, signal)).toMatchObject({
      kind: 'unanswered',
      code: 'UND_ERR_RES_EXCEEDED_MAX_SIZE',
    });
    answer = (response) => response.destroy();
    expect(await open().send(step(), {}, signal)).toMatchObject({
      kind: 'unanswered',
      code: 'UND_ERR_SOCKET',
    });
  });

  test('because the run is told to stop, it is abandoned', async () => {
    const stop = new AbortController();
    answer = () => stop.abort();
    expect(await open().send(step(), {}, stop.signal)).toEqual({ kind: 'abandoned' });
    expect(await open().send(step(), {}, stop.signal)).toEqual({ kind: 'abandoned' });
    expect(seen).toHaveLength(1);
  });
});

test('the content is kept only where a step takes something from it', async () => {
  answer = (response) => response.end('{"data":{"id":7,"name":"x"}}');
  const take = { order: 'data.id' };
  const end = await open().send(step({ take }), {}, signal);
  expect(end).toMatchObject({ content: { data: { id: 7 } } });
  const { content } = end as { content: unknown };
  expect(valueAt(content, 'data.id')).toBe('7');
  expect(valueAt(content, 'data.name')).toBe('x');
  for (const path of ['data', 'data.none', 'data.id.more', 'constructor', 'data.__proto__'])
    expect(valueAt(content, path), path).toBeUndefined();
  answer = (response) => response.end('no json');
  expect(await open().send(step({ take }), {}, signal)).toMatchObject({ status: 200, content: undefined });
});
