/** The inhibition rules as the Prometheus Operator takes them: held against the definition that a real API server has. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { parse } from 'yaml';
import { Namespace } from './cluster.ts';

const file = fileURLToPath(new URL('../../alerts/inhibition.alertmanagerconfig.yaml', import.meta.url));

interface Config {
  metadata: { name: string; namespace?: string };
  spec: { inhibitRules: { sourceMatch: { matchType: string }[] }[] };
}

let namespace: Namespace;
beforeAll(async () => {
  namespace = await Namespace.create();
});
afterAll(async () => {
  await namespace?.remove();
});

/** In the namespace of this test instead of the one that the chart replaces. */
function shipped(): Config {
  const config = parse(readFileSync(file, 'utf8')) as Config;
  config.metadata.namespace = namespace.name;
  return config;
}

test('the API server takes the AlertmanagerConfig with every rule in it', async () => {
  const config = shipped();
  await namespace.apply(config);
  const { spec } = await namespace.get<Config>('alertmanagerconfig', config.metadata.name);
  expect(spec).toEqual(config.spec);
  expect(spec.inhibitRules.length).toBeGreaterThan(3);
});

test('and refuses one with a matcher of no known type', async () => {
  const config = shipped();
  for (const { sourceMatch } of config.spec.inhibitRules.slice(0, 1))
    for (const matcher of sourceMatch) matcher.matchType = 'resembles';
  await expect(namespace.apply(config)).rejects.toThrow('matchType');
});
