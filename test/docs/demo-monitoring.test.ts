import { dirname } from 'node:path';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { type Monitoring, type MonitoringOptions, startMonitoring } from '../../scripts/demo-monitoring.ts';
import { checksFile, sessionBilling } from '../builders/checks.ts';
import { addCheck, addFinding } from '../builders/exporter.ts';
import { createTestDatabase, type TestDatabase } from '../postgres/database.ts';
import { findTool } from '../tools/find-tool.ts';

const prometheus = await findTool('prometheus').catch((error: unknown) => {
  if (process.env.CI === 'true') throw error;
  return undefined;
});

let postgres: TestDatabase;
let options: MonitoringOptions;
beforeAll(async () => {
  postgres = await createTestDatabase();
  await addCheck(postgres, { installation: 'demo' });
  await addFinding(postgres, { kind: 'duplicate' });
  options = {
    databaseUrl: postgres.urlAs('counterfoil_exporter'),
    installation: 'demo',
    checksFile: checksFile(sessionBilling()),
    serviceUrl: undefined,
  };
});
afterAll(async () => {
  await postgres.drop();
});

// Also after a test that fails.
const started: Monitoring[] = [];
afterEach(async () => {
  await Promise.all(started.splice(0).map((monitoring) => monitoring.stop()));
});
const start = async (change: Partial<MonitoringOptions>): Promise<Monitoring> => {
  const monitoring = await startMonitoring({ ...options, ...change });
  started.push(monitoring);
  return monitoring;
};

const isAnswered = async (url: string) =>
  await fetch(url).then(
    () => true,
    () => false,
  );

test('without a Prometheus on PATH the exporter stands alone, and nothing of it is left afterwards', async () => {
  const monitoring = await start({ path: '' });
  expect(monitoring.prometheusUrl).toBeUndefined();
  const scrape = await (await fetch(`${monitoring.exporterUrl}/metrics`)).text();
  expect(scrape).toMatch(/^billing_discrepancy_count\{.*kind="duplicate".*\} 1$/m);
  await monitoring.stop();
  expect(await isAnswered(monitoring.exporterUrl)).toBe(false);
});

test.skipIf(prometheus === undefined)(
  'a Prometheus on PATH scrapes it and evaluates our rules, as the dashboards ask for them',
  async () => {
    const monitoring = await start({ path: dirname(prometheus ?? '') });
    const query = encodeURIComponent(
      'billing_discrepancy_count{namespace="counterfoil",installation="counterfoil",kind="duplicate"} > on (namespace, installation) group_left () installation:open_findings:threshold',
    );
    // The rules are evaluated every 15 s, from some moment in the first 15 on.
    await expect
      .poll(
        async () => {
          const response = await fetch(`${monitoring.prometheusUrl}/api/v1/query?query=${query}`);
          const answer = (await response.json()) as { data?: { result: unknown[] } };
          return answer.data?.result.length;
        },
        { timeout: 45_000, interval: 200 },
      )
      .toBe(1);
    const rules = (await (await fetch(`${monitoring.prometheusUrl}/api/v1/rules?type=alert`)).json()) as {
      data: { groups: { rules: { name: string; health: string }[] }[] };
    };
    const alerts = rules.data.groups.flatMap((group) => group.rules);
    expect(alerts.map(({ name }) => name)).toContain('BillingDiscrepancy');
    await monitoring.stop();
    expect(await isAnswered(monitoring.prometheusUrl ?? '')).toBe(false);
  },
);

test('an exporter that is refused ends the attempt with its own last words', async () => {
  await expect(startMonitoring({ ...options, checksFile: '/nowhere/checks.yaml', path: '' })).rejects.toThrow(
    /does not answer at \/health\/ready:\n[\s\S]*checks/,
  );
});
