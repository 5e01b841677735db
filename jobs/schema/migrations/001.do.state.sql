-- Level 1: all state of our own. Runs with search_path set to the state schema, so no name is qualified.
-- Times are timestamptz by the database's clock. Statuses are text with CHECK: the words of docs/glossary.md.

-- One row: how far this schema is, and the oldest code that may still use it.
CREATE TABLE schema_version (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  level integer NOT NULL,
  min_compatible_code integer NOT NULL CHECK (min_compatible_code <= level),
  changed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- One run at a time per name. Taken when absent or past expires_at; every later write compares the token.
CREATE TABLE job_leases (
  name text PRIMARY KEY,
  holder text NOT NULL,
  token uuid NOT NULL,
  acquired_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL
);

CREATE TABLE job_runs (
  run_id uuid PRIMARY KEY,
  job text NOT NULL,
  mode text NOT NULL,
  installation text NOT NULL,
  -- 'running' with an old seen_at is a run that was killed: nobody was left to write its end.
  outcome text NOT NULL CHECK (outcome IN ('running', 'succeeded', 'partial', 'skipped', 'implausible',
                                           'endpoint_down', 'failed', 'refused')),
  exit_code smallint CHECK (exit_code BETWEEN 0 AND 4),
  failure_id text,
  message text,
  counts jsonb NOT NULL DEFAULT '{}',
  pod text NOT NULL,
  version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  CHECK ((outcome = 'running') = (finished_at IS NULL))
);
CREATE INDEX job_runs_latest ON job_runs (job, mode, started_at DESC);

-- A check as declared, and how far it has been verified.
CREATE TABLE checks (
  name text PRIMARY KEY,
  installation text NOT NULL,
  definition_hash text NOT NULL,
  definition jsonb NOT NULL,
  declared_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  -- Every fact up to here has been looked at and had settled. Null: never.
  verified_through timestamptz,
  verified_at timestamptz,
  -- Why the horizon stands still, for a person: "pid 123, application …, open since …".
  held_back_by text,
  -- The full rotation: where it goes on, and when it began and was last completed.
  rotation_cursor timestamptz,
  rotation_started_at timestamptz,
  rotation_completed_at timestamptz,
  -- Which database the figures above belong to (system identifier, timeline).
  database_identity text
);

-- Snapshots remembered for roles that may not see when others' transactions began: a time is settled once
-- today's oldest running transaction is newer than the newest one known then.
CREATE TABLE horizon_snapshots (
  taken_at timestamptz PRIMARY KEY,
  next_xid xid8 NOT NULL
);

-- One row per window that was read. The sealing columns stay empty until windows are sealed.
CREATE TABLE reconciliation_windows (
  check_name text NOT NULL REFERENCES checks (name),
  side text NOT NULL CHECK (side IN ('facts', 'ledger')),
  from_at timestamptz NOT NULL,
  to_at timestamptz NOT NULL CHECK (to_at > from_at),
  covered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  run_id uuid NOT NULL,
  rows bigint NOT NULL,
  sealed_at timestamptz,
  digest text,
  facts_from_at timestamptz,
  facts_to_at timestamptz,
  database_identity text,
  PRIMARY KEY (check_name, side, from_at)
);

-- A finding: the recorded discrepancy, with its lifecycle.
CREATE TABLE discrepancies (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  check_name text NOT NULL REFERENCES checks (name),
  kind text NOT NULL CHECK (kind IN ('missing', 'duplicate', 'amount', 'orphan')),
  -- The key's columns as a JSON array of texts, such as ["42"] or ["tenant-1","42"].
  key text NOT NULL,
  -- The row's own id where the key has a null and cannot name it, else empty.
  row_id text NOT NULL DEFAULT '',
  status text NOT NULL CHECK (status IN ('suspected', 'open', 'acknowledged', 'resolved', 'waived')),
  cause text CHECK (cause IN ('event_pending', 'event_parked', 'processed_without_ledger', 'never_published',
                              'unknown')),
  event_id text,
  published_hash text,
  -- When the fact happened; for an orphan, when its ledger row was made.
  fact_at timestamptz,
  ledger_rows integer NOT NULL,
  -- Minor units. Null where the check compares no amounts: "unknown", never 0.
  expected_minor numeric,
  actual_minor numeric,
  currency text,
  -- Found beyond the horizon because an old transaction held it back for too long: may still settle.
  provisional boolean NOT NULL DEFAULT false,
  first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  first_run_id uuid NOT NULL,
  status_changed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  opened_at timestamptz,
  resolved_at timestamptz,
  reopen_count integer NOT NULL DEFAULT 0,
  acknowledged_by text,
  acknowledged_until timestamptz,
  status_reason text,
  CONSTRAINT discrepancies_fingerprint UNIQUE (check_name, kind, key, row_id),
  CHECK ((kind = 'missing') OR (cause IS NULL)),
  CHECK ((status = 'acknowledged') = (acknowledged_until IS NOT NULL))
);
-- What runs look at again and what a person sees first; resolved rows, which pile up, are not in it.
CREATE INDEX discrepancies_unsettled ON discrepancies (check_name, id)
  WHERE status IN ('suspected', 'open', 'acknowledged');

CREATE TABLE waivers (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  check_name text NOT NULL REFERENCES checks (name),
  filter jsonb NOT NULL,
  reason text NOT NULL,
  waived_by text NOT NULL DEFAULT session_user,
  waived_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  waived_until timestamptz
);

-- One row: the events table whose events the next table holds. Two in one would take each other's for gone.
CREATE TABLE replay_source (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  installation text NOT NULL,
  events_table text NOT NULL,
  declared_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- What replay knows of an event. The service's own row is never locked and never written by us.
CREATE TABLE replay_events (
  event_id text PRIMARY KEY,
  event_name text NOT NULL,
  event_created_at timestamptz NOT NULL,
  -- Set where events of one aggregate must be replayed one at a time; null: no order.
  aggregate_key text,
  published_hash text,
  status text NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'claimed', 'done', 'parked')),
  claim_token uuid,
  claimed_by text,
  lease_until timestamptz,
  -- Calls that reached a handler, calls that did not, and calls that were begun and never finished.
  handler_attempts integer NOT NULL DEFAULT 0,
  transport_attempts integer NOT NULL DEFAULT 0,
  unfinished_calls integer NOT NULL DEFAULT 0,
  -- Set right before a POST and cleared by its record: still set at the next claim means the call never ended.
  call_started_at timestamptz,
  next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_attempt_at timestamptz,
  last_outcome text,
  last_error text,
  parked_at timestamptz,
  parked_reason text CHECK (parked_reason IN ('attempts_exhausted', 'crashes_the_service', 'no_listener',
                                              'unknown_version', 'invalid_payload', 'not_retryable',
                                              'fact_changed')),
  -- The digest of the service's listeners when it last answered, and those that had no use for the event, newest
  -- first and at most 20: any other one takes it up again.
  listeners_digest text,
  refused_by_digests text[] NOT NULL DEFAULT '{}',
  service_version text,
  request_id bigint,
  taken_in_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  CHECK ((status = 'claimed') = (claim_token IS NOT NULL)),
  CHECK ((status = 'claimed') = (lease_until IS NOT NULL)),
  CHECK ((status = 'parked') = (parked_reason IS NOT NULL)),
  CHECK ((status = 'done') = (finished_at IS NOT NULL))
) WITH (fillfactor = 70);
-- The claim: only what may be claimed at all is in it, so parked and done rows cost nothing. An event that was
-- never tried is due since it was created, so the order is oldest first, and what waits stands behind it.
CREATE INDEX replay_events_due ON replay_events (next_attempt_at, event_created_at, event_id)
  WHERE status = 'due';
