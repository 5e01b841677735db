/** What a run has done, as numbers; the words are those of `job_runs.counts` and of the README. */
export interface ReplayCounts {
  /** Events taken over from the events table, and those that were done and are pending again. */
  taken_in: number;
  reopened: number;
  /** Claims of others that ran out, and how many of them had a call that never ended. */
  reclaimed: number;
  unfinished: number;
  claimed: number;
  /** Events named in calls; repeats count again. */
  sent: number;
  processed: number;
  already_processed: number;
  /** Done without a call, since the row is gone from the events table or in a state that is not ours. */
  gone: number;
  /** Parked, and done since the row is no longer pending in the events table. */
  parked_ended: number;
  waiting: number;
  /** Answered "in flight" with an error of the service's database: nothing was begun, and nothing is burnt. */
  held_up: number;
  /** Given to the predecessor's outbox; of those, billed since, due again at the endpoint, and not billed in time. */
  handed: number;
  handed_settled: number;
  handed_due_again: number;
  handed_overdue: number;
  parked: number;
  unparked: number;
  /** Claimed and given back unsent. */
  released: number;
  /** Answers that could not be written: somebody else holds the row now, or the database stayed away. */
  unrecorded: number;
  calls: number;
  calls_without_answer: number;
  requests: number;
  /** Findings of requests for a rebuild or a correction: the service did it, later again, a person's. */
  items_done: number;
  items_waiting: number;
  items_given_up: number;
  item_calls: number;
  /** Removed, done for longer than they are kept. */
  purged: number;
  /** Statements of the three that a claimed batch needs. */
  claim_statements: number;
  start_statements: number;
  record_statements: number;
}

export const noCounts = (): ReplayCounts => ({
  taken_in: 0,
  reopened: 0,
  reclaimed: 0,
  unfinished: 0,
  claimed: 0,
  sent: 0,
  processed: 0,
  already_processed: 0,
  gone: 0,
  parked_ended: 0,
  waiting: 0,
  held_up: 0,
  handed: 0,
  handed_settled: 0,
  handed_due_again: 0,
  handed_overdue: 0,
  parked: 0,
  unparked: 0,
  released: 0,
  unrecorded: 0,
  calls: 0,
  calls_without_answer: 0,
  requests: 0,
  items_done: 0,
  items_waiting: 0,
  items_given_up: 0,
  item_calls: 0,
  purged: 0,
  claim_statements: 0,
  start_statements: 0,
  record_statements: 0,
});
