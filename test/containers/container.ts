/** Containers that run as a pod of the chart does: no root, nothing to write to, no capability. */
import { spawnSync } from 'node:child_process';

export const restricted = [
  ...['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges', '--user', '1000:1000'],
] as const;

export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

export function docker(...args: readonly string[]): Ended {
  const { status, stdout, stderr, error } = spawnSync('docker', [...args], {
    encoding: 'utf8',
    maxBuffer: 256_000_000,
  });
  if (error !== undefined) throw new Error(`docker cannot be called: ${error.message}`);
  return { code: status, stdout, stderr };
}

/** Runs a command in an image as a restricted pod would, without a network. */
export const runIn = (image: string, ...command: readonly string[]): Ended =>
  docker('run', '--rm', '--network', 'none', ...restricted, image, ...command);

export const layersOf = (image: string): string[] =>
  JSON.parse(docker('image', 'inspect', '--format', '{{json .RootFS.Layers}}', image).stdout) as string[];
