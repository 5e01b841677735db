-- Restores the outbox for a rollback: makes domain_events again where it was dropped, brings back from
-- domain_events_backup what is missing, and puts rows that were being processed within the last hour back to pending.
-- Rows written since stay as they are, and so does the backup. Safe to run again, and where nothing was ever dropped.
-- It is one statement, so one transaction in any client, and reports in one INFO: the text for a person, its DETAIL as
-- JSON for a script. With psql: psql -v ON_ERROR_STOP=1 -f restore_domain_events.sql
do $restore$
declare
  here constant text := 'public';
  outcome text := 'there_already';
  counts_before json;
  counts_after json;
  rows_brought_back bigint := 0;
  rows_released bigint;
  right_given record;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'restore_domain_events: run it in a read committed transaction'
      using errcode = 'invalid_transaction_state';
  end if;
  -- Whoever waits for our lock blocks all who come later: rather give up, and be run again.
  perform set_config('lock_timeout', '5s', true);
  -- One retirement or restoration at a time.
  perform pg_advisory_xact_lock(hashtextextended('domain_events', 0));

  if to_regclass('public.domain_events') is null then
    if to_regclass('public.domain_events_backup') is null then
      raise exception 'restore_domain_events: there is neither domain_events nor a backup of it in schema %', here
        using errcode = 'undefined_table', hint = 'Where there never was an outbox, domain_events.sql makes one.';
    end if;
    outcome := 'restored';
    create table public.domain_events (like public.domain_events_backup including all);
    execute (
      select format('alter table public.domain_events owner to %I', pg_get_userbyid(relowner))
      from pg_class where oid = 'public.domain_events_backup'::regclass
    );
    for right_given in
      select privilege_type, grantee, pg_get_userbyid(grantee) as role_name
      from pg_class, aclexplode(relacl)
      where oid = 'public.domain_events_backup'::regclass and grantee <> relowner
    loop
      execute format('grant %s on public.domain_events to %s', right_given.privilege_type,
        case when right_given.grantee = 0 then 'public' else quote_ident(right_given.role_name) end);
    end loop;
  else
    -- Readers go on; nobody writes, claims or marks until we are through.
    lock table public.domain_events in exclusive mode;
    select coalesce(json_object_agg(status, n order by status), '{}') into counts_before
    from (select status, count(*) as n from public.domain_events group by status) by_status;
  end if;

  if to_regclass('public.domain_events_backup') is not null then
    insert into public.domain_events select * from public.domain_events_backup on conflict (id) do nothing;
    get diagnostics rows_brought_back = row_count;
  end if;
  -- The processes that claimed them are gone, or lose their claim here: billing is idempotent, a second try is safe.
  -- What was claimed earlier is left to the publisher, which takes it up as stuck.
  update public.domain_events
  set status = 'pending', claimed_by = null, claimed_at = null, available_at = clock_timestamp()
  where status = 'processing' and coalesce(claimed_at, created_at) > clock_timestamp() - interval '1 hour';
  get diagnostics rows_released = row_count;

  select coalesce(json_object_agg(status, n order by status), '{}') into counts_after
  from (select status, count(*) as n from public.domain_events group by status) by_status;
  raise info 'domain_events: before %, after %; % rows from the backup, % back to pending',
    coalesce(counts_before::text, 'no table'), counts_after, rows_brought_back, rows_released
    using detail = json_build_object('outcome', outcome, 'before', counts_before, 'after', counts_after,
      'fromBackup', rows_brought_back, 'backToPending', rows_released)::text;
end
$restore$;
