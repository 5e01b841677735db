/** Writes the dashboards as Grafana reads them. What is committed is held equal by `test/dashboards/built.test.ts`. */
import { writeFileSync } from 'node:fs';
import { dashboards, textOf } from './all.ts';

for (const [name, build] of Object.entries(dashboards)) {
  writeFileSync(new URL(`built/${name}.json`, import.meta.url), textOf(build()));
  process.stdout.write(`dashboards/built/${name}.json\n`);
}
