/** What is left of a journey that failed, in one folder: `coverage/cluster/<journey>-<namespace>`. */
import { execFile } from 'node:child_process';
import { createWriteStream, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

const run = promisify(execFile);
const folders = fileURLToPath(new URL('../../coverage/cluster', import.meta.url));

/** What kubectl says, or why it says nothing: what is collected after a failure must not fail. */
async function say(...args: readonly string[]): Promise<string> {
  try {
    return (await run('kubectl', [...args], { maxBuffer: 256_000_000, timeout: 60_000 })).stdout;
  } catch (error) {
    const { stderr = '', stdout = '' } = error as { stderr?: string; stdout?: string };
    return `${stdout}\nkubectl ${args.join(' ')}: ${stderr || String(error)}\n`;
  }
}

/** Events, descriptions, objects and logs of everything in a namespace. Secrets are not among them. */
export async function collect(namespace: string, journey: string): Promise<string> {
  const folder = join(folders, `${journey.replaceAll(/[^\w.-]+/g, '_')}-${namespace}`);
  mkdirSync(folder, { recursive: true });
  const here = (...args: readonly string[]) => say('-n', namespace, ...args);
  const kinds = 'rollouts,analysisruns,replicasets,deployments,cronjobs,jobs,pods,services,traefikservices';
  const texts = {
    'events.txt': await here('get', 'events', '--sort-by=.lastTimestamp'),
    'pods.txt': await here('get', 'pods', '-o', 'wide', '--show-labels'),
    // A node that is short of disk or memory evicts pods.
    'nodes.txt': await say('describe', 'nodes'),
    'describe.txt': await here('describe', kinds),
    'objects.yaml': await here('get', kinds, '-o', 'yaml'),
    'argo-rollouts.txt': await say(
      ...['logs', '-n', 'argo-rollouts', 'deployment/argo-rollouts', '--since=30m'],
    ),
    'job-runs.txt': await here(
      ...['exec', 'postgres', '--', 'psql', '-h', '127.0.0.1', '-U', 'postgres', '-d', 'shop', '-x'],
      ...['-c', 'SELECT * FROM counterfoil.job_runs ORDER BY started_at DESC LIMIT 200'],
    ),
  };
  for (const [name, text] of Object.entries(texts)) writeFileSync(join(folder, name), text);
  const containers = (
    await here(...['get', 'pods', '-o'], 'jsonpath={range .items[*]}{.metadata.name}{"\\n"}{end}')
  )
    .trim()
    .split('\n');
  for (const pod of containers.filter(Boolean)) {
    const log = createWriteStream(join(folder, `${pod}.log`));
    const crashed = await here('logs', pod, '--previous', '--tail=2000');
    if (!crashed.includes('previous terminated container')) log.write(`${crashed}\n-- after the crash\n`);
    log.end(await here('logs', pod, '--all-containers', '--tail=20000'));
  }
  return folder;
}
