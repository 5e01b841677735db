/**
 * A pod of the chart as a container of Docker: its image, command, environment, files, user, rights and limits, as they
 * were rendered. Only what a cluster would look up elsewhere is filled in. What is not known here is refused: a line that
 * the chart gets one day must not be left out in silence.
 */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { GenericContainer, type WaitStrategy } from 'testcontainers';
import { environmentOf, type PodSpec } from '../chart/pods.ts';
import type { Rendered } from '../chart/render.ts';

/** By name and key. */
export type Secrets = Readonly<Record<string, Readonly<Record<string, string>>>>;

export interface PodOptions {
  readonly rendered: Rendered;
  readonly secrets: Secrets;
  /** What Argo Rollouts fills in for `{{args.…}}`. */
  readonly arguments?: Readonly<Record<string, string>>;
  /** The Job that it is an attempt of; one of its own unless given. */
  readonly job?: string;
  /** Another limit than the chart's, to see what comes of one that is too small. */
  readonly memoryBytes?: number;
}

/** A scheduler's own business: nothing of it is felt inside a container. */
const schedulers = [
  ...['serviceAccountName', 'automountServiceAccountToken', 'enableServiceLinks', 'restartPolicy'],
  ...['activeDeadlineSeconds', 'terminationGracePeriodSeconds', 'securityContext', 'containers', 'volumes'],
  'affinity',
];
const ofContainer = [
  ...['name', 'image', 'imagePullPolicy', 'command', 'args', 'env', 'resources', 'securityContext'],
  ...['volumeMounts', 'ports', 'livenessProbe', 'readinessProbe', 'startupProbe'],
];

function onlyKnown(what: string, object: object, known: readonly string[]): void {
  const others = Object.keys(object).filter((key) => !known.includes(key));
  if (others.length > 0)
    throw new Error(`${what} has ${others.join(', ')}: a container here is not given it`);
}

const NAME = 'field/metadata.name';
const JOB = "field/metadata.labels['batch.kubernetes.io/job-name']";

const units: Readonly<Record<string, number>> = { Ki: 1024, Mi: 1024 ** 2, Gi: 1024 ** 3 };

function bytesOf(quantity: string): number {
  const [, number = '', unit = ''] = /^(\d+)(Ki|Mi|Gi)$/.exec(quantity) ?? [];
  const factor = units[unit];
  if (factor === undefined) throw new Error(`${quantity} is no quantity that is known here`);
  return Number(number) * factor;
}

const begun: WaitStrategy = {
  async waitUntilReady() {},
  withStartupTimeout: () => begun,
  isStartupTimeoutSet: () => true,
  getStartupTimeout: () => 0,
};

export class PodContainer extends GenericContainer {
  constructor(spec: PodSpec, options: PodOptions) {
    const { rendered, secrets, memoryBytes } = options;
    const [container] = spec.containers;
    super(container.image);
    onlyKnown('the pod', spec, schedulers);
    onlyKnown('the container', container, ofContainer);
    this.#confine(spec, container);
    const limit = memoryBytes ?? bytesOf(container.resources.limits.memory);
    onlyKnown('the limits', container.resources.limits, ['memory']);
    // No swap beside it, as on a node.
    Object.assign(this.hostConfig, { Memory: limit, MemorySwap: limit });
    const name = `${container.name}-${Math.random().toString(36).slice(2, 8)}`;
    this.withName(name)
      .withEntrypoint(container.command)
      .withCommand(container.args)
      .withEnvironment(this.#told(spec, name, options))
      .withBindMounts(this.#files(spec, container, rendered, secrets))
      // It may be over before anybody looks.
      .withWaitStrategy(begun);
  }

  #confine(spec: PodSpec, container: PodSpec): void {
    const { runAsUser, runAsGroup, runAsNonRoot, ...pod } = spec.securityContext;
    onlyKnown('the security context of the pod', pod, ['seccompProfile']);
    const { capabilities, ...own } = container.securityContext;
    onlyKnown('the security context', own, ['allowPrivilegeEscalation', 'readOnlyRootFilesystem']);
    onlyKnown('the capabilities', capabilities, ['drop']);
    // Docker's own profile of system calls is the runtime's default, and is on unless switched off.
    if (pod.seccompProfile.type !== 'RuntimeDefault')
      throw new Error('the pod has another profile of system calls');
    if (runAsNonRoot && !(runAsUser > 0)) throw new Error('the pod has no user by number');
    this.withUser(`${runAsUser}:${runAsGroup}`).withDroppedCapabilities(...capabilities.drop);
    if (own.allowPrivilegeEscalation === false) this.withSecurityOpt('no-new-privileges');
    this.hostConfig.ReadonlyRootfs = own.readOnlyRootFilesystem;
  }

  #told(spec: PodSpec, name: string, options: PodOptions): Record<string, string> {
    const { secrets, arguments: given = {}, job = name } = options;
    return Object.fromEntries(
      Object.entries(environmentOf(spec)).map(([variable, value]) => {
        const [kind, from = '', key = ''] = value.split('/');
        if (kind === 'secret') return [variable, secretOf(secrets, from, key)];
        if (value === NAME) return [variable, name];
        if (value === JOB) return [variable, job];
        if (kind === 'field') throw new Error(`${variable} comes from ${value}, which nobody knows here`);
        const argument = /^\{\{args\.([\w-]+)\}\}$/.exec(value)?.[1];
        if (argument === undefined) return [variable, value];
        if (given[argument] === undefined) throw new Error(`${variable} needs the argument ${argument}`);
        return [variable, given[argument]];
      }),
    );
  }

  /** Volumes, as folders of this machine. */
  #files(spec: PodSpec, container: PodSpec, rendered: Rendered, secrets: Secrets) {
    return (container.volumeMounts ?? []).map(
      ({ name, mountPath, readOnly }: { name: string; mountPath: string; readOnly: boolean }) => {
        const { configMap, secret } = spec.volumes.find((volume: { name: string }) => volume.name === name);
        const files: Record<string, string> =
          configMap === undefined
            ? Object.fromEntries(
                secret.items.map((item: { key: string; path: string }) => [
                  item.path,
                  secretOf(secrets, secret.secretName, item.key),
                ]),
              )
            : rendered.get('ConfigMap', configMap.name).data;
        const source = mkdtempSync(join(volumes(), `${name}-`));
        chmodSync(source, 0o755); // as a volume is, for a user who is not root
        for (const [file, text] of Object.entries(files)) writeFileSync(join(source, file), text);
        return { source, target: mountPath, mode: readOnly ? 'ro' : 'rw' };
      },
    );
  }
}

let folder: string | undefined;
function volumes(): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), 'counterfoil-volumes-'));
    chmodSync(made, 0o755);
    process.once('exit', () => rmSync(made, { recursive: true, force: true }));
    folder = made;
  }
  return folder;
}

/** @throws Error that names what nobody has made, as a pod would wait for it for ever */
function secretOf(secrets: Secrets, name: string, key: string): string {
  const value = secrets[name]?.[key];
  if (value === undefined) throw new Error(`no Secret ${name} with the key ${key}`);
  return value;
}
