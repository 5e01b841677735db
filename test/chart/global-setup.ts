/** Finds, or builds, the tools and the schemas once for all files of the project `chart`. */
import type { TestProject } from 'vitest/node';
import { findTools, type ToolName } from '../tools/find-tool.ts';
import { findSchemas, type Schemas } from './schemas.ts';

const names = [
  'helm',
  'helm3',
  'kubeconform',
  'promtool',
  'analysis-verdict',
] as const satisfies readonly ToolName[];

declare module 'vitest' {
  export interface ProvidedContext {
    /** Their paths; none where they are missing, which only a machine of a developer may have. */
    chartTools: Readonly<Record<(typeof names)[number], string>> | undefined;
    /** The same for the schemas. */
    chartSchemas: Schemas | undefined;
  }
}

export default async function setup(project: TestProject): Promise<void> {
  const tools = await findTools(names, 'The chart is not rendered');
  project.provide('chartTools', tools);
  project.provide('chartSchemas', tools === undefined ? undefined : await schemas());
}

async function schemas(): Promise<Schemas | undefined> {
  try {
    return await findSchemas();
  } catch (error) {
    if (process.env.CI === 'true') throw error;
    process.stderr.write(
      `What the chart renders is not held against schemas: ${(error as Error).message.split('\n')[0]}\n`,
    );
    return undefined;
  }
}
