/** The rendered rules by promtool: they are well formed, and fire by the numbers of the values. */
import { copyFile, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { stringify } from 'yaml';
import { PASSED } from '../alerts/passed.ts';
import { promtool, promtoolTest, type UnitTest } from '../alerts/promtool.ts';
import { rulesFolder } from '../alerts/rule-files.ts';
import { type RenderOptions, render, required, type Values } from './render.ts';
import { allJobs, guard, renderedGroups, textFor } from './rules.ts';

const tools = inject('chartTools');

describe.skipIf(tools === undefined)('promtool', () => {
  const path = tools?.promtool ?? '';
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'counterfoil-rendered-rules-'));
  });
  afterAll(async () => {
    await rm(folder, { recursive: true, force: true });
  });

  /** Rule files under the names that they have in alerts/, so that the tests beside those find them. */
  async function write(name: string, values: Values, options?: RenderOptions): Promise<string[]> {
    const files: string[] = [];
    for (const [file, groups] of renderedGroups(await render([required, values], options))) {
      const place = join(folder, `${name}${file}.yaml`);
      await writeFile(place, stringify({ groups }, { lineWidth: 0, aliasDuplicateObjects: false }));
      files.push(place);
    }
    return files;
  }

  test('takes every rule that is rendered, and no query for complaints that is none', async () => {
    const complaints = (query: string) => ({ ...allJobs, complaints: { query } });
    const files = await write('sound-', complaints('sum(increase(complaints_total[1d]))'));
    const checked = await promtool(path, 'check', 'rules', '--lint-fatal', ...files);
    expect([checked.passed, checked.output]).toEqual([true, expect.stringContaining('SUCCESS')]);

    const broken = await write('broken-', complaints('sum(increase(complaints_total[1d])'));
    const refused = await promtool(path, 'check', 'rules', ...broken);
    expect(refused).toMatchObject({ passed: false, output: expect.stringContaining('complaints.yaml') });
  });

  // Over all subjects and all texts; that the other tests hold follows, since the rules are those of alerts/.
  test.each(['texts', 'requests'])(
    'alerts/%s.test.yaml holds for a release of another name',
    { timeout: 300_000 },
    async (name) => {
      await write('', allJobs);
      const text = await readFile(join(rulesFolder, `${name}.test.yaml`), 'utf8');
      await writeFile(join(folder, `${name}.test.yaml`), textFor(text, guard));
      expect(await promtool(path, 'test', 'rules', join(folder, `${name}.test.yaml`))).toEqual(PASSED);
    },
  );

  test('a test that asks for the alerts of another release fails', async () => {
    await write('', allJobs);
    await copyFile(join(rulesFolder, 'requests.test.yaml'), join(folder, 'other.test.yaml'));
    expect(await promtool(path, 'test', 'rules', join(folder, 'other.test.yaml'))).toMatchObject({
      passed: false,
      output: expect.stringContaining('FAILED'),
    });
  });

  const series = (installation: string, lost: number) =>
    Object.entries({
      counterfoil_hot_events: ['published_hash="v"', 1000],
      counterfoil_hot_lost_events: ['published_hash="v"', lost],
      counterfoil_exporter_info: ['version="1"', 1],
    }).map(([name, [labels, value]]) => ({
      series: `${name}{namespace="shop",installation="${installation}",${labels}}`,
      values: `${value}x60`,
    }));

  /** Who loses how much, and whose loss pages after ten minutes. */
  const losing = (losses: Readonly<Record<string, number>>, paged: readonly string[]): UnitTest => ({
    name: `of ${JSON.stringify(losses)} only ${paged.join()} pages`,
    interval: '15s',
    input_series: Object.entries(losses).flatMap(([installation, lost]) => series(installation, lost)),
    promql_expr_test: [
      {
        expr: 'ALERTS{alertname="EventLossRateHigh",alertstate="firing"}',
        eval_time: '10m',
        exp_samples: paged.map((installation) => ({
          labels: `ALERTS{alertname="EventLossRateHigh",alertstate="firing",namespace="shop",installation="${installation}",severity="critical"}`,
          value: 1,
        })),
      },
    ],
  });
  const guardLosing = (lost: number, pages: boolean) =>
    losing({ 'guard-counterfoil': lost }, pages ? ['guard-counterfoil'] : []);

  test('sees a page by the threshold of the values, and not by the default', async () => {
    const tolerant = await write('tolerant-', { thresholds: { eventLossRatio: 0.02 } });
    expect(await promtoolTest(path, tolerant, [guardLosing(15, false), guardLosing(25, true)])).toEqual(
      PASSED,
    );

    const byDefault = await write('default-', {});
    expect(await promtoolTest(path, byDefault, [guardLosing(15, true), guardLosing(4, false)])).toEqual(
      PASSED,
    );
    expect(await promtoolTest(path, byDefault, [guardLosing(15, false)])).toMatchObject({ passed: false });
  });

  test('sees two releases in one namespace page by their own thresholds, with one set of rules', async () => {
    const files = [
      ...(await write('first-', {})),
      ...(await write(
        'second-',
        { prometheusRule: { shared: true }, thresholds: { eventLossRatio: 0.02 } },
        { release: 'second' },
      )),
    ];
    const both = { 'guard-counterfoil': 15, 'second-counterfoil': 15 };
    expect(await promtoolTest(path, files, [losing(both, ['guard-counterfoil'])])).toEqual(PASSED);
    expect(await promtoolTest(path, files, [losing(both, Object.keys(both))])).toMatchObject({
      passed: false,
    });
  });

  test('sees an alert wait as long as its override says', async () => {
    const files = await write('patient-', {
      prometheusRule: { overrides: { EventLossRateHigh: { for: '15m' } } },
    });
    expect(await promtoolTest(path, files, [guardLosing(15, false)])).toEqual(PASSED);
  });
});
