/** Where Prometheus and promtool are. */
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import type { PrometheusTools } from './prometheus.ts';

export async function prometheusTools(): Promise<PrometheusTools> {
  const find = (name: string) => {
    for (const folder of (process.env.PATH ?? '').split(delimiter)) {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return join(folder, name);
      } catch {}
    }
    throw new Error(`${name} is not installed: apt-get install prometheus`);
  };
  return { prometheus: find('prometheus'), promtool: find('promtool') };
}
