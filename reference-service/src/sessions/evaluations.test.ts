import { afterAll, beforeAll, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../../test/postgres/database.ts';
import { bills, events, isProcessed } from '../testing/business-rows.js';
import { eventually } from '../testing/service-client.js';
import { type ServiceHere, startServiceHere } from '../testing/service-here.js';

let database: TestDatabase;
let service: ServiceHere;
beforeAll(async () => {
  database = await createTestDatabase();
  service = await startServiceHere(database.url);
});
afterAll(async () => {
  await service?.stop();
  await database?.drop();
});

const evaluate = (id: string, score = 4) => service.post(`/sessions/${id}/evaluate`, { score });

test('an evaluation finds the bill of the completion, and writes no second one', async () => {
  const id = await service.completeSession();
  await eventually('processed', () => isProcessed(database, id));
  const [bill] = await bills(database, id);
  expect((await evaluate(id)).body).toMatchObject({
    sessionId: id,
    score: 4,
    evaluatedAt: expect.any(String),
  });
  await eventually('processed', () => isProcessed(database, id));
  expect(await events(database, id)).toHaveLength(2);
  expect(await bills(database, id)).toEqual([bill]);
  await eventually('logged', () => service.lines('billed already', id).length > 0);
});

test('an evaluation bills a session whose completion was lost; its replay returns that bill', async () => {
  await service.arm('lose');
  const id = await service.completeSession();
  await service.disarm();
  const [completed] = await events(database, id);
  await evaluate(id);
  await eventually('billed', async () => (await bills(database, id)).length > 0);
  const [bill] = await bills(database, id);
  expect(bill?.key).toBe(`session:${id}:1`);
  const { body } = await service.admin('/admin/events/replay', { eventIds: [completed?.id] });
  expect(body.results).toMatchObject([{ outcome: 'processed' }]);
  expect(await bills(database, id)).toEqual([bill]);
});

test('evaluated twenty times at once, the first evaluation stays, with one event and one bill', async () => {
  const id = await service.completeSession();
  const answers = await Promise.all(Array.from({ length: 20 }, (_, n) => evaluate(id, 1 + (n % 5))));
  expect(new Set(answers.map(({ status, text }) => `${status} ${text}`)).size).toBe(1);
  expect(answers[0]?.status).toBe(200);
  await eventually('processed', () => isProcessed(database, id));
  expect(await events(database, id)).toHaveLength(2);
  expect(await bills(database, id)).toHaveLength(1);
});

test('a session that is not completed: 409; one that is not there: 404; a score that is none: 400', async () => {
  const open = await service.createSession();
  expect((await evaluate(open)).status).toBe(409);
  expect(await events(database, open)).toEqual([]);
  expect((await evaluate(crypto.randomUUID())).status).toBe(404);
  expect((await evaluate(open, 6)).status).toBe(400);
});
