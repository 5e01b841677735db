-- Level 2: what the rest of the repair needs. Only adds, so code of level 1 goes on working: it writes none of the
-- new columns and words, and reads past them.

-- Given to the predecessor's outbox: open until the bill is seen, and in no index that the claim walks.
ALTER TABLE replay_events
  DROP CONSTRAINT replay_events_status_check,
  ADD CONSTRAINT replay_events_status_check
    CHECK (status IN ('due', 'claimed', 'done', 'parked', 'handed_to_outbox')),
  -- When it was last given to the outbox; stays when it is done or due again.
  ADD COLUMN handed_at timestamptz,
  -- A person has decided that it is replayed although its fact has changed.
  ADD COLUMN match_waived boolean NOT NULL DEFAULT false,
  ADD CHECK (status <> 'handed_to_outbox' OR handed_at IS NOT NULL);
CREATE INDEX replay_events_handed ON replay_events (handed_at, event_id) WHERE status = 'handed_to_outbox';
-- What may be purged, oldest first.
CREATE INDEX replay_events_done ON replay_events (finished_at) WHERE status = 'done';

-- Hashes of versions that were aborted: their events are compared with their facts before each call.
CREATE INDEX requests_of_aborted_hashes ON requests ((scope ->> 'published_hash'))
  WHERE kind = 'replay' AND scope ? 'published_hash';

-- `Ann ` is no other person than `ann`, whatever the service makes of it.
ALTER TABLE requests
  ADD CONSTRAINT requests_approver_is_another CHECK (lower(btrim(approved_by)) <> lower(btrim(requested_by)));

-- The work of a request of kind rebuild or correction: one row per finding that it names.
CREATE TABLE request_items (
  request_id bigint NOT NULL,
  finding_id bigint NOT NULL,
  status text NOT NULL DEFAULT 'due' CHECK (status IN ('due', 'claimed', 'done', 'given_up')),
  claim_token uuid,
  claimed_by text,
  lease_until timestamptz,
  -- As in replay_events: calls that reached a handler, that did not, and that were begun and never finished.
  handler_attempts integer NOT NULL DEFAULT 0,
  transport_attempts integer NOT NULL DEFAULT 0,
  unfinished_calls integer NOT NULL DEFAULT 0,
  next_attempt_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  last_attempt_at timestamptz,
  -- What the service said, or why it was not asked; ids and codes only.
  outcome text,
  error text,
  made_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  finished_at timestamptz,
  PRIMARY KEY (request_id, finding_id),
  CHECK ((status = 'claimed') = (claim_token IS NOT NULL)),
  CHECK ((status = 'claimed') = (lease_until IS NOT NULL)),
  CHECK ((status IN ('done', 'given_up')) = (finished_at IS NOT NULL))
);
CREATE INDEX request_items_due ON request_items (next_attempt_at, request_id, finding_id) WHERE status = 'due';
CREATE INDEX request_items_claimed ON request_items (lease_until) WHERE status = 'claimed';
-- What became of a finding when it was last asked for.
CREATE INDEX request_items_finding ON request_items (finding_id);

-- By which waiver a finding is waived: it comes back when that ends.
ALTER TABLE discrepancies ADD COLUMN waiver_id bigint;
CREATE INDEX discrepancies_waived ON discrepancies (waiver_id) WHERE status = 'waived';

-- A person may end both before their time.
ALTER TABLE waivers ADD COLUMN ended_at timestamptz, ADD COLUMN ended_by text;
ALTER TABLE freezes ADD COLUMN released_by text;

-- A correction is asked for by a person, through the function `request` alone: it runs as the owner of the table.
CREATE FUNCTION refuse_forged_correction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF NOT pg_has_role(current_user, (SELECT relowner FROM pg_catalog.pg_class WHERE oid = TG_RELID), 'USAGE') THEN
    RAISE EXCEPTION 'a correction is requested by a person, through the function request' USING ERRCODE = '42501';
  END IF;
  RETURN NEW;
END
$$;
CREATE TRIGGER corrections_by_people BEFORE INSERT OR UPDATE OF kind ON requests
  FOR EACH ROW WHEN (NEW.kind = 'correction') EXECUTE FUNCTION refuse_forged_correction();

UPDATE schema_version SET level = 2, changed_at = clock_timestamp();
