-- Applied by the schema job after each migration, with search_path set to the state schema. Gives each role of
-- design what it needs on our own tables, and no more; a role that does not exist is passed over. The audit
-- takes rows and never gives one up: nobody is granted UPDATE or DELETE on it.

DO $$
DECLARE
  own_schema text := current_schema();
BEGIN
  -- A new function may be called by everybody until somebody says otherwise.
  EXECUTE format('REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA %I FROM PUBLIC', own_schema);
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_jobs') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_jobs', own_schema);
    GRANT SELECT ON schema_version, waivers, freezes TO counterfoil_jobs;
    GRANT SELECT, INSERT, UPDATE ON job_runs, checks, discrepancies, request_items TO counterfoil_jobs;
    GRANT SELECT, INSERT, UPDATE, DELETE ON job_leases, horizon_snapshots, reconciliation_windows, replay_events
      TO counterfoil_jobs;
    GRANT SELECT, INSERT ON audit, replay_source TO counterfoil_jobs;
    -- Who asked and who approved is never for a job to say.
    REVOKE INSERT, UPDATE ON requests FROM counterfoil_jobs;
    GRANT SELECT, INSERT (kind, scope, check_name, reason), UPDATE (status, run_id, result, finished_at)
      ON requests TO counterfoil_jobs;
    GRANT EXECUTE ON FUNCTION waiver_of(text, text, text, text, text, text, timestamptz) TO counterfoil_jobs;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_exporter') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_exporter', own_schema);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO counterfoil_exporter', own_schema);
    REVOKE INSERT ON requests FROM counterfoil_exporter;
    GRANT INSERT (kind, scope, check_name, reason) ON requests TO counterfoil_exporter;
    GRANT INSERT ON audit TO counterfoil_exporter;
  END IF;
  -- Optional (retention-role.sql): reads what may still need an event, and writes no word of it.
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_retention') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_retention', own_schema);
    GRANT SELECT ON schema_version, freezes, replay_events TO counterfoil_retention;
    GRANT SELECT (name, definition_hash, verified_through) ON checks TO counterfoil_retention;
    GRANT SELECT (id, check_name, kind, key, status, event_id) ON discrepancies TO counterfoil_retention;
    GRANT SELECT (id, status, scope) ON requests TO counterfoil_retention;
    GRANT SELECT, INSERT, UPDATE, DELETE ON job_runs, job_leases TO counterfoil_retention;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_people') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_people', own_schema);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO counterfoil_people', own_schema);
    GRANT EXECUTE ON FUNCTION
      acknowledge(bigint[], timestamptz, text), waive(text, jsonb, timestamptz, text), end_waiver(bigint, text),
      unpark(text[], text), request(text, jsonb, text, text), approve(bigint, text), refuse(bigint, text),
      freeze(timestamptz, text), release(bigint, text)
      TO counterfoil_people;
  END IF;
END
$$;
