-- Run once by whoever administers the database, before the first schema job; safe to run again.
-- Names used here: state schema "counterfoil", service schema "public", tables of the default check. If yours
-- differ, change them here and in the settings (CF_SCHEMA, the file of checks, CF_EVENTS_TABLE).
-- Passwords are yours to set: ALTER ROLE counterfoil_jobs LOGIN PASSWORD '…';

DO $$
DECLARE
  role_name text;
BEGIN
  FOREACH role_name IN ARRAY ARRAY['counterfoil_owner', 'counterfoil_jobs', 'counterfoil_exporter'] LOOP
    BEGIN
      EXECUTE format('CREATE ROLE %I LOGIN', role_name);
    EXCEPTION WHEN duplicate_object OR unique_violation THEN
      NULL; -- it is there already, or another session is making it at this moment
    END;
  END LOOP;
END
$$;

-- A group without a login: a person has a login of their own and is a member of it,
-- GRANT counterfoil_people TO ann; Logins are never shared, since they are who asked and who approved.
DO $$
BEGIN
  CREATE ROLE counterfoil_people NOLOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL;
END
$$;

-- The owner migrates our schema and nothing else.
CREATE SCHEMA IF NOT EXISTS counterfoil AUTHORIZATION counterfoil_owner;
GRANT USAGE ON SCHEMA counterfoil TO counterfoil_jobs, counterfoil_exporter, counterfoil_people;
-- The rights on the tables inside it are given by the schema job (grants.sql).

-- The jobs read the service's tables; Postgres refuses them any write there.
GRANT USAGE ON SCHEMA public TO counterfoil_jobs, counterfoil_exporter;
GRANT SELECT ON public.sessions, public.mentor_payable_ledgers TO counterfoil_jobs, counterfoil_exporter;
DO $$
DECLARE
  optional_table text;
BEGIN
  FOREACH optional_table IN ARRAY ARRAY['public.event_backups', 'public.event_deliveries'] LOOP
    IF to_regclass(optional_table) IS NOT NULL THEN
      EXECUTE format('GRANT SELECT ON %s TO counterfoil_jobs, counterfoil_exporter', optional_table);
    END IF;
  END LOOP;
END
$$;

-- Optional, while the service's predecessor stands in for it (CF_REPUBLISH_FUNCTION): its owner installs the
-- function, and the jobs may call it and nothing else of the outbox.
DO $$
BEGIN
  IF to_regprocedure('public.republish_to_outbox(text)') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION public.republish_to_outbox(text) TO counterfoil_jobs;
  END IF;
END
$$;

-- Optional, and advised: lets the jobs see when the transactions of others began, so that the horizon is exact.
-- Without it they remember snapshots and wait longer. Needs a superuser or the admin option on the role.
-- GRANT pg_read_all_stats TO counterfoil_jobs;
