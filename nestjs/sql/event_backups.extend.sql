-- Adds to event_backups, of any form and under load, the columns that the module fills where they are there. A running
-- service finds them within ten seconds; none needs a restart. May be run again.
--
-- Adding columns without a default rewrites nothing, but waits for every transaction that uses the table, and all others
-- wait behind it: so it gives up after a second. Run it again then, or look for the transaction that stays open.
begin;
set local lock_timeout = '1s';
alter table event_backups
  -- The pod and the pod template that published the event: lost events are attributed to a version.
  add column if not exists published_by text,
  add column if not exists published_hash text,
  -- The service's own name for that version.
  add column if not exists service_version text,
  -- The trace in which the event was published (W3C): a replay continues it by a link.
  add column if not exists traceparent text;
commit;
