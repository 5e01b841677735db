-- republish_to_outbox(event_id): hands an event of event_backups to the outbox, for a stable release that has no replay
-- endpoint. True where it was inserted, false where the outbox has it already. It inserts and nothing else; a repeat,
-- and any number of calls at once, insert one row. Errors: 22004 no id given, P0002 there is no such event, 0A000 the
-- outbox has no listener of its type, 42P01 there is no outbox. Run it as the owner of both tables; safe to run again.
-- Tables are in schema public: if yours are not, change it here, since the search path is fixed.
do $install$
begin
  create or replace function public.republish_to_outbox(event_id text) returns boolean
    language plpgsql
    security definer
    set search_path = pg_catalog, pg_temp
  as $body$
  #variable_conflict use_column
  declare
    backup record;
    inserted bigint;
  begin
    if republish_to_outbox.event_id is null then
      raise exception 'republish_to_outbox: no event id was given' using errcode = 'null_value_not_allowed';
    end if;
    if to_regclass('public.domain_events') is null then
      raise exception 'republish_to_outbox: there is no outbox in this database'
        using errcode = 'undefined_table', hint = 'Run restore_domain_events.sql first.';
    end if;
    select b.event_name, b.payload into backup
    from public.event_backups b where b.event_id = republish_to_outbox.event_id;
    if not found then
      raise exception 'republish_to_outbox: there is no such event in event_backups'
        using errcode = 'no_data_found';
    end if;
    -- Refused here, where the caller sees it: in the outbox it could only become a failed row.
    if backup.event_name <> 'services.session.completed.v1' then
      raise exception 'republish_to_outbox: the outbox has no listener of this type of event'
        using errcode = 'feature_not_supported';
    end if;
    -- The key decides among concurrent calls: the others wait here for the first and then insert nothing.
    insert into public.domain_events (id, event_type, aggregate_id, payload)
    values (
      republish_to_outbox.event_id,
      backup.event_name,
      coalesce(backup.payload ->> 'sessionId', republish_to_outbox.event_id),
      backup.payload
    )
    on conflict (id) do nothing;
    get diagnostics inserted = row_count;
    return inserted = 1;
  end
  $body$;

  -- In the same transaction: at no moment may anybody else call it.
  revoke all on function public.republish_to_outbox(text) from public;
  if exists (select from pg_catalog.pg_roles where rolname = 'counterfoil_jobs') then
    grant execute on function public.republish_to_outbox(text) to counterfoil_jobs;
  end if;
end
$install$;
