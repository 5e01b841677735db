/** What the components may do on the API server: the exporter what its own file says, all others nothing. */
import { readFileSync } from 'node:fs';
import { describe, expect, inject, test } from 'vitest';
import { parseAllDocuments } from 'yaml';
import { problemsOf } from '../repo/roles.ts';
import { podsOf } from './pods.ts';
import { type Layers, type Rendered, render, required } from './render.ts';
import { everything, guarded } from './values-of-jobs.ts';

const rbac = parseAllDocuments(
  readFileSync(new URL('../../jobs/exporter/rbac.yaml', import.meta.url), 'utf8'),
).map((document) => document.toJS() as { kind: string; rules: object[] });
const rulesOfTheExporter = rbac.find(({ kind }) => kind === 'Role')?.rules;

const canary: Layers = [required, guarded];
const withToken = (rendered: Rendered) =>
  podsOf(rendered)
    .filter(({ spec }) => spec.automountServiceAccountToken)
    .map(({ owner }) => owner);

describe.skipIf(inject('chartTools') === undefined)('rights on the API server', () => {
  test('of the exporter are exactly those that it has a file of, where it watches a Rollout', async () => {
    const rendered = await render(canary);
    const name = 'guard-counterfoil-exporter';
    expect(rulesOfTheExporter?.length).toBeGreaterThan(3);
    expect(rendered.get('Role', name).rules).toEqual(rulesOfTheExporter);
    const binding = rendered.get('RoleBinding', name);
    expect(binding.roleRef).toEqual({ apiGroup: 'rbac.authorization.k8s.io', kind: 'Role', name });
    expect(binding.subjects).toEqual([{ kind: 'ServiceAccount', name, namespace: 'shop' }]);
    expect(rendered.get('Deployment', name).spec.template.spec.serviceAccountName).toBe(name);
  });

  test('are nobody else’s, and nobody else gets a token', async () => {
    const rendered = await render(canary);
    expect(rendered.all('Role')).toHaveLength(1);
    expect(rendered.all('RoleBinding')).toHaveLength(1);
    expect(rendered.all('ClusterRole')).toEqual([]);
    expect(rendered.all('ClusterRoleBinding')).toEqual([]);
    expect(withToken(rendered)).toEqual(['Deployment guard-counterfoil-exporter']);
  });

  test('are not there at all without a Rollout, and neither is a token', async () => {
    for (const values of [required, everything]) {
      const rendered = await render(values);
      expect(rendered.objects.filter(({ kind }) => kind.includes('Role'))).toEqual([]);
      expect(withToken(rendered)).toEqual([]);
    }
  });

  test('never suffice to make, change or remove anything that runs', async () => {
    const roles = (await render(canary)).all('Role');
    expect(roles.flatMap((role) => problemsOf(role.metadata.name, role))).toEqual([]);
    // The same look at a right too many.
    const [role] = roles;
    const tooMuch = {
      ...role,
      rules: [
        ...(role?.rules ?? []),
        { apiGroups: ['apps'], resources: ['deployments/scale'], verbs: ['patch'] },
      ],
    };
    expect(problemsOf('x', tooMuch)).toEqual(['x: guard-counterfoil-exporter may patch deployments/scale']);
  });

  test('let the exporter reach the API server, and where there are none it cannot', async () => {
    const reaches = async (values: Layers) =>
      (
        (await render(values)).get('NetworkPolicy', 'guard-counterfoil-exporter').spec.egress as {
          ports: { port: number }[];
        }[]
      ).some((rule) => rule.ports.some(({ port }) => port === 6443));
    expect(await reaches(canary)).toBe(true);
    expect(await reaches(required)).toBe(false);
  });
});