CREATE INDEX replay_events_claimed ON replay_events (lease_until) WHERE status = 'claimed';
CREATE INDEX replay_events_parked ON replay_events (parked_at, event_id) WHERE status = 'parked';
CREATE INDEX replay_events_for_listeners ON replay_events (parked_at, event_id)
  WHERE status = 'parked' AND parked_reason IN ('no_listener', 'unknown_version');
CREATE INDEX replay_events_aggregate ON replay_events (aggregate_key, event_created_at, event_id)
  WHERE aggregate_key IS NOT NULL AND status IN ('due', 'claimed');
-- Under CF_AGGREGATE_KEY: what belongs to no aggregate, and which aggregates have an event in work.
CREATE INDEX replay_events_keyless ON replay_events (next_attempt_at, event_created_at, event_id)
  WHERE status = 'due' AND aggregate_key IS NULL;
CREATE INDEX replay_events_aggregate_claimed ON replay_events (aggregate_key)
  WHERE aggregate_key IS NOT NULL AND status = 'claimed';
CREATE INDEX replay_events_request ON replay_events (request_id) WHERE request_id IS NOT NULL;
CREATE INDEX replay_events_request_open ON replay_events (request_id)
  WHERE request_id IS NOT NULL AND status IN ('due', 'claimed');

-- By which a person, a script or the exporter asks the jobs for something.
CREATE TABLE requests (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind text NOT NULL CHECK (kind IN ('replay', 'verify', 'rebuild', 'correction')),
  -- replay: {"event_ids": […]} or {"from": …, "to": …, "published_hash": …}
  -- verify: {"from": …, "to": …} or {"findings": [ids]} or {"published_hash": …, "from": …, "to": …}
  scope jsonb NOT NULL,
  check_name text,
  requested_by text NOT NULL DEFAULT session_user,
  reason text NOT NULL,
  requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  approved_by text,
  approved_at timestamptz,
  status text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'taken', 'done', 'refused')),
  run_id uuid,
  result jsonb,
  finished_at timestamptz,
  CHECK (approved_by IS NULL OR approved_by <> requested_by)
);
CREATE INDEX requests_open ON requests (kind, id) WHERE status IN ('open', 'taken');

-- While one lives, every run but its owner's ends as skipped.
CREATE TABLE freezes (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  frozen_by text NOT NULL DEFAULT session_user,
  reason text NOT NULL,
  frozen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  frozen_until timestamptz NOT NULL,
  released_at timestamptz
);

-- One row per request or run, never per event. Ids and counts only, no payload.
CREATE TABLE audit (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at timestamptz NOT NULL DEFAULT clock_timestamp(),
  installation text NOT NULL,
  actor text NOT NULL,
  action text NOT NULL,
  reason text,
  run_id uuid,
  request_id bigint,
  scope jsonb NOT NULL DEFAULT '{}',
  counts jsonb NOT NULL DEFAULT '{}'
);

-- Grants alone would not bind the owner; what has been written here stays written.
CREATE FUNCTION refuse_change_of_audit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'the audit is append-only: % is refused', TG_OP USING ERRCODE = '42501';
END
$$;
CREATE TRIGGER audit_is_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change_of_audit();

INSERT INTO schema_version (level, min_compatible_code) VALUES (1, 1);
