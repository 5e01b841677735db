-- The smallest table the module works on. Publishing, delivery and replay by id need no more; the jobs are fast only with
-- the indexes of event_backups.sql, and findings are attributed to a version only with the columns of
-- event_backups.extend.sql. Both can be added under load.
create table event_backups (
  event_id text primary key,
  event_name text not null,
  payload jsonb not null,
  status text not null,
  created_at timestamp not null default now(),
  processed_at timestamp
);

create index event_backups_status on event_backups (status);
