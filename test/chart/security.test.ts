/** What the pods may do on their node, whom they may talk to, and which Secrets they get. */
import { readFileSync } from 'node:fs';
import { describe, expect, inject, test } from 'vitest';
import { parse } from 'yaml';
import { beyond, podProblems, restricted } from './pod-security.ts';
import { environmentOf, type PodSpec, podsOf } from './pods.ts';
import {
  chartFolder,
  type KubernetesObject,
  type Layers,
  type Rendered,
  render,
  required,
} from './render.ts';
import { everything, guarded } from './values-of-jobs.ts';

const good = (): PodSpec => ({
  automountServiceAccountToken: false,
  enableServiceLinks: false,
  securityContext: { runAsNonRoot: true, runAsUser: 1000, seccompProfile: { type: 'RuntimeDefault' } },
  containers: [
    {
      name: 'one',
      securityContext: {
        allowPrivilegeEscalation: false,
        readOnlyRootFilesystem: true,
        capabilities: { drop: ['ALL'] },
      },
      resources: { limits: { memory: '1Mi' } },
    },
  ],
});

describe('the standard "restricted"', () => {
  test('finds nothing in a pod that keeps to it', () => {
    expect(podProblems(good())).toEqual([]);
  });

  const broken: Readonly<Record<string, (pod: PodSpec, container: PodSpec) => void>> = {
    hostProcess: (pod) => {
      pod.securityContext.windowsOptions = { hostProcess: true };
    },
    hostNamespaces: (pod) => {
      pod.hostPID = true;
    },
    privileged: (_, container) => {
      container.securityContext.privileged = true;
    },
    capabilities: (_, container) => {
      container.securityContext.capabilities.add = ['SYS_TIME'];
    },
    hostPorts: (_, container) => {
      container.ports = [{ containerPort: 80, hostPort: 80 }];
    },
    appArmor: (_, container) => {
      container.securityContext.appArmorProfile = { type: 'Unconfined' };
    },
    seLinux: (pod) => {
      pod.securityContext.seLinuxOptions = { type: 'spc_t' };
    },
    procMount: (_, container) => {
      container.securityContext.procMount = 'Unmasked';
    },
    sysctls: (pod) => {
      pod.securityContext.sysctls = [{ name: 'kernel.msgmax', value: '1' }];
    },
    hostProbes: (_, container) => {
      container.livenessProbe = { httpGet: { host: '169.254.169.254', port: 80 } };
    },
    volumes: (pod) => {
      pod.volumes = [{ name: 'node', hostPath: { path: '/' } }];
    },
    escalation: (_, container) => {
      delete container.securityContext.allowPrivilegeEscalation;
    },
    nonRoot: (_, container) => {
      container.securityContext.runAsNonRoot = false;
    },
    user: (_, container) => {
      container.securityContext.runAsUser = 0;
    },
    seccomp: (pod) => {
      delete pod.securityContext.seccompProfile;
    },
    readOnly: (_, container) => {
      delete container.securityContext.readOnlyRootFilesystem;
    },
    serviceLinks: (pod) => {
      delete pod.enableServiceLinks;
    },
    tokenSaid: (pod) => {
      delete pod.automountServiceAccountToken;
    },
    memory: (_, container) => {
      delete container.resources.limits;
    },
  };

  test.each(Object.entries({ ...restricted, ...beyond }))('knows of %s', (name, { sentence }) => {
    const pod = good();
    broken[name]?.(pod, pod.containers[0]);
    expect(podProblems(pod)).toEqual([`one ${sentence}`]);
  });

  test('looks at every container of a pod', () => {
    const pod = good();
    const [container] = pod.containers;
    pod.initContainers = [{ ...container, name: 'two', securityContext: {} }];
    expect(podProblems(pod)).toContain('two may escalate its privileges');
  });
});

