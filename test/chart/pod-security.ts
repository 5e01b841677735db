/**
 * The Pod Security Standard "restricted", as https://kubernetes.io/docs/concepts/security/pod-security-standards has it for
 * Linux, and what we hold beyond it. One sentence for each rule that a pod breaks.
 */
import type { PodSpec } from './pods.ts';

interface Rule {
  readonly sentence: string;
  /** A container is looked at with its pod, whose security context holds for it too. */
  readonly holds: (pod: PodSpec, container: PodSpec) => boolean;
}

const volumeTypes = new Set([
  'configMap',
  'csi',
  'downwardAPI',
  'emptyDir',
  'ephemeral',
  'persistentVolumeClaim',
  'projected',
  'secret',
]);
const safeSysctls = new Set([
  'kernel.shm_rmid_forced',
  'net.ipv4.ip_local_port_range',
  'net.ipv4.ip_unprivileged_port_start',
  'net.ipv4.tcp_syncookies',
  'net.ipv4.ping_group_range',
  'net.ipv4.ip_local_reserved_ports',
  'net.ipv4.tcp_keepalive_time',
  'net.ipv4.tcp_fin_timeout',
  'net.ipv4.tcp_keepalive_intvl',
  'net.ipv4.tcp_keepalive_probes',
]);
const both = (pod: PodSpec, container: PodSpec, field: string): unknown[] =>
  [pod.securityContext?.[field], container.securityContext?.[field]].filter((value) => value !== undefined);

export const restricted: Readonly<Record<string, Rule>> = {
  hostProcess: {
    sentence: 'runs as a process of a Windows host',
    holds: (pod, container) =>
      both(pod, container, 'windowsOptions').every((options) => !(options as PodSpec).hostProcess),
  },
  hostNamespaces: {
    sentence: 'shares a namespace of the host',
    holds: (pod) => !pod.hostNetwork && !pod.hostPID && !pod.hostIPC,
  },
  privileged: {
    sentence: 'is privileged',
    holds: (_, container) => !container.securityContext?.privileged,
  },
  capabilities: {
    sentence: 'does not drop all capabilities, or adds one',
    holds: (_, container) => {
      const { add = [], drop = [] } = container.securityContext?.capabilities ?? {};
      return drop.includes('ALL') && add.every((name: string) => name === 'NET_BIND_SERVICE');
    },
  },
  hostPorts: {
    sentence: 'takes a port of the host',
    holds: (_, container) => (container.ports ?? []).every((port: PodSpec) => !port.hostPort),
  },
  appArmor: {
    sentence: 'is unconfined by AppArmor',
    holds: (pod, container) =>
      both(pod, container, 'appArmorProfile').every((profile) =>
        ['RuntimeDefault', 'Localhost'].includes((profile as PodSpec).type),
      ),
  },
  seLinux: {
    sentence: 'has a user, role or type of SELinux of its own',
    holds: (pod, container) =>
      both(pod, container, 'seLinuxOptions').every((given) => {
        const { type = '', user = '', role = '' } = given as PodSpec;
        return (
          ['', 'container_t', 'container_init_t', 'container_kvm_t', 'container_engine_t'].includes(type) &&
          user === '' &&
          role === ''
        );
      }),
  },
  procMount: {
    sentence: 'sees an unmasked /proc',
    holds: (_, container) => (container.securityContext?.procMount ?? 'Default') === 'Default',
  },
  sysctls: {
    sentence: 'sets an unsafe sysctl',
    holds: (pod) =>
      (pod.securityContext?.sysctls ?? []).every((sysctl: PodSpec) => safeSysctls.has(sysctl.name)),
  },
  hostProbes: {
    sentence: 'has a probe with an address of its own',
    holds: (_, { livenessProbe, readinessProbe, startupProbe, lifecycle }) =>
      [livenessProbe, readinessProbe, startupProbe, lifecycle?.postStart, lifecycle?.preStop].every(
        (probe) => !probe?.httpGet?.host && !probe?.tcpSocket?.host,
      ),
  },
  volumes: {
    sentence: 'mounts a kind of volume that is not allowed',
    holds: (pod) =>
      (pod.volumes ?? []).every((volume: PodSpec) =>
        Object.keys(volume).every((key) => key === 'name' || volumeTypes.has(key)),
      ),
  },
  escalation: {
    sentence: 'may escalate its privileges',
    holds: (_, container) => container.securityContext?.allowPrivilegeEscalation === false,
  },
  nonRoot: {
    sentence: 'may run as root',
    holds: (pod, container) =>
      (container.securityContext?.runAsNonRoot ?? pod.securityContext?.runAsNonRoot) === true,
  },
  user: {
    sentence: 'runs as the user 0',
    holds: (pod, container) => both(pod, container, 'runAsUser').every((user) => user !== 0),
  },
  seccomp: {
    sentence: 'has no seccomp profile',
    holds: (pod, container) => {
      const profile = container.securityContext?.seccompProfile ?? pod.securityContext?.seccompProfile;
      return ['RuntimeDefault', 'Localhost'].includes(profile?.type);
    },
  },
};

export const beyond: Readonly<Record<string, Rule>> = {
  readOnly: {
    sentence: 'may write to its root',
    holds: (_, container) => container.securityContext?.readOnlyRootFilesystem === true,
  },
  serviceLinks: {
    sentence: 'gets variables of Services into its environment',
    holds: (pod) => pod.enableServiceLinks === false,
  },
  tokenSaid: {
    sentence: 'does not say whether it gets a token',
    holds: (pod) => typeof pod.automountServiceAccountToken === 'boolean',
  },
  memory: {
    sentence: 'has no limit of memory',
    holds: (_, container) => container.resources?.limits?.memory !== undefined,
  },
};

export const podProblems = (pod: PodSpec): string[] =>
  [...pod.containers, ...(pod.initContainers ?? []), ...(pod.ephemeralContainers ?? [])].flatMap(
    (container: PodSpec) =>
      Object.values({ ...restricted, ...beyond })
        .filter(({ holds }) => !holds(pod, container))
        .map(({ sentence }) => `${container.name} ${sentence}`),
  );
