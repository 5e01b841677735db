/** Renders the chart with a real helm, and reads what it renders as objects. */
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { parseAllDocuments } from 'yaml';

export const chartFolder = fileURLToPath(new URL('../../charts/counterfoil', import.meta.url));

export type Values = Readonly<Record<string, unknown>>;

/** Paths of files and values as data, later ones over earlier ones. */
export type Layers = string | Values | readonly (string | Values)[];

export interface KubernetesObject {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  /** Whatever the kind has. */
  // biome-ignore lint/suspicious/noExplicitAny: a test reads the depths of any kind
  readonly [field: string]: any;
}

export interface RenderOptions {
  readonly chart?: string;
  readonly helm?: 'helm' | 'helm3';
  /** Neither release nor namespace is called `counterfoil`, the literal that templates have to replace. */
  readonly release?: string;
  readonly namespace?: string;
  readonly kubeVersion?: string;
  /** Of the cluster, such as `monitoring.coreos.com/v1`. */
  readonly apiVersions?: readonly string[];
  readonly isUpgrade?: boolean;
}

export class Rendered {
  readonly text: string;
  #objects: readonly KubernetesObject[] | undefined;

  constructor(text: string) {
    this.text = text;
  }

  /** Read when first asked for: some tests look at the text alone. */
  get objects(): readonly KubernetesObject[] {
    this.#objects ??= readObjects(this.text);
    return this.#objects;
  }

  all(kind: string): readonly KubernetesObject[] {
    return this.objects.filter((object) => object.kind === kind);
  }

  has(kind: string, name: string): boolean {
    return this.objects.some((object) => object.kind === kind && object.metadata.name === name);
  }

  /** @throws Error that lists what is there */
  get(kind: string, name: string): KubernetesObject {
    const found = this.objects.filter((object) => object.kind === kind && object.metadata.name === name);
    if (found.length !== 1 || found[0] === undefined)
      throw new Error(
        `${found.length} ${kind} ${name}; there are ${this.objects.map((o) => `${o.kind} ${o.metadata.name}`).join(', ')}`,
      );
    return found[0];
  }
}

/** The three values without which nothing is rendered. */
export const required = {
  service: { name: 'billing' },
  database: { existingSecret: 'billing-database' },
  token: { existingSecret: 'billing-token' },
} as const;

/** @throws Error with what helm says */
export async function render(values: Layers, options: RenderOptions = {}): Promise<Rendered> {
  const answer = await template(values, options);
  if (answer.failed) throw new Error(answer.text);
  return renderedOf(answer.text);
}

/** What helm says where it must not render: the sentence alone where a template refuses. */
export async function renderFails(values: Layers, options: RenderOptions = {}): Promise<string> {
  const answer = await template(values, options);
  if (!answer.failed) throw new Error('helm rendered what it has to refuse');
  return answer.text
    .trim()
    .replace(/^Error: /m, '')
    .replace(/^(?:INSTALLATION FAILED: )?execution error at \([^)]*\): /, '')
    .replace(/\n+Use --debug flag[^\n]*$/, '');
}

/** NOTES.txt as `helm install` prints it. */
export async function renderNotes(values: Layers, options: RenderOptions = {}): Promise<string> {
  const answer = await helm(['install', '--dry-run=client'], values, options);
  if (answer.failed) throw new Error(answer.text);
  return answer.text.slice(answer.text.indexOf('\nNOTES:\n') + '\nNOTES:\n'.length);
}

/** What `helm lint --strict` says; empty where it has nothing to say. */
export async function lint(values: Layers, options: RenderOptions = {}): Promise<string> {
  const answer = await helm(['lint', '--strict', '--quiet'], values, options);
  return answer.text.trim();
}

const template = (values: Layers, options: RenderOptions) => helm(['template'], values, options);

interface Answer {
  readonly failed: boolean;
  readonly text: string;
}

/** One call of helm for equal arguments: many tests look at the same rendering. */
const answers = new Map<string, Promise<Answer>>();
const readings = new Map<string, Rendered>();

function renderedOf(text: string): Rendered {
  const known = readings.get(text) ?? new Rendered(text);
  readings.set(text, known);
  return known;
}

/** As many helms at once as the smallest machine that we know of has cores. */
const atOnce = 2;
const waiting: (() => void)[] = [];
let running = 0;

async function inTurn<Result>(work: () => Promise<Result>): Promise<Result> {
  if (running >= atOnce) await new Promise<void>((resolve) => waiting.push(resolve));
  else running += 1;
  try {
    return await work();
  } finally {
    const next = waiting.shift();
    if (next === undefined) running -= 1;
    else next();
  }
}

function helm(command: readonly string[], values: Layers, options: RenderOptions): Promise<Answer> {
  const tools = inject('chartTools');
  if (tools === undefined) throw new Error('helm is missing');
  const { release = 'guard', namespace = 'shop', kubeVersion, apiVersions = [], isUpgrade } = options;
  const layers = Array.isArray(values) ? (values as (string | Values)[]) : [values as string | Values];
  const program = tools[options.helm ?? 'helm'];
  const given = [
    ...command,
    // lint has no release.
    ...(command[0] === 'lint' ? [] : [release]),
    options.chart ?? chartFolder,
    `--namespace=${namespace}`,
    ...layers.flatMap((layer) => ['--values', typeof layer === 'string' ? layer : fileOf(layer)]),
    ...(kubeVersion === undefined ? [] : [`--kube-version=${kubeVersion}`]),
    ...apiVersions.map((name) => `--api-versions=${name}`),
    ...(isUpgrade ? ['--is-upgrade'] : []),
  ];
  const key = JSON.stringify([program, ...given]);
  const answer = answers.get(key) ?? inTurn(() => call(program, given));
  answers.set(key, answer);
  return answer;
}

async function call(program: string, given: readonly string[]): Promise<Answer> {
  try {
    const { stdout } = await promisify(execFile)(program, [...given], {
      // No cluster, and nothing of the person who runs the tests.
      env: { PATH: process.env.PATH, HOME: temporaryFolder(), KUBECONFIG: '/dev/null' },
      maxBuffer: 64 * 1024 * 1024,
    });
    return { failed: false, text: stdout };
  } catch (error) {
    const { code, stdout = '', stderr = '' } = error as { code?: unknown; stdout?: string; stderr?: string };
    if (typeof code !== 'number') throw error; // helm itself did not run
    return { failed: true, text: stdout + stderr };
  }
}

let folder: string | undefined;
function temporaryFolder(): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(tmpdir(), 'counterfoil-chart-'));
    process.once('exit', () => rmSync(made, { recursive: true, force: true }));
    folder = made;
  }
  return folder;
}

/** Named by its content, so that equal values are one call; written once, since a helm may be reading it. */
const files = new Map<string, string>();
function fileOf(values: Values): string {
  const text = JSON.stringify(values);
  const known = files.get(text);
  if (known !== undefined) return known;
  const file = join(
    temporaryFolder(),
    `${createHash('sha256').update(text).digest('hex').slice(0, 16)}.json`,
  );
  writeFileSync(file, text);
  files.set(text, file);
  return file;
}

function readObjects(text: string): KubernetesObject[] {
  return parseAllDocuments(text).flatMap((document) => {
    const [error] = document.errors;
    if (error !== undefined) throw new Error(`rendered YAML cannot be read: ${error.message}`);
    const object = document.toJS() as KubernetesObject | null;
    return object === null ? [] : [object];
  });
}
