import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createTestDatabase, type TestDatabase } from '../../test/postgres/database.ts';
import { PUBLISHED_EVENTS } from './events.js';
import { events, isProcessed } from './testing/business-rows.js';
import { eventually } from './testing/service-client.js';
import { type ServiceHere, startServiceHere } from './testing/service-here.js';

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

const metrics = async (): Promise<string> => (await service.get('/metrics')).text;

/** The value of one series; undefined where there is none. */
function seriesOf(
  text: string,
  name: string,
  labels: Readonly<Record<string, string>> = {},
): number | undefined {
  const line = text
    .split('\n')
    .find(
      (candidate) =>
        (candidate.startsWith(`${name}{`) || candidate.startsWith(`${name} `)) &&
        Object.entries(labels).every(([label, value]) => candidate.includes(`${label}="${value}"`)),
    );
  return line === undefined ? undefined : Number(line.split(' ').at(-1));
}

describe('every log line of a request and of its listeners says which', () => {
  test('the caller’s request id is answered and stands in the lines up to the end of the event', async () => {
    const id = await service.createSession();
    const headers = { 'x-request-id': `trial-${id}` };
    const answer = await service.post(`/sessions/${id}/complete`, {}, headers);
    expect(answer.headers.get('x-request-id')).toBe(headers['x-request-id']);
    await eventually('processed', () => isProcessed(database, id));
    const [event] = await events(database, id);
    await eventually('logged', () => service.lines('Event processed', event?.id ?? '').length > 0);
    const lines = service.lines(headers['x-request-id']);
    expect(lines.map(({ msg }) => msg)).toEqual(
      expect.arrayContaining(['Request answered', 'Event published', 'Event processed']),
    );
    expect(
      service.lines(event?.id ?? '').every(({ requestId }) => requestId === headers['x-request-id']),
    ).toBe(true);
  });

  test('a listener’s own line holds the event’s id, and the id of the request that replays it', async () => {
    const id = await service.completeSession();
    await eventually('processed', () => isProcessed(database, id));
    const [event] = await events(database, id);
    await database.query(`update event_backups set status = 'pending' where event_id = $1`, [event?.id]);
    await database.query('delete from event_deliveries where event_id = $1', [event?.id]);
    const answer = await service.admin('/admin/events/replay', { eventIds: [event?.id] });
    const [line] = service.lines('billed already', id);
    expect(line).toMatchObject({ eventId: event?.id, requestId: answer.headers.get('x-request-id') });
  });

  test('two requests at once do not take each other’s ids', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => service.createSession()));
    await Promise.all(
      ids.map((id) => service.post(`/sessions/${id}/complete`, {}, { 'x-request-id': `mine-${id}` })),
    );
    for (const id of ids) await eventually('processed', () => isProcessed(database, id));
    for (const id of ids) {
      const [event] = await events(database, id);
      const lines = await eventually('logged', () => {
        const found = service.lines(event?.id ?? '');
        return found.some(({ msg }) => msg === 'Event processed') && found;
      });
      expect(new Set(lines.map(({ requestId }) => requestId))).toEqual(new Set([`mine-${id}`]));
    }
  });

  test.each([
    ['none', undefined],
    ['one that may hold anybody’s words', 'ada.lovelace@example.org'],
    ['one that is too long', 'x'.repeat(65)],
  ])('a request with %s gets a new id', async (_title, given) => {
    const answer = await service.get('/health/live', given === undefined ? {} : { 'x-request-id': given });
    expect(answer.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/);
  });
});

