/** The examples of values that are shipped with the chart, and how they are rendered for readers. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { chartFolder, type RenderOptions } from './render.ts';

const folder = join(chartFolder, 'examples');

export interface Example {
  readonly name: string;
  readonly file: string;
  /** What is rendered of it, as it is committed. */
  readonly rendered: string;
}

export const examples: readonly Example[] = readdirSync(folder)
  .filter((name) => name.endsWith('.yaml'))
  .map((name) => ({
    name: name.replace('.yaml', ''),
    file: join(folder, name),
    rendered: join(folder, 'rendered', name),
  }));

/** As a person would install it. */
export const installed = { release: 'counterfoil', namespace: 'shop' } as const satisfies RenderOptions;

const copies = ['prometheus-rule.yaml', 'dashboards.yaml'];
const preamble =
  '# Rendered from the example of the same name (npx vitest run --project chart test/chart/examples.test.ts -u), without\n' +
  '# rules and dashboards, which are those of files/ with the names of the release in them.\n';

/** What helm renders, without what only repeats other files of this repository. */
export const forReaders = (text: string): string =>
  preamble +
  text
    .split(/^---\n/m)
    .filter(
      (document) => !copies.some((name) => document.startsWith(`# Source: counterfoil/templates/${name}\n`)),
    )
    .join('---\n');
