-- Optional: the role of backup-retention, the only one of ours that may take rows away from a table of the service. Run
-- once by whoever administers the database, after roles.sql; then the schema job once more, which gives it its rights on
-- the state schema. Safe to run again. Names as in roles.sql: if yours differ, change them here and in the settings.
-- The password is yours to set: ALTER ROLE counterfoil_retention LOGIN PASSWORD '…';

DO $$
BEGIN
  CREATE ROLE counterfoil_retention LOGIN;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL; -- it is there already, or another session is making it at this moment
END
$$;

GRANT USAGE ON SCHEMA counterfoil, public TO counterfoil_retention;
GRANT SELECT ON public.event_backups TO counterfoil_retention;

-- Where the table is partitioned by day, days are dropped by the owner's function, and rows are deleted in the default
-- partition alone; nothing there takes the deliveries along. Else rows are deleted, and their deliveries go by the cascade.
DO $$
BEGIN
  IF to_regprocedure('public.event_backups_drop_one_day(date)') IS NOT NULL THEN
    GRANT EXECUTE ON FUNCTION public.event_backups_drop_one_day(date) TO counterfoil_retention;
    GRANT SELECT, DELETE ON public.event_backups_default, public.event_deliveries TO counterfoil_retention;
  ELSE
    GRANT DELETE ON public.event_backups TO counterfoil_retention;
  END IF;
END
$$;
