/** The examples of the chart: each is sound, and what it renders is committed, so that a change of it is seen. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, inject, test } from 'vitest';
import { stringify } from 'yaml';
import { promtool } from '../alerts/promtool.ts';
import { examples, forReaders, installed } from './examples.ts';
import { schemaProblems } from './kubeconform.ts';
import { lint, render } from './render.ts';

const tools = inject('chartTools');
const schemas = inject('chartSchemas');
const folder = await mkdtemp(join(tmpdir(), 'counterfoil-examples-'));
afterAll(() => rm(folder, { recursive: true, force: true }));

test('there is one to begin with, one for staging, one for production, one for GitOps', () => {
  expect(examples.map(({ name }) => name)).toEqual(['gitops', 'minimal', 'production', 'staging']);
});

describe.skipIf(tools === undefined)('the example', () => {
  describe.each(examples)('$name', ({ name, file, rendered }) => {
    test('renders what is committed', async () => {
      await expect(forReaders((await render(file, installed)).text)).toMatchFileSnapshot(rendered);
    });

    test('leaves helm lint --strict nothing to say', async () => {
      expect(await lint(file, installed)).toBe('');
    });

    test('renders the same objects with Helm 3', async () => {
      // Helm 3 as Go builds it knows of no Kubernetes newer than 1.20.
      const options = { ...installed, kubeVersion: '1.34.4' };
      const { objects } = await render(file, options);
      expect((await render(file, { ...options, helm: 'helm3' })).objects).toEqual(objects);
    });

    test('renders the same for the oldest Kubernetes and the newest, and nothing for one that is too old', async () => {
      const text = async (kubeVersion: string) => (await render(file, { ...installed, kubeVersion })).text;
      expect(await text('1.31.0')).toBe(await text('1.34.4'));
      await expect(text('1.30.9')).rejects.toThrow('1.30.9');
    });

    test('has rules that promtool takes', async () => {
      const files = await Promise.all(
        (await render(file, installed)).all('PrometheusRule').map(async ({ metadata, spec }) => {
          const place = join(folder, `${name}-${metadata.name}.yaml`);
          await writeFile(place, stringify(spec, { aliasDuplicateObjects: false }));
          return place;
        }),
      );
      expect(files.length).toBeGreaterThan(5);
      const { passed, output } = await promtool(
        tools?.promtool ?? '',
        'check',
        'rules',
        '--lint-fatal',
        ...files,
      );
      expect([passed, output]).toEqual([true, expect.stringContaining('SUCCESS')]);
    });
  });

  test('with another value renders something else than is committed', async () => {
    for (const { file } of examples) {
      const text = forReaders((await render(file, installed)).text);
      const other = await render([file, { service: { eventsTable: 'events' } }], installed);
      expect(forReaders(other.text)).not.toBe(text);
    }
  });
});

describe.skipIf(tools === undefined || schemas === undefined)('every Kubernetes', () => {
  test('takes what the examples render', async () => {
    const manifests: Record<string, string> = {};
    for (const { name, file } of examples) manifests[name] = (await render(file, installed)).text;
    if (tools === undefined || schemas === undefined) throw new Error('the tools are missing');
    expect(await schemaProblems(tools.kubeconform, schemas, manifests)).toEqual([]);
  });
});
