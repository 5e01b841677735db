/** That a container here is confined as a pod of the chart is, and that nothing the chart says is left out in silence. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type PodSpec, podsOf } from '../chart/pods.ts';
import { renderInstallation } from './chart.ts';
import { hurried } from './hurried.ts';
import { PodContainer } from './pod-container.ts';
import { Shop } from './shop.ts';

describe('the exporter', () => {
  let shop: Shop;
  beforeAll(async () => {
    shop = await Shop.installed({ values: hurried });
  });
  afterAll(async () => {
    await shop?.close();
  });

  test('runs as a user who is not root, with nothing to write to, no capability and the limit of memory', async () => {
    const exporter = await shop.start('Deployment', 'exporter');
    expect(await exporter.confinement()).toMatchObject({
      user: '1000:1000',
      readOnly: true,
      dropped: ['ALL'],
      options: ['no-new-privileges'],
      memory: 256 * 1024 ** 2,
    });
    const told = await exporter.exec(
      ...['sh', '-c'],
      'id -u; touch /tmp/x /app/x /etc/counterfoil/checks/x; head -1 /etc/counterfoil/checks/checks.yaml; grep -i capeff /proc/1/status',
    );
    expect(told.output).toMatch(/^1000$/m);
    expect(told.output.match(/Read-only file system/g)).toHaveLength(3);
    expect(told.output).toContain('checks:');
    expect(told.output).toMatch(/CapEff:\s+0+$/m);
  });
});

describe('a pod that says what a container here is not given is refused', () => {
  let good: PodSpec;
  let make: (change: (pod: PodSpec, container: PodSpec) => void) => PodContainer;
  beforeAll(async () => {
    const rendered = await renderInstallation(hurried);
    good = podsOf(rendered).find(({ owner }) => owner.endsWith('event-replay'))?.spec;
    make = (change) => {
      const pod = structuredClone(good);
      change(pod, pod.containers[0]);
      const secrets = { 'billing-database': { 'jobs-url': 'a' }, 'billing-token': { token: 'b' } };
      return new PodContainer(pod, { rendered, secrets });
    };
  });

  test('but not as the chart renders it', () => {
    expect(make(() => undefined)).toBeInstanceOf(PodContainer);
  });

  const changes: Readonly<Record<string, (pod: PodSpec, container: PodSpec) => void>> = {
    hostNetwork: (pod) => {
      pod.hostNetwork = true;
    },
    initContainers: (pod) => {
      pod.initContainers = [];
    },
    fsGroup: (pod) => {
      pod.securityContext.fsGroup = 1;
    },
    'no user by number': (pod) => {
      delete pod.securityContext.runAsUser;
    },
    'another profile': (pod) => {
      pod.securityContext.seccompProfile = { type: 'Unconfined' };
    },
    envFrom: (_, container) => {
      container.envFrom = [];
    },
    privileged: (_, container) => {
      container.securityContext.privileged = true;
    },
    add: (_, container) => {
      container.securityContext.capabilities.add = ['SYS_TIME'];
    },
    cpu: (_, container) => {
      container.resources.limits.cpu = '1';
    },
    'no Secret other': (_, container) => {
      container.env.push({ name: 'X', valueFrom: { secretKeyRef: { name: 'other', key: 'a' } } });
    },
    'field/status.podIP': (_, container) => {
      container.env.push({ name: 'X', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } });
    },
  };
  test.each(Object.entries(changes))('%s', (what, change) => {
    expect(() => make(change)).toThrow(what);
  });
});
