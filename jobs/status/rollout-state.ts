import { request } from 'undici';
import { z } from 'zod';

/** What the exporter knows of the guarded rollout; "unknown" where there is no exporter or it does not answer. */
export interface RolloutState {
  readonly version: string;
  /** Share of the traffic that the canary gets, such as `10 %`. */
  readonly weight: string;
  /** The rollout's phase, such as `Progressing`. */
  readonly phase: string;
}

const unknownState: RolloutState = { version: 'unknown', weight: 'unknown', phase: 'unknown' };

const answer = z.object({ version: z.string(), weight: z.number(), phase: z.string() });

/** A person at 3 a.m. must not wait for a dead exporter. */
const TIMEOUT_MS = 2_000;

/** Asks the exporter; never throws, since the screen is needed most when parts of the system are down. */
export async function readRolloutState(exporterUrl: string | undefined): Promise<RolloutState> {
  if (exporterUrl === undefined) return unknownState;
  try {
    const response = await request(new URL('/rollout', exporterUrl), {
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    const parsed = answer.safeParse(await response.body.json());
    if (response.statusCode !== 200 || !parsed.success) return unknownState;
    return { version: parsed.data.version, weight: `${parsed.data.weight} %`, phase: parsed.data.phase };
  } catch {
    return unknownState; // down, not there yet, or not an exporter: the screen says "unknown"
  }
}
