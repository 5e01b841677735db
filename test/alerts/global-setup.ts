/** Finds, or builds, the tools once for all files of the project `alerts`. */
import type { TestProject } from 'vitest/node';
import { findTool, type ToolName } from './tools.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Their paths; none where they are missing, which only a machine of a developer may have. */
    alertTools: Readonly<Record<ToolName, string>> | undefined;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  try {
    const [promtool, prometheus, alertmanager] = [
      await findTool('promtool'),
      await findTool('prometheus'),
      await findTool('alertmanager'),
    ];
    project.provide('alertTools', { promtool, prometheus, alertmanager });
  } catch (error) {
    if (process.env.CI === 'true') throw error;
    process.stderr.write(`The alerts are not tested on real tools: ${(error as Error).message}\n`);
    project.provide('alertTools', undefined);
  }
}
