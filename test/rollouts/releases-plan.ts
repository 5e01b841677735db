/** Which releases are made up: how much traffic, what is wrong with the canary, and how many of each. */

/** One release, as `tools/promtool/release-replay` takes it. */
export interface PlannedRelease {
  readonly id: string;
  readonly seed: number;
  readonly perSecond: number;
  readonly lost: number;
  readonly wrongBill: number;
  readonly kind: 'amount' | 'duplicate';
  readonly crashesPerHour: number;
  readonly podsUnseenAt: number;
  readonly hotCheckFailsAt: number;
  readonly exporterGoneAt: number;
  readonly replaySeconds: number;
  readonly repairedIsLost: boolean;
  /** The row and the column of the table. */
  readonly traffic: string;
  readonly fault: string;
}

export const traffics: Readonly<Record<string, number>> = {
  '10/h': 10 / 3_600,
  '100/h': 100 / 3_600,
  '1,000/h': 1_000 / 3_600,
  '10/s': 10,
  '100/s': 100,
  '1,000/s': 1_000,
};

export const shares: Readonly<Record<string, number>> = {
  '0.1 %': 0.001,
  '0.5 %': 0.005,
  '1 %': 0.01,
  '2 %': 0.02,
  '5 %': 0.05,
};

type Fault = Partial<PlannedRelease> & Pick<PlannedRelease, 'fault'>;

const healthy = {
  lost: 0,
  wrongBill: 0,
  kind: 'amount',
  crashesPerHour: 0,
  podsUnseenAt: 0,
  hotCheckFailsAt: 0,
  exporterGoneAt: 0,
  // The chart's default: event-replay as a CronJob every five minutes.
  replaySeconds: 300,
  repairedIsLost: true,
} as const satisfies Partial<PlannedRelease>;

export interface PlanOptions {
  /** Of each cell; of the releases without a fault three times as many. */
  readonly each: number;
  readonly seed: number;
}

/** The whole table: every traffic with every share of lost events and of wrong bills, and what goes wrong by time. */
export function planAll({ each, seed }: PlanOptions): PlannedRelease[] {
  const releases: PlannedRelease[] = [];
  const add = (traffic: string, count: number, made: (n: number) => Fault) => {
    for (let n = 0; n < count; n += 1) {
      const number = releases.length + 1;
      releases.push({
        ...healthy,
        id: `r${number}`,
        seed: seed * 1_000_003 + number,
        perSecond: traffics[traffic] ?? 0,
        traffic,
        ...made(n),
      });
    }
  };
  for (const traffic of Object.keys(traffics)) {
    add(traffic, 3 * each, () => ({ fault: 'none' }));
    for (const [name, share] of Object.entries(shares)) {
      add(traffic, each, () => ({ fault: `lost ${name}`, lost: share }));
      add(traffic, each, (n) => ({
        fault: `wrong bills ${name}`,
        wrongBill: share,
        kind: n % 2 === 0 ? 'amount' : 'duplicate',
      }));
    }
  }
  // By time and not by traffic: any one does.
  const middle = '100/s';
  const someTime = (n: number) => 900 + ((n * 613) % 12_000);
  for (const perHour of [0.05, 1, 6])
    add(middle, each, () => ({ fault: `${perHour} crashes/h`, crashesPerHour: perHour }));
  add(middle, each, (n) => ({ fault: 'hot check fails', hotCheckFailsAt: someTime(n) }));
  add(middle, each, (n) => ({ fault: 'exporter gone', exporterGoneAt: someTime(n) }));
  add(middle, each, (n) => ({ fault: 'pods not scraped', podsUnseenAt: someTime(n) }));
  // What replay does to the sight of losses, and what counting pending rows alone did.
  for (const [mode, replaySeconds] of [
    ['no replay', 0],
    ['replay always', 15],
  ] as const)
    add(middle, each, () => ({ fault: `lost 2 %, ${mode}`, lost: 0.02, replaySeconds }));
  for (const [mode, replaySeconds] of [
    ['replay each 5 min', 300],
    ['replay always', 15],
  ] as const)
    add(middle, each, () => ({
      fault: `lost 2 %, ${mode}, pending rows alone`,
      lost: 0.02,
      replaySeconds,
      repairedIsLost: false,
    }));
  return releases;
}