describe.skipIf(inject('chartTools') === undefined)('every pod', () => {
  test.each<[string, Layers]>([
    ['three values', required],
    ['everything', everything],
    ['the Jobs of a canary’s gates', [required, guarded]],
    ['no user of its own', [required, { pod: { runAsUser: null } }]],
  ])('keeps to it, with %s', async (_, values) => {
    for (const { owner, spec } of podsOf(await render(values)))
      expect([owner, podProblems(spec)]).toEqual([owner, []]);
  });

  test('has a user only where the values name one', async () => {
    for (const [values, user] of [
      [[required, { pod: { runAsUser: null } }], undefined],
      [[required, { pod: { runAsUser: '' } }], undefined],
      [[required, { pod: { runAsUser: 1234 } }], 1234],
    ] as const)
      for (const { spec } of podsOf(await render(values))) expect(spec.securityContext.runAsUser).toBe(user);
  });

  test('has an account of this release', async () => {
    for (const values of [required, everything, [required, guarded]] satisfies Layers[]) {
      const rendered = await render(values);
      for (const { owner, spec } of podsOf(rendered))
        expect([owner, rendered.has('ServiceAccount', spec.serviceAccountName)]).toEqual([owner, true]);
    }
  });

  test('is found by its workload, by labels that no upgrade changes', async () => {
    for (const values of [required, everything])
      for (const { owner, labels, selector } of podsOf(await render(values))) {
        expect(labels, owner).toMatchObject(selector ?? {});
        expect(Object.keys(selector ?? {}), owner).not.toContain('helm.sh/chart');
        expect(Object.keys(selector ?? {}), owner).not.toContain('app.kubernetes.io/version');
      }
  });

  test('keeps its own labels where the values have others of the same name', async () => {
    const name = 'app.kubernetes.io/component';
    const rendered = await render([
      required,
      { commonLabels: { [name]: 'x', team: 'pay' }, pod: { labels: { [name]: 'y', tier: 'net' } } },
    ]);
    const deployment = rendered.get('Deployment', 'guard-counterfoil-exporter');
    expect(deployment.metadata.labels).toMatchObject({ [name]: 'exporter', team: 'pay' });
    expect(deployment.spec.template.metadata.labels).toMatchObject({
      [name]: 'exporter',
      team: 'pay',
      tier: 'net',
    });
  });
});

/** The Secrets that a rendering refers to, as `name/key`. */
function secretsOf(rendered: Rendered): string[] {
  const found = podsOf(rendered).flatMap(({ spec }) => [
    ...Object.values(environmentOf(spec))
      .filter((value) => value.startsWith('secret/'))
      .map((value) => value.slice('secret/'.length)),
    ...((spec.volumes ?? []) as PodSpec[])
      .filter(({ secret }) => secret !== undefined)
      .flatMap(({ secret }) => secret.items.map(({ key }: { key: string }) => `${secret.secretName}/${key}`)),
  ]);
  return [...new Set(found)].sort();
}

describe.skipIf(inject('chartTools') === undefined)('a Secret', () => {
  test('is one that the values name, by the key that they name', async () => {
    expect(secretsOf(await render(everything))).toEqual([
      'orders-ca/root.pem',
      'orders-database/a',
      'orders-database/b',
      'orders-database/c',
      'orders-database/d',
      'orders-public/public',
      'orders-token/bearer',
    ]);
    // A role that nothing uses needs no key.
    expect(secretsOf(await render(required))).toEqual([
      'billing-database/exporter-url',
      'billing-database/jobs-url',
      'billing-database/owner-url',
      'billing-token/token',
    ]);
  });

  test('is made by nobody here: the chart renders none', async () => {
    for (const values of [required, everything]) expect((await render(values)).all('Secret')).toEqual([]);
  });

  test('goes to those who need it: the owner to the migration, the token to replay', async () => {
    const users = (rendered: Rendered, secret: string) =>
      podsOf(rendered)
        .filter(({ spec }) => Object.values(environmentOf(spec)).includes(`secret/${secret}`))
        .map(({ owner }) => owner);
    const rendered = await render(everything);
    expect(users(rendered, 'orders-database/a').sort()).toEqual([
      'Job orders-schema',
      'Pod orders-test-database-owner',
    ]);
    expect(users(rendered, 'orders-token/bearer').sort()).toEqual([
      'CronJob orders-event-replay',
      'Pod orders-test-endpoint',
    ]);
    expect(users(rendered, 'orders-database/d').sort()).toEqual([
      'CronJob orders-backup-retention',
      'Pod orders-test-database-retention',
    ]);
  });
});

