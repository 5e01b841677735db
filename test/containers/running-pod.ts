/** A container at work: what it logs, signals to it, and how it ends. */
import { getContainerRuntimeClient, type StartedTestContainer } from 'testcontainers';
import type { PodContainer } from './pod-container.ts';

export interface LogLine {
  readonly level: string;
  readonly msg: string;
  readonly [field: string]: unknown;
}

export interface EndedPod {
  readonly code: number;
  /** Killed by the kernel for its limit of memory. */
  readonly outOfMemory: boolean;
  readonly log: readonly LogLine[];
  /** All that it wrote, lines that are no JSON among it. */
  readonly text: string;
}

/** Twice what the longest run of these tests took on a machine with much else to do. */
const PATIENCE_SECONDS = 180;

export class RunningPod {
  readonly #container: StartedTestContainer;
  readonly #chunks: string[];
  readonly #logEnded: Promise<void>;

  private constructor(container: StartedTestContainer, chunks: string[], logEnded: Promise<void>) {
    this.#container = container;
    this.#chunks = chunks;
    this.#logEnded = logEnded;
  }

  static async start(pod: PodContainer): Promise<RunningPod> {
    const chunks: string[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    pod.withLogConsumer((stream) => {
      stream.on('data', (chunk: string) => chunks.push(chunk)).once('end', resolve);
    });
    return new RunningPod(await pod.start(), chunks, promise);
  }

  get id(): string {
    return this.#container.getId();
  }

  get text(): string {
    return this.#chunks.join('');
  }

  get log(): readonly LogLine[] {
    return this.text
      .split('\n')
      .filter((line) => line.startsWith('{') && line.endsWith('}'))
      .map((line) => JSON.parse(line) as LogLine);
  }

  /** Calls what the chart's documents tell a person to call: `kubectl exec deploy/… -- …`. */
  async exec(...command: readonly string[]): Promise<{ code: number; output: string }> {
    const { exitCode, output } = await this.#container.exec([...command]);
    return { code: exitCode, output };
  }

  async signal(name: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const client = await getContainerRuntimeClient();
    await client.container.getById(this.id).kill({ signal: name });
  }

  /** How it is confined, as the daemon says it. */
  async confinement() {
    const client = await getContainerRuntimeClient();
    const { Config, HostConfig } = await client.container.getById(this.id).inspect();
    return {
      user: Config.User,
      readOnly: HostConfig.ReadonlyRootfs,
      dropped: HostConfig.CapDrop,
      options: HostConfig.SecurityOpt,
      memory: HostConfig.Memory,
    };
  }

  /** Waits for its end, and removes it. */
  async ended(): Promise<EndedPod> {
    const client = await getContainerRuntimeClient();
    const container = client.container.getById(this.id);
    const late = setTimeout(() => void container.kill().catch(() => undefined), PATIENCE_SECONDS * 1_000);
    try {
      const { StatusCode: code } = (await container.wait()) as { StatusCode: number };
      await this.#logEnded;
      const { State } = await container.inspect();
      return { code, outOfMemory: State.OOMKilled, log: this.log, text: this.text };
    } finally {
      clearTimeout(late);
      await this.remove();
    }
  }

  async remove(): Promise<void> {
    const client = await getContainerRuntimeClient();
    await client.container
      .getById(this.id)
      .remove({ force: true, v: true })
      .catch((error: { statusCode?: number }) => {
        if (error.statusCode !== 404) throw error; // it is gone already
      });
  }
}
