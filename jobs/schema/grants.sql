-- Applied by the schema job after each migration, with search_path set to the state schema. Gives each role of
-- design what it needs on our own tables, and no more; a role that does not exist is passed over. The audit
-- takes rows and never gives one up: nobody is granted UPDATE or DELETE on it.

DO $$
DECLARE
  own_schema text := current_schema();
BEGIN
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_jobs') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_jobs', own_schema);
    GRANT SELECT ON schema_version, waivers, freezes TO counterfoil_jobs;
    GRANT SELECT, INSERT, UPDATE ON job_runs, checks, discrepancies, replay_events, requests TO counterfoil_jobs;
    GRANT SELECT, INSERT, UPDATE, DELETE ON job_leases, horizon_snapshots, reconciliation_windows
      TO counterfoil_jobs;
    GRANT SELECT, INSERT ON audit, replay_source TO counterfoil_jobs;
  END IF;
  IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'counterfoil_exporter') THEN
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO counterfoil_exporter', own_schema);
    EXECUTE format('GRANT SELECT ON ALL TABLES IN SCHEMA %I TO counterfoil_exporter', own_schema);
    GRANT INSERT ON requests, audit TO counterfoil_exporter;
  END IF;
END
$$;
