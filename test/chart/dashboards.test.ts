/** The dashboards as Grafana's sidecar finds them: those of `dashboards/built`, opened on this release. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, inject, test } from 'vitest';
import { repository } from '../repo/files.ts';
import { type KubernetesObject, type RenderOptions, render, required, type Values } from './render.ts';
import { guard, renderedGroups, rulesOf } from './rules.ts';

interface Dashboard {
  uid: string;
  title: string;
  links: { url: string }[];
  templating: { list: { name: string; query: string; current?: unknown }[] };
}

const folder = join(repository, 'dashboards/built');
const built = new Map(
  readdirSync(folder).map((file) => [
    file.replace('.json', ''),
    JSON.parse(readFileSync(join(folder, file), 'utf8')) as Dashboard,
  ]),
);

const maps = async (layers: Values = {}, options: RenderOptions = {}) =>
  (await render([required, layers], options))
    .all('ConfigMap')
    .filter(({ metadata }) => metadata.name.includes('-grafana-'));

/** By the name of the file in dashboards/built. */
const dashboardsOf = (configMaps: readonly KubernetesObject[]) =>
  new Map(
    configMaps.map(({ metadata, data }) => {
      const [text] = Object.values(data as Record<string, string>);
      return [metadata.name.replace(/^.*-grafana-/, ''), JSON.parse(text ?? '') as Dashboard];
    }),
  );

/** The whole text of it, so that a change in any panel is seen. */
function expected(name: string, change: (dashboard: Dashboard) => void): Dashboard {
  const dashboard = structuredClone(built.get(name) as Dashboard);
  change(dashboard);
  return dashboard;
}

const variable = (dashboard: Dashboard, name: string) =>
  dashboard.templating.list.find((one) => one.name === name) as Dashboard['templating']['list'][number];

const opened = (value: string) => ({ selected: true, text: value, value });

describe.skipIf(inject('chartTools') === undefined)('the dashboards of the chart', () => {
  test('are those that are built, exactly, where they are built for', async () => {
    const found = dashboardsOf(await maps({}, { release: 'counterfoil', namespace: 'counterfoil' }));
    expect(found).toEqual(built);
    expect(found.size).toBe(5);
  });

  test('open on their release, and differ in nothing else', async () => {
    const found = dashboardsOf(
      await maps({
        prometheusRule: { runbookBaseUrl: 'https://wiki.shop.example/runbooks/' },
        grafanaDashboards: { datasource: 'prometheus-eu' },
      }),
    );
    expect([...found.keys()].sort()).toEqual([...built.keys()].sort());
    for (const [name, dashboard] of found) {
      const wanted = expected(name, (changed) => {
        changed.uid = `${guard.uids}-${name}`;
        changed.title += ' (shop/guard-counterfoil)';
        for (const link of changed.links) link.url = link.url.replace('/d/counterfoil-', `/d/${guard.uids}-`);
        variable(changed, 'namespace').current = opened('shop');
        variable(changed, 'installation').current = opened('guard-counterfoil');
        variable(changed, 'datasource').current = opened('prometheus-eu');
        variable(changed, 'runbooks').query = 'https://wiki.shop.example/runbooks';
      });
      expect(dashboard).toEqual(wanted);
      expect(dashboard).not.toEqual(built.get(name));
    }
  });

  test('of two releases are ten dashboards in one Grafana: no uid, title, file or object is there twice', async () => {
    const both = [
      ...(await maps({}, { namespace: 'shop', release: 'counterfoil' })),
      ...(await maps({}, { namespace: 'books', release: 'counterfoil' })),
    ];
    const doubles = (names: readonly string[]) => names.length - new Set(names).size;
    const boards = both.flatMap((map) => [...dashboardsOf([map]).values()]);
    const files = both.flatMap(({ data }) => Object.keys(data));
    expect([boards.length, files.length]).toEqual([10, 10]);
    expect(doubles(boards.map(({ uid }) => uid))).toBe(0);
    expect(doubles(boards.map(({ title }) => title))).toBe(0);
    expect(doubles(files)).toBe(0);
    // Grafana takes no uid above 40 characters.
    expect(boards.filter(({ uid }) => uid.length > 40)).toEqual([]);

    const elsewhere = { grafanaDashboards: { namespace: 'grafana' } };
    const names = [
      ...(await maps(elsewhere, { namespace: 'shop', release: 'counterfoil' })),
      ...(await maps(elsewhere, { namespace: 'books', release: 'counterfoil' })),
    ].map(({ metadata }) => `${metadata.namespace} ${metadata.name}`);
    expect(doubles(names)).toBe(0);
    expect(names).toContain('grafana shop-counterfoil-grafana-on-call');
    expect(doubles([...names, names[0] ?? ''])).toBe(1);
  });

  test('have names of at most 63 characters under the longest that an installation may have', async () => {
    const longest = { installation: 'i'.repeat(40), grafanaDashboards: { namespace: 'grafana' } };
    const names = (await maps(longest, { namespace: 'n'.repeat(63) })).map(({ metadata }) => metadata.name);
    expect(names.length).toBe(5);
    expect(names.filter((name) => name.length > 63)).toEqual([]);
    expect(new Set(names).size).toBe(5);
  });

  test('are where the links of the alerts lead, and those that are imported by hand are, too', async () => {
    for (const enabled of [true, false]) {
      const rendered = await render([required, { grafanaDashboards: { enabled } }]);
      const linked = new Set(
        rulesOf(renderedGroups(rendered)).flatMap(
          ({ annotations }) =>
            /^https:\/\/grafana\.example\/d\/([^?]*)\?/.exec(annotations?.dashboard_url ?? '')?.[1] ?? [],
        ),
      );
      const there = enabled ? dashboardsOf(await maps()) : built;
      const uids = [...there.values()].map(({ uid }) => uid);
      expect(linked.size).toBe(5);
      expect([...linked].sort()).toEqual(uids.sort());
    }
  });

  test('are found by the label of the sidecar, and have labels and annotations of yours', async () => {
    for (const { metadata } of await maps())
      expect(metadata.labels).toMatchObject({ grafana_dashboard: '1' });
    const found = await maps({
      grafanaDashboards: {
        label: 'boards',
        labelValue: 'yes',
        labels: { team: 'payments' },
        annotations: { grafana_folder: 'Payments' },
      },
    });
    for (const { metadata } of found) {
      expect(metadata.labels).toMatchObject({ boards: 'yes', team: 'payments' });
      expect(metadata.labels).not.toHaveProperty('grafana_dashboard');
      expect(metadata.annotations).toEqual({ grafana_folder: 'Payments' });
    }
  });

  test('are not there without the exporter, whose series they show, nor where they are switched off', async () => {
    expect(await maps({ exporter: { enabled: false } })).toEqual([]);
    expect(await maps({ grafanaDashboards: { enabled: false } })).toEqual([]);
  });
});
