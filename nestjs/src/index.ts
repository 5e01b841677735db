export { bearerMatches } from './bearer-token.js';
export { type CounterfoilAsyncOptions, CounterfoilModule } from './counterfoil.module.js';
export { Deliveries } from './deliveries.js';
export type {
  CommitAware,
  CounterfoilDriver,
  DriverTransaction,
  HeldWrite,
  SqlResult,
  SqlRunner,
  Statement,
} from './driver.js';
export { errorCode } from './error-code.js';
export { type BackedEvent, EventPublisher, PublishRefusedError } from './event-publisher.js';
export {
  CounterfoilHealth,
  type CounterfoilHealthResult,
  NOT_READY_REASONS,
  type NotReadyReason,
} from './health.js';
export { ListenersRefusedError } from './listener-registry.js';
export {
  type EventMetrics,
  LEFT_PENDING_REASONS,
  type LeftPendingReason,
  LISTENER_OUTCOMES,
  type ListenerOutcome,
  type MetricsDeclaration,
  NO_METRICS,
  PROCESSED_STATUSES,
  type ProcessedStatus,
  PUBLISHED_STATUSES,
  type PublishedStatus,
  REBUILD_OUTCOMES,
  type RebuildOutcome,
  UNDECLARED_EVENT,
} from './metrics.js';
export { type BackedDelivery, type BackedListenerOptions, OnBackedEvent } from './on-backed-event.js';
export { type CounterfoilOptions, OptionsRefusedError, type RebuildAnswer } from './options.js';
export { PayloadRefusedError } from './payload-text.js';
export {
  PENDING_PAGE,
  type PendingEvent,
  PendingEvents,
  type PendingPage,
  PendingPageLostError,
} from './pending-events.js';
export { CommitRefusedError, type PgDriverOptions, pgDriver, TransactionOverError } from './pg-driver.js';
export {
  NOT_STARTED_HEADER,
  REPLAY_OUTCOMES,
  type ReplayAnswer,
  type ReplayOutcome,
  type ReplayResult,
} from './replay.js';
export { MAX_REPLAY_IDS, REPLAY_DEADLINE_MS } from './replay-request.js';
export { SESSION_REBUILDS, type SessionRebuild, type SessionReplayAnswer } from './replay-session.js';
