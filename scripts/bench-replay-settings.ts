/** How each contender of bench:replay is set; what differs from its default is said where it is printed. */

/** Calls in flight at once, of every contender: what the figures of a handler of 20 ms are for. */
export const LANES = 64;
export const HANDLER_MS = 20;

/** graphile-worker, as its own performance test sets it. */
export const graphile = { task: 'replay', queueSize: 500, completeJobBatchDelayMs: 0 } as const;

/** pg-boss, by `fetch` and `complete`: batches as large as those of the others, on loops that share the lanes. */
export const pgBoss = { queue: 'replay', batchSize: 500, loops: 4 } as const;

/** Of event-replay, what is not its default. */
export const job = { claimSize: 500, batchSize: 1, eventsPerCallInBatches: 25 } as const;