interface Port {
  readonly port: number | string;
  readonly protocol: string;
}
interface PolicyRule {
  readonly ports?: readonly Port[];
  readonly to?: readonly object[];
  readonly from?: readonly object[];
}
const ports = (rules: readonly PolicyRule[] = []) =>
  rules.flatMap((rule) => (rule.ports ?? []).map(({ port }) => port));
const selects = (policy: KubernetesObject, labels: Readonly<Record<string, string>>) =>
  Object.entries(policy.spec.podSelector.matchLabels as Record<string, string>).every(
    ([name, value]) => labels[name] === value,
  );

/** One sentence for each pod that has no policy or two, and each policy that leaves its pods without DNS. */
function policyProblems(rendered: Rendered): string[] {
  const policies = rendered.all('NetworkPolicy');
  const problems = podsOf(rendered).flatMap(({ owner, labels }) => {
    const found = policies.filter((policy) => selects(policy, labels)).length;
    return found === 1 ? [] : [`${owner} has ${found} policies`];
  });
  for (const { metadata, spec } of policies) {
    if (Object.keys(spec.podSelector.matchLabels ?? {}).length === 0)
      problems.push(`${metadata.name} selects every pod of the namespace`);
    if (!spec.policyTypes.includes('Egress') || !spec.policyTypes.includes('Ingress'))
      problems.push(`${metadata.name} leaves a direction open`);
    const dns = (spec.egress as PolicyRule[]).some(
      (rule) =>
        rule.to === undefined &&
        ['UDP', 'TCP'].every((protocol) =>
          rule.ports?.some((port) => port.port === 53 && port.protocol === protocol),
        ),
    );
    if (!dns) problems.push(`${metadata.name} leaves its pods without DNS`);
    if ((spec.egress as PolicyRule[]).some((rule) => rule.ports === undefined))
      problems.push(`${metadata.name} lets everything out`);
  }
  return problems;
}

