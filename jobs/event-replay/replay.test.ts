import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type Bench, openBench } from './test-setup.ts';

let bench: Bench;
beforeAll(async () => {
  bench = await openBench();
});
afterEach(async () => await bench.reset());
afterAll(async () => await bench.close());

describe('a run', () => {
  it('sends what is pending and overdue, oldest first, and records it as done', async () => {
    const ids = await bench.addEvents(30);
    const run = await bench.run({ CF_BATCH_SIZE: '10', CF_LANES: '1' });
    expect(run.exitCode, run.log).toBe(0);
    expect(run.record).toMatchObject({
      outcome: 'succeeded',
      counts: { taken_in: 30, processed: 30, calls: 3 },
    });
    expect(bench.endpoint.calls.flatMap((call) => call.eventIds)).toEqual(ids);
    expect(await bench.statuses()).toEqual({ done: 30 });
  });
});
