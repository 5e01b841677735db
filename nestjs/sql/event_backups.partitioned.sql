-- event_backups and event_deliveries in place of the other files, for a table so large that old rows are to be dropped by
-- the day instead of deleted. What differs:
-- - The key of a partitioned table must hold the column it is partitioned by: (event_id, created_at). Postgres therefore
--   refuses a second event of one id on one instant only. Ids are new UUIDs by default and those the module makes for
--   rebuilt events are written under a lock, so both are unique; an id of your own that you may publish twice is not.
-- - The module asks by event_id alone, so that each statement plans for and probes every day that is kept, at some 40 µs a day:
--   keep weeks and not years, and a week ahead is enough.
-- - event_deliveries has no reference to the events: dropping a day removes its records.
-- Days are those of the time zone of the session that writes, as everywhere with timestamp; give all the same one.

create table event_backups (
  event_id text not null,
  event_name text not null,
  payload jsonb not null,
  status text not null default 'pending' check (status in ('pending', 'processed')),
  created_at timestamp not null default now(),
  processed_at timestamp,
  published_by text,
  published_hash text,
  service_version text,
  traceparent text,
  primary key (event_id, created_at)
) partition by range (created_at);

-- Takes what no day is there for, so that a schedule that stands still stops no publishing.
create table event_backups_default partition of event_backups default;

create index event_backups_pending on event_backups (status, created_at) where status = 'pending';
create index event_backups_created_at on event_backups (created_at);
create index event_backups_session_id on event_backups ((payload ->> 'sessionId'));

create table event_deliveries (
  event_id text not null,
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
with (fillfactor = 70);

-- Creates the partitions of today and the days to come, and says which it has made. Call it daily; a day of which rows
-- stand in the default partition already is left there.
create function event_backups_create_days(days_ahead integer) returns setof text
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
  first_day date := localtimestamp::date;
  day date;
  name text;
begin
  for day in select first_day + n from generate_series(0, days_ahead) as n loop
    name := 'event_backups_' || to_char(day, 'YYYYMMDD');
    continue when to_regclass(name) is not null;
    begin
      execute format('create table %I partition of event_backups for values from (%L) to (%L)', name, day, day + 1);
      return next name;
    exception when check_violation then
      raise warning 'event_backups_default holds rows of %: it stays without a partition of its own', day;
    end;
  end loop;
end $$;

-- Drops one day, of which every event is processed; says whether it did. A day with an event that is not stays, however
-- old it is. What else keeps a day is the caller's to know.
create function event_backups_drop_one_day(day date) returns boolean
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
  part regclass := to_regclass('event_backups_' || to_char(day, 'YYYYMMDD'));
  open boolean;
begin
  if not exists (select from pg_inherits where inhrelid = part and inhparent = 'event_backups'::regclass)
     or day >= localtimestamp::date then
    return false;
  end if;
  execute format('select exists (select from %s where status is distinct from ''processed'')', part) into open;
  if open then return false; end if;
  -- Records of processed events are used by nobody: gone before the lock that everybody waits for.
  execute format('delete from event_deliveries d using %s b where d.event_id = b.event_id', part);
  execute format('lock table %s in access exclusive mode', part);
  -- A transaction that began on that day may have committed only now.
  execute format('select exists (select from %s where status is distinct from ''processed'')', part) into open;
  if open then return false; end if;
  execute format('drop table %s', part);
  return true;
end $$;

-- Drops the oldest day that is over for longer than `keep` and of which every event is processed, and says which; null
-- where there is none. One day at a time, so that its locks are held shortly: call it until it answers null. Of the
-- default partition it deletes processed rows instead.
create function event_backups_drop_day(keep interval) returns text
language plpgsql security definer set search_path from current set lock_timeout = '2s' as $$
declare
  name text;
begin
  for name in
    select c.relname
    from pg_inherits i join pg_class c on c.oid = i.inhrelid
    where i.inhparent = 'event_backups'::regclass and c.relname ~ '^event_backups_[0-9]{8}$'
      and to_date(right(c.relname, 8), 'YYYYMMDD') + 1 <= localtimestamp - keep
    order by c.relname
  loop
    if event_backups_drop_one_day(to_date(right(name, 8), 'YYYYMMDD')) then
      return name;
    end if;
  end loop;
  with gone as (
    delete from event_backups_default where status = 'processed' and created_at < localtimestamp - keep returning event_id
  )
  delete from event_deliveries d using gone where d.event_id = gone.event_id;
  return null;
end $$;

-- For the service's owner and whom it names: `grant execute on function event_backups_drop_day to …`.
revoke execute on function event_backups_create_days, event_backups_drop_day, event_backups_drop_one_day from public;

-- A week ahead: what `event_backups_create_days` is to be called for daily.
select event_backups_create_days(7);
