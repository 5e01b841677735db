/** Containers in one time zone, a server in another: the same is found, and the same is too young. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { renderInstallation } from './chart.ts';
import { hurried } from './hurried.ts';
import { bills, plantSessions, sessionId } from './planted.ts';
import { Shop } from './shop.ts';

/** Three hours and a half behind UTC; Asia/Kathmandu is five and three quarters before it. */
const OF_SERVER = 'America/St_Johns';
const jobs = hurried.jobs as Record<string, object>;
const base = { ...hurried, jobs: { ...jobs, eventReplay: { graceSeconds: 1_800 } } };
const elsewhere = {
  ...base,
  extraEnv: [{ name: 'TZ', value: 'Asia/Kathmandu' }],
  service: { timeZone: OF_SERVER },
};

describe.each([
  ['all in UTC', base, 'UTC'],
  ['the containers in Kathmandu and the server in St. John’s', elsewhere, OF_SERVER],
])('%s', (_, values, zone) => {
  let shop: Shop;
  beforeAll(async () => {
    shop = await Shop.installed({ values, serverArguments: ['-c', `timezone=${zone}`] });
    await plantSessions(shop, 3);
    await shop.arm('lose', 1);
    for (const number of [1, 2]) await shop.call('POST', `/sessions/${sessionId(number)}/complete`);
    await shop.disarm();
    await shop.arm('skip_backup', 1);
    await shop.call('POST', `/sessions/${sessionId(3)}/complete`);
    await shop.disarm();
    // An hour passes for all but the second, and for that one just enough to be due: less than any zone is off.
    await shop.sql(`
      UPDATE sessions SET completed_at = completed_at
        - CASE id WHEN '${sessionId(2)}' THEN interval '10 minutes' ELSE interval '1 hour' END;
      UPDATE event_backups SET created_at = created_at
        - CASE payload ->> 'sessionId' WHEN '${sessionId(2)}' THEN interval '10 minutes' ELSE interval '1 hour' END`);
  });
  afterAll(async () => {
    await shop?.close();
  });

  test('the same discrepancies are found, with their causes', async () => {
    const { code, log, text } = await shop.run('CronJob', 'billing-reconciliation-full');
    expect(code, text).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ facts: 3, suspected: 3, future_facts: 0 });
    const found = await shop.query<{ finding: string }>(
      `SELECT right(key::jsonb ->> 0, 1) || ' ' || cause AS finding FROM counterfoil.discrepancies ORDER BY 1`,
    );
    expect(found.map(({ finding }) => finding)).toEqual([
      '1 event_pending',
      '2 event_pending',
      '3 never_published',
    ]);
    const late = `SELECT extract(epoch FROM now() - verified_through) < 300 FROM counterfoil.checks`;
    expect(await shop.value<boolean>(late)).toBe(true);
  });

  test('the log tells the time in UTC', async () => {
    const { log } = await shop.run('CronJob', 'billing-reconciliation-tail');
    expect(String(log[0]?.time)).toMatch(/Z$/);
    expect(Math.abs(Date.parse(String(log[0]?.time)) - Date.now())).toBeLessThan(120_000);
  });

  test('event-replay sends the event that is older than its grace, and not the one that is young', async () => {
    // What reconciliation has asked for would be sent whatever its age.
    await shop.sql('TRUNCATE counterfoil.requests CASCADE');
    const { code, log, text } = await shop.run('CronJob', 'event-replay');
    expect(code, text).toBe(0);
    expect(log.at(-1)?.counts).toMatchObject({ processed: 1 });
    expect(await bills(shop)).toEqual({ none: 2, one: 1, several: 0 });
  });
});

test('a time zone of the service that is not said is felt: a young event counts as old', async () => {
  const shop = await Shop.installed({ values: base, serverArguments: ['-c', `timezone=${OF_SERVER}`] });
  try {
    await plantSessions(shop, 1);
    await shop.arm('lose', 1);
    await shop.call('POST', `/sessions/${sessionId(1)}/complete`);
    await shop.disarm();
    const rendered = await renderInstallation({ ...base, service: { timeZone: OF_SERVER } });
    expect((await shop.run('CronJob', 'event-replay', { rendered })).log.at(-1)?.counts).toMatchObject({
      taken_in: 0,
    });
    expect((await shop.run('CronJob', 'event-replay')).log.at(-1)?.counts).toMatchObject({ taken_in: 1 });
  } finally {
    await shop.close();
  }
});
