-- Retires the outbox: copies domain_events to domain_events_backup, compares both, then drops domain_events. Refuses
-- while one row is not published. Safe to run again, also after a restore. It is one statement, so one transaction in
-- any client, and reports in one INFO: the text for a person, its DETAIL as JSON for a script.
-- With psql: psql -v ON_ERROR_STOP=1 -f retire_domain_events.sql
do $retire$
declare
  here constant text := 'public';
  open_rows text;
  rows_retired bigint;
  rows_kept bigint;
  rows_different bigint;
  right_given record;
begin
  -- A snapshot taken before the lock would not show what was committed while we waited for it.
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'retire_domain_events: run it in a read committed transaction'
      using errcode = 'invalid_transaction_state';
  end if;
  -- Whoever waits for our lock blocks all who come later: rather give up, and be run again.
  perform set_config('lock_timeout', '5s', true);
  -- One retirement or restoration at a time.
  perform pg_advisory_xact_lock(hashtextextended('domain_events', 0));

  if to_regclass('public.domain_events') is null then
    if to_regclass('public.domain_events_backup') is null then
      raise exception 'retire_domain_events: there is neither domain_events nor a backup of it in schema %', here
        using errcode = 'undefined_table', hint = 'Is this the database of the service?';
    end if;
    select count(*) into rows_kept from public.domain_events_backup;
    raise info 'domain_events is retired already; % rows in domain_events_backup', rows_kept
      using detail = json_build_object('outcome', 'retired_already', 'backup', rows_kept)::text;
    return;
  end if;

  -- Before the first look: from here on nothing is written, claimed or marked. A publisher that waits for it finds no
  -- table afterwards, and its transaction, with the completed session in it, fails as a whole.
  lock table public.domain_events in access exclusive mode;
  select string_agg(format('%s %s', n, status), ', ' order by status) into open_rows
  from (
    select status, count(*) as n from public.domain_events where status is distinct from 'published' group by status
  ) by_status;
  if open_rows is not null then
    raise exception 'retire_domain_events: rows are not published yet: %', open_rows
      using errcode = 'object_not_in_prerequisite_state',
        hint = 'Stop the writers and let the publisher drain; a failed row needs a person.';
  end if;

  if to_regclass('public.domain_events_backup') is null then
    create table public.domain_events_backup (like public.domain_events including all);
    -- The owner and the rights go with it, so that a restoration by somebody else can give them back.
    execute (
      select format('alter table public.domain_events_backup owner to %I', pg_get_userbyid(relowner))
      from pg_class where oid = 'public.domain_events'::regclass
    );
    for right_given in
      select privilege_type, grantee, pg_get_userbyid(grantee) as role_name
      from pg_class, aclexplode(relacl)
      where oid = 'public.domain_events'::regclass and grantee <> relowner
    loop
      execute format('grant %s on public.domain_events_backup to %s', right_given.privilege_type,
        case when right_given.grantee = 0 then 'public' else quote_ident(right_given.role_name) end);
    end loop;
  end if;
  -- Rows of an earlier retirement that were restored may have changed since.
  delete from public.domain_events_backup b using public.domain_events e where b.id = e.id;
  insert into public.domain_events_backup select * from public.domain_events;

  select count(*) into rows_retired from public.domain_events;
  select count(*) into rows_kept from public.domain_events_backup;
  select count(*) into rows_different
  from (select * from public.domain_events except all select * from public.domain_events_backup) missing;
  if rows_different > 0 or rows_kept < rows_retired then
    raise exception 'retire_domain_events: % of % rows are not in the backup as they are; nothing was dropped',
      rows_different, rows_retired using errcode = 'data_exception';
  end if;
  drop table public.domain_events;
  raise info 'domain_events is retired: % rows copied and compared, % in domain_events_backup', rows_retired, rows_kept
    using detail = json_build_object('outcome', 'retired', 'rows', rows_retired, 'backup', rows_kept)::text;
end
$retire$;
