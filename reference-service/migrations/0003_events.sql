-- The module's tables, as it ships them in nestjs/sql, with its optional columns: which pod of which version published
-- an event, and within which trace.
-- One row per published event, written in the transaction that publishes it. Owned by the service.
create table event_backups (
  event_id text primary key,
  event_name text not null,
  payload jsonb not null,
  status text not null default 'pending' check (status in ('pending', 'processed')),
  created_at timestamp not null default now(),
  processed_at timestamp
);

-- What is still pending, oldest first: stays small, whatever the table's age.
create index event_backups_pending on event_backups (status, created_at) where status = 'pending';

-- Windows of time: retention, and the look-up of what a release has published.
create index event_backups_created_at on event_backups (created_at);

-- From a session to its events: the cause of a missing bill without a scan of the window.
create index event_backups_session_id on event_backups ((payload ->> 'sessionId'));

-- Which pod and version published an event, and in which trace: the columns of event_backups.extend.sql, each filled by the
-- module where it is there.
alter table event_backups add column published_by text, add column published_hash text,
  add column service_version text, add column traceparent text;

-- One row per event and listener: who runs it now, or how it ended. Owned by the service, written by the module.
create table event_deliveries (
  -- Cascades, so that whoever purges event_backups needs no right on this table.
  event_id text not null references event_backups (event_id) on delete cascade,
  listener text not null,
  status text not null check (status in ('running', 'succeeded', 'failed')),
  -- New with every claim: a late writer whose lease was taken over matches no row.
  lease_owner text,
  lease_until timestamptz,
  -- How often a listener was started; the row is claimed before the listener runs, so a crash counts.
  attempts integer not null,
  -- Class or code of the last failure; never a message, which may hold personal data.
  error text,
  primary key (event_id, listener),
  check ((status = 'running') = (lease_owner is not null and lease_until is not null))
)
-- Each row is changed at least once, in no indexed column: with room beside it, that touches no index.
with (fillfactor = 70);

