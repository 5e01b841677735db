/**
 * What an installation takes of its cluster while nothing happens. The exporter is measured by the kubelet, over minutes.
 * A run of a CronJob is too short for it, which looks each ten seconds: each process says itself at its end how much CPU it has had,
 * how much memory at its peak, and how long it has lived; and the schedule says how often that is.
 */
import { kubectl, type Namespace } from './cluster.ts';

/** For `extraEnv`: makes every process of Node say it at its end, by one line. */
export const SAY_AT_THE_END = {
  name: 'NODE_OPTIONS',
  value: `--import=data:text/javascript,${encodeURIComponent(
    `process.on('exit',()=>{const u=process.resourceUsage();console.log(JSON.stringify({footprint:{cpuSeconds:(u.userCPUTime+u.systemCPUTime)/1e6,peakBytes:u.maxRSS*1024,seconds:process.uptime()}}))})`,
  )}`,
};

export interface Run {
  readonly cpuSeconds: number;
  readonly peakBytes: number;
  readonly seconds: number;
}

/** @param log of a pod that has ended */
export function runOf(log: string): Run {
  const line = log.split('\n').findLast((text) => text.startsWith('{"footprint":'));
  if (line === undefined) throw new Error(`a run does not say what it took: ${log.slice(-500)}`);
  return (JSON.parse(line) as { footprint: Run }).footprint;
}

/** The numbers of one field of a schedule: `*`, a step of it, or numbers with commas. */
function timesOf(field: string, count: number): number {
  if (field === '*') return count;
  const step = /^\*\/(\d+)$/.exec(field);
  if (step !== null) return Math.ceil(count / Number(step[1]));
  if (/^\d+(,\d+)*$/.test(field)) return field.split(',').length;
  throw new Error(`${field} is no field of a schedule that is known here`);
}

/** How often it fires within an hour, on average. */
export function runsPerHour(schedule: string): number {
  const [minute = '', hour = '', ...days] = schedule.split(' ');
  if (days.join(' ') !== '* * *') throw new Error(`${schedule} has days`);
  return (timesOf(minute, 60) * timesOf(hour, 24)) / 24;
}

export interface Usage {
  /** When the kubelet looked. */
  readonly at: number;
  readonly cpuSeconds: number;
  readonly bytes: number;
}

interface Summary {
  readonly pods: readonly {
    readonly podRef: { readonly name: string; readonly namespace: string };
    readonly containers?: readonly {
      readonly cpu?: { readonly time: string; readonly usageCoreNanoSeconds?: number };
      readonly memory?: { readonly workingSetBytes?: number };
    }[];
  }[];
}

/** What a pod of one container has taken so far, as the kubelet of its node knows it. */
export async function usageOf(namespace: Namespace, pod: string): Promise<Usage | undefined> {
  const node = await namespace.kubectl('get', 'pod', pod, '-o', 'jsonpath={.spec.nodeName}');
  const { pods } = JSON.parse(
    await kubectl('get', '--raw', `/api/v1/nodes/${node}/proxy/stats/summary`),
  ) as Summary;
  const [found] =
    pods.find(({ podRef }) => podRef.namespace === namespace.name && podRef.name === pod)?.containers ?? [];
  if (found?.cpu?.usageCoreNanoSeconds === undefined || found.memory?.workingSetBytes === undefined)
    return undefined;
  return {
    at: Date.parse(found.cpu.time),
    cpuSeconds: found.cpu.usageCoreNanoSeconds / 1e9,
    bytes: found.memory.workingSetBytes,
  };
}
