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

