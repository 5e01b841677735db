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
