/** Logins that Postgres refuses, and a Postgres that takes encrypted connections alone. */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { AUTHORITY_SECRET } from './chart.ts';
import { hurried } from './hurried.ts';
import type { PodOptions } from './pod-container.ts';
import { Shop } from './shop.ts';

const everyJob = [
  ['Job', 'schema'],
  ['CronJob', 'billing-reconciliation-tail'],
  ['CronJob', 'billing-reconciliation-full'],
  ['CronJob', 'event-replay'],
  ['CronJob', 'flow-probe'],
  ['CronJob', 'backup-retention'],
  ['Pod', 'test-database-jobs'],
] as const;

describe('with a wrong password', () => {
  let shop: Shop;
  let secrets: PodOptions['secrets'];
  beforeAll(async () => {
    shop = await Shop.installed({ values: hurried });
    const urls = Object.entries(shop.secrets()['billing-database'] ?? {});
    secrets = {
      'billing-database': Object.fromEntries(
        urls.map(([key, url]) => [key, url.replace(shop.password, 'an-old-password')]),
      ),
    };
  });
  afterAll(async () => {
    await shop?.close();
  });

  test.each(everyJob)(
    '%s %s ends with exit code 2, in one line, with no password in its log',
    async (kind, name) => {
      const { code, log, text } = await shop.run(kind, name, { secrets });
      expect([code, log.at(-1)?.failureId]).toEqual([2, 'database_refused']);
      expect(log.filter(({ level }) => level === 'error')).toHaveLength(1);
      expect(text).not.toContain('an-old-password');
      expect(text).not.toContain('postgresql://');
    },
  );

  test('and with the right one it does not', async () => {
    const { code, text } = await shop.run('CronJob', 'billing-reconciliation-tail');
    expect(code).toBe(0);
    expect(text).not.toContain(shop.password);
  });
});

describe('with a server that takes encrypted connections alone', () => {
  let shop: Shop;
  beforeAll(async () => {
    const database = { certificateAuthority: { existingSecret: AUTHORITY_SECRET } };
    shop = await Shop.open({ encrypted: true, values: { ...hurried, database } });
  });
  afterAll(async () => {
    await shop?.close();
  });

  /** Beside the server, since its certificate names localhost. */
  const run = async (kind: string, name: string, query: string, authority = 'ca.crt') =>
    await shop.run(kind, name, {
      networkMode: `container:${shop.postgres.getId()}`,
      secrets: {
        ...shop.secrets({ host: 'localhost:5432', query }),
        [AUTHORITY_SECRET]: {
          'ca.crt': readFileSync(new URL(`../postgres/tls/${authority}`, import.meta.url), 'utf8'),
        },
      },
    });
  const VERIFIED = '?sslmode=verify-full&sslrootcert=/etc/counterfoil/database/ca.crt';

  test('jobs that know its authority work, by the file that the chart mounts', async () => {
    for (const [kind, name] of [
      ['Job', 'schema'],
      ['CronJob', 'billing-reconciliation-full'],
      ['CronJob', 'backup-retention'],
      ['Pod', 'test-database-jobs'],
    ] as const) {
      const { code, text } = await run(kind, name, VERIFIED);
      expect(code, text).toBe(0);
    }
  });

  test.each([
    ['another authority', VERIFIED, 'other-ca.crt'],
    ['no authority', '?sslmode=verify-full', 'ca.crt'],
    ['no encryption', '?sslmode=disable', 'ca.crt'],
    ['nothing said of encryption', '', 'ca.crt'],
  ])('%s is refused for good, in one line', async (_, query, authority) => {
    const { code, log } = await run('CronJob', 'billing-reconciliation-full', query, authority);
    expect([code, log.at(-1)?.failureId]).toEqual([2, 'database_refused']);
    expect(log.filter(({ level }) => level === 'error')).toHaveLength(1);
  });
});