describe('/metrics', () => {
  test('has every series of every event at 0 before anything has happened', async () => {
    const fresh = await startServiceHere(database.url);
    try {
      const { text, headers, status } = await fresh.get('/metrics');
      expect(status).toBe(200);
      expect(headers.get('content-type')).toContain('text/plain; version=0.0.4');
      for (const eventType of PUBLISHED_EVENTS) {
        expect(seriesOf(text, 'event_published_total', { event_type: eventType, status: 'committed' })).toBe(
          0,
        );
        expect(seriesOf(text, 'event_processed_total', { event_type: eventType, status: 'processed' })).toBe(
          0,
        );
        expect(seriesOf(text, 'event_duration_seconds_count', { event_type: eventType })).toBe(0);
      }
      expect(seriesOf(text, 'event_publish_error_total')).toBe(0);
      expect(seriesOf(text, 'process_resident_memory_bytes')).toBeGreaterThan(0);
    } finally {
      await fresh.stop();
    }
  });

  test('counts a published and processed event, and times requests by route and not by path', async () => {
    const eventType = 'services.session.completed.v1';
    const labels = { event_type: eventType, status: 'processed' };
    const before = seriesOf(await metrics(), 'event_processed_total', labels) ?? Number.NaN;
    const id = await service.completeSession();
    await eventually('processed', () => isProcessed(database, id));
    const text = await eventually('counted', async () => {
      const now = await metrics();
      return seriesOf(now, 'event_processed_total', labels) === before + 1 && now;
    });
    const route = { method: 'POST', route: '/sessions/:id/complete', status: '200' };
    expect(seriesOf(text, 'http_request_duration_seconds_count', route)).toBeGreaterThan(0);
    expect(text).not.toContain(id);
  });

  test('takes neither unknown paths nor unknown methods for series of their own', async () => {
    await service.get('/wp-login.php');
    await fetch(`${service.url}/sessions`, { method: 'PROPFIND' }).then((answer) => answer.text());
    const text = await eventually('counted', async () => {
      const now = await metrics();
      return seriesOf(now, 'http_request_duration_seconds_count', { method: 'other' }) !== undefined && now;
    });
    expect(
      seriesOf(text, 'http_request_duration_seconds_count', { method: 'GET', route: 'none', status: '404' }),
    ).toBeGreaterThan(0);
    expect(text).not.toMatch(/wp-login|PROPFIND/);
  });
});

describe('a planted personal string', () => {
  const CANARY = 'ada.lovelace@example.org';

  test('in every field of every request reaches no log line, no metric and no answer to an error', async () => {
    const contract = await service.post('/contracts', {
      mentorId: CANARY,
      currency: 'EUR',
      unitPriceMinor: 1,
      totalUnits: 1,
    });
    await service.post(`/contracts/${contract.body.id}/activate`);
    await service.post(`/contracts/${contract.body.id}/consumptions`, { units: 1 });
    const id = await service.createSession({ mentorId: CANARY, contractId: CANARY });
    await service.arm('fail');
    await service.post(`/sessions/${id}/complete`);
    await eventually('the failure', () => service.lines('Listener failed').length > 0);
    await service.disarm();
    await service.post(`/sessions/${id}/evaluate`, { score: 5 });
    await eventually('billed', async () => (await events(database, id)).length === 2);
    const [event] = await events(database, id);
    await service.admin('/admin/events/replay', { eventIds: [event?.id] });
    await eventually('processed', () => isProcessed(database, id));
    const correction = {
      key: [id],
      kind: 'duplicate',
      expectedMinor: null,
      actualMinor: null,
      currency: CANARY.slice(0, 10),
      ledgerRows: 2,
    };
    const approved = { requestId: '1', requestedBy: CANARY, approvedBy: 'ben', reason: CANARY };
    const refusals = [
      await service.post('/contracts', { mentorId: CANARY, [CANARY]: CANARY }),
      await service.post(`/contracts/${CANARY}/activate`),
      await service.post('/sessions', `{"mentorId": "${CANARY}`),
      await service.post(`/sessions/${CANARY}/evaluate`, { score: CANARY }),
      await service.post(`/sessions/${id}/evaluate`, { score: CANARY }),
      await service.get(`/${CANARY}`),
      await service.get(`/sessions/%E0%A4%A/${CANARY}`),
      await service.admin('/admin/events/replay', { eventIds: [CANARY], [CANARY]: 1 }),
      await service.admin('/admin/faults', { fault: CANARY }),
      await service.admin('/admin/billing/corrections', {
        ...approved,
        approvedBy: CANARY,
        corrections: [correction],
      }),
      await service.admin('/admin/billing/corrections', {
        ...approved,
        reason: CANARY,
        corrections: [CANARY],
      }),
      await service.post('/admin/billing/corrections', {}, { authorization: `Bearer ${CANARY}` }),
    ];
    for (const { status, text } of refusals) {
      expect(status).toBeGreaterThanOrEqual(400);
      expect(status).toBeLessThan(500);
      expect(text).not.toContain(CANARY);
    }
    await service.admin('/admin/billing/corrections', { ...approved, corrections: [correction] });
    expect(await metrics()).not.toContain(CANARY);
    expect(service.output()).not.toContain(CANARY);
    expect(service.output()).not.toContain('lovelace');
  });
});
