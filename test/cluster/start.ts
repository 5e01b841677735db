/** `npm run test:cluster`: says in one line what is missing, else runs the tests that need a real cluster. */
import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

function missing(): string | undefined {
  if ((process.env.KUBECONFIG ?? '') === '')
    return 'KUBECONFIG names no cluster: make one (CONTRIBUTING.md, "A cluster"), then KUBECONFIG=… npm run test:cluster';
  const kubectl = (...args: string[]) => spawnSync('kubectl', args, { encoding: 'utf8', timeout: 20_000 });
  if (kubectl('version', '--client').error !== undefined) return 'kubectl is not on the PATH: install it';
  if (kubectl('get', '--raw', '/readyz').status !== 0)
    return 'the cluster that KUBECONFIG names does not answer: is it up, and can it be reached from here?';
  if (kubectl('get', 'crd', 'rollouts.argoproj.io').status !== 0)
    return 'the cluster has no Argo Rollouts: install it (CONTRIBUTING.md, "A cluster")';
  if (kubectl('argo', 'rollouts', 'version').status !== 0)
    return 'kubectl has no plugin argo rollouts: put kubectl-argo-rollouts on the PATH';
  if (kubectl('get', 'crd', 'traefikservices.traefik.io').status !== 0)
    return 'the cluster has no Traefik: install it (CONTRIBUTING.md, "A cluster")';
  const images = ['jobs', 'reference-service'].map(
    (name) => `counterfoil/${name}:${process.env.CLUSTER_IMAGE_TAG ?? 'cluster-test'}`,
  );
  // What is not put into the nodes they pull.
  if (
    (process.env.IMAGE_LOAD_COMMAND ?? '') !== '' &&
    spawnSync('docker', ['image', 'inspect', ...images]).status !== 0
  )
    return `Docker has no ${images.join(' and ')}: npm run images -- --tag cluster-test`;
  return undefined;
}

const problem = missing();
if (problem !== undefined) {
  process.stderr.write(`${problem}\n`);
  process.exitCode = 1;
} else {
  const vitest = fileURLToPath(new URL('../../node_modules/vitest/vitest.mjs', import.meta.url));
  const { status } = spawnSync(
    process.execPath,
    [vitest, 'run', '--project', 'cluster', ...process.argv.slice(2)],
    { stdio: 'inherit' },
  );
  process.exitCode = status ?? 1;
}
