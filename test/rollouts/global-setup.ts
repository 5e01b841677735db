/** Finds, or builds, the tools once for all files of the project `rollouts`. */
import type { TestProject } from 'vitest/node';
import { findTools, type ToolName } from '../tools/find-tool.ts';

const names = [
  'promtool',
  'prometheus',
  'analysis-verdict',
  'release-replay',
] as const satisfies readonly ToolName[];

declare module 'vitest' {
  export interface ProvidedContext {
    /** Their paths; none where they are missing, which only a machine of a developer may have. */
    rolloutTools: Readonly<Record<(typeof names)[number], string>> | undefined;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  project.provide('rolloutTools', await findTools(names, 'The canary is not judged by Argo’s own code'));
}
