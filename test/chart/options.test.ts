/** What every pod may be given: image, place, labels; and objects of one's own. */
import { describe, expect, inject, test } from 'vitest';
import { podsOf } from './pods.ts';
import { type Layers, render, renderFails, required } from './render.ts';

const specs = async (values: object) =>
  podsOf(await render([required, values] as Layers)).map(({ owner, spec }) => ({ owner, spec }));
const images = async (image: object) => [
  ...new Set((await specs({ image })).map(({ spec }) => spec.containers[0].image)),
];

describe.skipIf(inject('chartTools') === undefined)('every pod', () => {
  test('has the image of the chart’s own version, the tag of the values, or before both their digest', async () => {
    expect(await images({})).toEqual(['counterfoil/jobs:0.1.0']);
    expect(await images({ repository: 'registry.example.org/jobs', tag: '0.1.1' })).toEqual([
      'registry.example.org/jobs:0.1.1',
    ]);
    const digest = `sha256:${'a'.repeat(64)}`;
    expect(await images({ tag: '0.1.1', digest })).toEqual([`counterfoil/jobs@${digest}`]);
  });

  test('does not take a digest that is none', async () => {
    expect(await renderFails([required, { image: { digest: 'sha256:abc' } }])).toContain('/image/digest');
  });

  test('stands where the values say', async () => {
    const pod = {
      nodeSelector: { pool: 'net' },
      tolerations: [{ key: 'net', operator: 'Exists' }],
      affinity: { podAntiAffinity: {} },
      priorityClassName: 'high',
    };
    for (const { owner, spec } of await specs({
      pod,
      image: { pullSecrets: ['pull'], pullPolicy: 'Always' },
    })) {
      expect(spec, owner).toMatchObject({ ...pod, imagePullSecrets: [{ name: 'pull' }] });
      expect(spec.containers[0].imagePullPolicy).toBe('Always');
    }
  });

  test('stands anywhere where they say nothing', async () => {
    for (const { owner, spec } of await specs({}))
      for (const name of ['nodeSelector', 'tolerations', 'affinity', 'priorityClassName', 'imagePullSecrets'])
        expect(Object.keys(spec), owner).not.toContain(name);
  });

  test('has the resources of its job, and the others keep theirs', async () => {
    const resources = { requests: { cpu: '1' }, limits: { memory: '1Gi' } };
    const found = await specs({ jobs: { eventReplay: { overrides: { resources } } } });
    const of = (name: string) =>
      found.find(({ owner }) => owner === `CronJob guard-counterfoil-${name}`)?.spec.containers[0].resources;
    expect(of('event-replay')).toEqual(resources);
    expect(of('billing-reconciliation-tail')).toEqual({
      requests: { cpu: '20m', memory: '96Mi' },
      limits: { memory: '256Mi' },
    });
  });
});

describe.skipIf(inject('chartTools') === undefined)('the exporter', () => {
  const name = 'guard-counterfoil-exporter';

  test('keeps its heap small, and is asked for its health at its port', async () => {
    const [container] = (await render([required, { exporter: { port: 9999 } }])).get('Deployment', name).spec
      .template.spec.containers;
    expect(container.args).toEqual([
      '--max-semi-space-size=1',
      '--max-old-space-size=96',
      'jobs/exporter/main.ts',
    ]);
    expect(container.ports).toEqual([{ name: 'http', containerPort: 9999 }]);
    expect(container.livenessProbe.httpGet).toEqual({ path: '/health/live', port: 'http' });
    expect(container.readinessProbe.httpGet).toEqual({ path: '/health/ready', port: 'http' });
  });

  test('has a Service that finds it, at the port by which it is asked', async () => {
    const rendered = await render([required, { exporter: { port: 9999 } }]);
    const { spec } = rendered.get('Service', name);
    expect(spec.ports).toEqual([{ name: 'http', port: 9999, targetPort: 'http' }]);
    const found = podsOf(rendered).filter(({ labels }) =>
      Object.entries(spec.selector as Record<string, string>).every(
        ([label, value]) => labels[label] === value,
      ),
    );
    expect(found.map(({ owner }) => owner)).toEqual([`Deployment ${name}`]);
  });

  test('keeps one of two pods while nodes are emptied; of one it does not hold up anybody', async () => {
    expect((await render(required)).all('PodDisruptionBudget')).toEqual([]);
    const budget = (await render([required, { exporter: { replicas: 2 } }])).get('PodDisruptionBudget', name);
    expect(budget.spec.maxUnavailable).toBe(1);
  });

  test('is not there where it is off, and neither is anything that asks it', async () => {
    const rendered = await render([required, { exporter: { enabled: false } }]);
    expect(rendered.objects.filter(({ metadata }) => metadata.name.includes('exporter'))).toEqual([]);
    expect(rendered.all('PrometheusRule')).toEqual([]);
  });
});

describe.skipIf(inject('chartTools') === undefined)('objects of one’s own', () => {
  test('are maps or texts, both with values filled in', async () => {
    const one = {
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: '{{ .Release.Name }}-one' },
      data: { service: '{{ .Values.service.name }}' },
    };
    const two =
      'apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: two\ndata:\n  schema: {{ .Values.database.schema }}\n';
    const rendered = await render([required, { extraObjects: [one, two] }]);
    expect(rendered.get('ConfigMap', 'guard-one').data).toEqual({ service: 'billing' });
    expect(rendered.get('ConfigMap', 'two').data).toEqual({ schema: 'counterfoil' });
  });
});

describe.skipIf(inject('chartTools') === undefined)('the name of an installation', () => {
  test.each(['9shop', 'shop.north', 'Shop', '-shop', 'a'.repeat(41)])(
    'is refused where no Service could be named by it: %s',
    async (installation) => {
      expect(await renderFails([required, { installation }])).toContain("at '/installation'");
    },
  );

  test('is taken where each object can be named by it, at its longest too', async () => {
    const rendered = await render([required, { installation: `a${'9'.repeat(39)}` }]);
    for (const { kind, metadata } of rendered.objects)
      if (['Service', 'Deployment', 'Job'].includes(kind))
        expect(metadata.name, kind).toMatch(/^[a-z][a-z0-9-]{0,62}$/);
  });
});

describe.skipIf(inject('chartTools') === undefined)('two releases in one namespace', () => {
  test('share no name of an object', async () => {
    const names = async (release: string, values: object) =>
      (await render([required, values] as Layers, { release })).objects.map(
        ({ kind, metadata }) => `${kind} ${metadata.name}`,
      );
    const first = await names('orders', {});
    const second = await names('invoices', { prometheusRule: { shared: true } });
    expect(first.length).toBeGreaterThan(40);
    expect(first.filter((name) => second.includes(name))).toEqual([]);
    // The same release again would share all of them.
    expect((await names('orders', {})).filter((name) => first.includes(name))).toHaveLength(first.length);
  });

  test('find their own pods alone', async () => {
    const pods = podsOf(await render(required, { release: 'orders' }));
    for (const policy of (await render(required, { release: 'invoices' })).all('NetworkPolicy'))
      for (const { labels } of pods)
        expect(
          Object.entries(policy.spec.podSelector.matchLabels as Record<string, string>).every(
            ([label, value]) => labels[label] === value,
          ),
        ).toBe(false);
  });
});
