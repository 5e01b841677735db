/** Finds, or builds, the tools once for all files of the project `chart`. */
import type { TestProject } from 'vitest/node';
import { findTools, type ToolName } from '../tools/find-tool.ts';

const names = ['helm', 'helm3', 'kubeconform', 'promtool'] as const satisfies readonly ToolName[];

declare module 'vitest' {
  export interface ProvidedContext {
    /** Their paths; none where they are missing, which only a machine of a developer may have. */
    chartTools: Readonly<Record<(typeof names)[number], string>> | undefined;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  project.provide('chartTools', await findTools(names, 'The chart is not rendered'));
}
