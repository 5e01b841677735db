/** Builds what the files of the project `containers` run, once for all of them, and finds the helm that says how. */
import type { TestProject } from 'vitest/node';
import { buildImage } from '../../scripts/images.ts';
import { findTool } from '../tools/find-tool.ts';

declare module 'vitest' {
  interface ProvidedContext {
    containerHelm: string;
    /** The tag under which both images stand. */
    containerTag: string;
  }
}

/** Not that of images.test.ts, which removes its own. */
const TAG = 'containers';

export default async function setup(project: TestProject): Promise<void> {
  for (const name of ['counterfoil/jobs', 'counterfoil/reference-service']) buildImage(name, { tag: TAG });
  project.provide('containerTag', TAG);
  project.provide('containerHelm', await findTool('helm'));
}
