/** The chart as an installation of these tests renders it: whatever a container is told stands there. */
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inject } from 'vitest';
import { chartFolder, Rendered, type Values } from '../chart/render.ts';

/** The Secrets that an administrator makes, by the names that the values below give them. */
export const DATABASE_SECRET = 'billing-database';
export const AUTHORITY_SECRET = 'billing-database-ca';
export const TOKEN_SECRET = 'billing-token';

const installation: Values = {
  service: {
    name: 'billing',
    // There is no Service in between that would turn 80 into it.
    port: 3000,
    targetPort: 3000,
    correctionsPath: '/admin/billing/corrections',
  },
  database: { existingSecret: DATABASE_SECRET },
  token: { existingSecret: TOKEN_SECRET },
  jobs: { flowProbe: { enabled: true }, backupRetention: { enabled: true, days: 30 } },
};

/** @throws Error with what helm says */
export async function renderInstallation(values: Values = {}): Promise<Rendered> {
  const folder = mkdtempSync(join(tmpdir(), 'counterfoil-containers-'));
  try {
    const image = { repository: 'counterfoil/jobs', tag: inject('containerTag') };
    const files = [installation, { image }, values].map((layer, index) => {
      const file = join(folder, `${index}.json`);
      writeFileSync(file, JSON.stringify(layer));
      return file;
    });
    const { stdout } = await promisify(execFile)(
      inject('containerHelm'),
      ['template', 'guard', chartFolder, '--namespace=shop', ...files.flatMap((file) => ['--values', file])],
      { env: { PATH: process.env.PATH, HOME: folder, KUBECONFIG: '/dev/null' }, maxBuffer: 64_000_000 },
    );
    return new Rendered(stdout);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