describe.skipIf(inject('chartTools') === undefined)('a network policy', () => {
  test('stands for each pod, once, and never cuts it off from DNS', async () => {
    for (const values of [
      required,
      everything,
      [required, guarded],
      [required, { jobs: { eventReplay: { mode: 'deployment' }, schema: { mode: 'job' } } }],
    ] satisfies Layers[])
      expect(policyProblems(await render(values))).toEqual([]);
  });

  test('that is missing, cuts DNS off, selects all or lets all out would be noticed', async () => {
    const { text } = await render(required);
    const { Rendered } = await import('./render.ts');
    const without = (change: (policy: KubernetesObject) => object | undefined) =>
      policyProblems(
        new Rendered(
          new Rendered(text).objects
            .flatMap((object) =>
              object.kind === 'NetworkPolicy' && object.metadata.name === 'guard-counterfoil-exporter'
                ? (change(object) ?? [])
                : [object],
            )
            .map((object) => JSON.stringify(object))
            .join('\n---\n'),
        ),
      );
    expect(without((policy) => policy)).toEqual([]);
    expect(without(() => undefined)).toEqual(['Deployment guard-counterfoil-exporter has 0 policies']);
    const egress = (rules: object[]) => (policy: KubernetesObject) => ({
      ...policy,
      spec: { ...policy.spec, egress: rules },
    });
    expect(without(egress([]))).toEqual(['guard-counterfoil-exporter leaves its pods without DNS']);
    expect(without((policy) => egress([...policy.spec.egress, {}])(policy))).toEqual([
      'guard-counterfoil-exporter lets everything out',
    ]);
    expect(
      without((policy) => ({ ...policy, spec: { ...policy.spec, podSelector: { matchLabels: {} } } })),
    ).toContain('guard-counterfoil-exporter selects every pod of the namespace');
  });

  test('lets each component reach what it needs, and nothing else', async () => {
    const rendered = await render(everything);
    const reach = Object.fromEntries(
      rendered
        .all('NetworkPolicy')
        .map(({ metadata, spec }) => [
          metadata.name.replace('orders-', ''),
          [...new Set(ports(spec.egress))].filter((port) => port !== 53 && port !== 5353),
        ]),
    );
    const database = [5432, 6432];
    expect(reach).toEqual({
      schema: database,
      'billing-reconciliation': database,
      'event-replay': [...database, 'web'],
      'flow-probe': [...database, 'web'],
      'backup-retention': database,
      exporter: database,
      'test-database-exporter': database,
      'test-database-jobs': database,
      'test-database-owner': database,
      'test-database-retention': database,
      'test-endpoint': [...database, 'web'],
      'test-exporter': [...database, 9999],
      'test-prometheus': [...database, 9090],
    });
  });

  test('lets nobody ask anything but the exporter', async () => {
    for (const { metadata, spec } of (await render(required)).all('NetworkPolicy'))
      expect([metadata.name, ports(spec.ingress)]).toEqual([
        metadata.name,
        metadata.name === 'guard-counterfoil-exporter' ? ['http'] : [],
      ]);
  });

  test('narrows to the CIDRs and namespaces of the values', async () => {
    const rendered = await render([
      required,
      {
        networkPolicy: {
          databasePorts: [6543],
          databaseCidrs: ['10.1.0.0/16'],
          metricsNamespaces: [{ 'kubernetes.io/metadata.name': 'monitoring' }],
          extraEgress: [{ ports: [{ port: 4318, protocol: 'TCP' }] }],
        },
      },
    ]);
    const { spec } = rendered.get('NetworkPolicy', 'guard-counterfoil-exporter');
    expect(spec.egress).toContainEqual({
      ports: [{ port: 6543, protocol: 'TCP' }],
      to: [{ ipBlock: { cidr: '10.1.0.0/16' } }],
    });
    expect(ports(spec.egress)).toContain(4318);
    expect(spec.ingress[0].from).toEqual([
      { namespaceSelector: { matchLabels: { 'kubernetes.io/metadata.name': 'monitoring' } } },
      { podSelector: {} },
    ]);
  });

  test('never selects the pods of the service, and knows them by their labels', async () => {
    const rendered = await render(everything);
    for (const policy of rendered.all('NetworkPolicy'))
      expect(selects(policy, { app: 'orders' })).toBe(false);
    expect(rendered.get('NetworkPolicy', 'orders-event-replay').spec.egress).toContainEqual({
      ports: [{ port: 'web', protocol: 'TCP' }],
      to: [{ podSelector: { matchLabels: { app: 'orders' } } }],
    });
  });

  test('is not there where the values say so', async () => {
    const rendered = await render([required, { networkPolicy: { enabled: false } }]);
    expect(rendered.all('NetworkPolicy')).toEqual([]);
  });
});

test('no value of the chart is a password or a token', () => {
  const names: string[] = [];
  const collect = (value: unknown, path: string): void => {
    if (typeof value !== 'object' || value === null) return;
    for (const [name, inner] of Object.entries(value)) {
      if (/password|secret|token/i.test(name) && typeof inner === 'string') names.push(`${path}${name}`);
      collect(inner, `${path}${name}.`);
    }
  };
  collect(parse(readFileSync(`${chartFolder}/values.yaml`, 'utf8')), '');
  expect(names.length).toBeGreaterThan(3);
  expect(names.filter((name) => !name.endsWith('.existingSecret'))).toEqual([]);
});
