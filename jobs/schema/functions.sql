-- Applied by the schema job after the migrations, with search_path set to the state schema. What a person may do, as
-- functions: each checks what it was given, records who called it (session_user, which neither SET ROLE nor a
-- function changes) and writes one audit row. They run as the owner of the schema, so their path is fixed, with the
-- callers' temporary objects last.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', true);

-- Not for callers: what several of the functions below check, and how they write the audit.

CREATE OR REPLACE FUNCTION check_decision(reason text, until timestamptz, longest interval) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  IF coalesce(btrim(check_decision.reason), '') = '' OR length(check_decision.reason) > 500 THEN
    RAISE EXCEPTION 'the reason must be a text of 1 to 500 characters' USING ERRCODE = '22023';
  END IF;
  IF check_decision.longest IS NOT NULL
     AND (check_decision.until > clock_timestamp() AND check_decision.until <= clock_timestamp() + check_decision.longest)
         IS NOT TRUE THEN
    RAISE EXCEPTION 'the end must lie in the future, at most % from now', check_decision.longest
      USING ERRCODE = '22023';
  END IF;
END
$$;

-- Locks the findings in the order of their ids, and refuses what is not there or not in one of these statuses.
CREATE OR REPLACE FUNCTION lock_findings(findings bigint[], statuses text[], most integer) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  wrong text;
BEGIN
  IF coalesce(cardinality(findings), 0) NOT BETWEEN 1 AND most OR array_position(findings, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'name 1 to % findings by their ids', most USING ERRCODE = '22023';
  END IF;
  PERFORM FROM discrepancies AS d WHERE d.id = ANY (findings) ORDER BY d.id FOR UPDATE;
  SELECT string_agg(wanted.id::text, ', ' ORDER BY wanted.id) INTO wrong
    FROM unnest(findings) AS wanted (id) WHERE NOT EXISTS (SELECT FROM discrepancies AS d WHERE d.id = wanted.id);
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'there is no finding %', wrong USING ERRCODE = 'P0002';
  END IF;
  SELECT string_agg(d.id || ' is ' || d.status, ', ' ORDER BY d.id) INTO wrong
    FROM discrepancies AS d WHERE d.id = ANY (findings) AND d.status <> ALL (statuses);
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'a finding must be %: %', array_to_string(statuses, ' or '), wrong USING ERRCODE = '22023';
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION audit_decision(action text, reason text, check_name text, request_id bigint, scope jsonb,
                                          counts jsonb) RETURNS void
LANGUAGE sql AS $$
  INSERT INTO audit (installation, actor, action, reason, request_id, scope, counts)
  SELECT coalesce((SELECT c.installation FROM checks AS c WHERE c.name = check_name),
                  (SELECT s.installation FROM replay_source AS s),
                  (SELECT c.installation FROM checks AS c ORDER BY c.declared_at LIMIT 1),
                  'none yet'),
         session_user, action, reason, request_id, scope, counts
$$;

-- The first waiver alive that a finding of this description falls under, or null. Runs ask it too.
CREATE OR REPLACE FUNCTION waiver_of(check_name text, kind text, cause text, key text, published_hash text,
                                     currency text, fact_at timestamptz) RETURNS bigint
LANGUAGE sql STABLE AS $$
  SELECT w.id FROM waivers AS w
   WHERE w.check_name = $1 AND w.ended_at IS NULL
     AND (w.waived_until IS NULL OR w.waived_until > statement_timestamp())
     AND (NOT w.filter ? 'kind' OR w.filter ->> 'kind' = $2)
     AND (NOT w.filter ? 'cause' OR w.filter ->> 'cause' = $3)
     AND (NOT w.filter ? 'keys'
          OR EXISTS (SELECT FROM jsonb_array_elements(w.filter -> 'keys') AS k WHERE k = $4::jsonb))
     AND (NOT w.filter ? 'published_hash' OR w.filter ->> 'published_hash' = $5)
     AND (NOT w.filter ? 'currency' OR w.filter ->> 'currency' = $6)
     AND (NOT w.filter ? 'from' OR $7 >= (w.filter ->> 'from')::timestamptz)
     AND (NOT w.filter ? 'to' OR $7 < (w.filter ->> 'to')::timestamptz)
   ORDER BY w.id LIMIT 1
$$;

-- What a correction is about, as it stands now.
CREATE OR REPLACE FUNCTION correction_facts(findings bigint[]) RETURNS jsonb
LANGUAGE sql STABLE SET search_path FROM CURRENT AS $$
  SELECT jsonb_agg(jsonb_build_object(
           'finding', d.id::text, 'key', d.key::jsonb, 'kind', d.kind,
           'expectedMinor', trim_scale(d.expected_minor)::text, 'actualMinor', trim_scale(d.actual_minor)::text,
           'currency', d.currency, 'ledgerRows', d.ledger_rows) ORDER BY d.id)
    FROM discrepancies AS d WHERE d.id = ANY (findings)
$$;

-- For callers: members of counterfoil_people.

CREATE OR REPLACE FUNCTION acknowledge(findings bigint[], until timestamptz, reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  changed integer;
BEGIN
  PERFORM check_decision(acknowledge.reason, acknowledge.until, interval '1 year');
  PERFORM lock_findings(acknowledge.findings, ARRAY['suspected', 'open', 'acknowledged'], 10000);
  UPDATE discrepancies AS d
     SET status = 'acknowledged', acknowledged_by = session_user, acknowledged_until = acknowledge.until,
         status_reason = acknowledge.reason,
         status_changed_at = CASE d.status WHEN 'acknowledged' THEN d.status_changed_at ELSE clock_timestamp() END
   WHERE d.id = ANY (acknowledge.findings) AND d.status IN ('suspected', 'open', 'acknowledged');
  GET DIAGNOSTICS changed = ROW_COUNT;
  PERFORM audit_decision('acknowledged', acknowledge.reason,
                         (SELECT min(d.check_name) FROM discrepancies AS d WHERE d.id = ANY (acknowledge.findings)), NULL,
                         jsonb_build_object('findings', acknowledge.findings, 'until', acknowledge.until),
                         jsonb_build_object('findings', changed));
  RETURN changed;
END
$$;

-- Gives the id of the waiver. What matches it now is waived at once, what is found later by the run that finds it.
CREATE OR REPLACE FUNCTION waive(check_name text, filter jsonb, until timestamptz, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  unknown text;
  waiver bigint;
  changed integer;
BEGIN
  PERFORM check_decision(waive.reason, waive.until, interval '1 year');
  IF NOT EXISTS (SELECT FROM checks AS c WHERE c.name = waive.check_name) THEN
    RAISE EXCEPTION 'there is no check %', waive.check_name USING ERRCODE = 'P0002';
  END IF;
  IF jsonb_typeof(waive.filter) IS DISTINCT FROM 'object' OR waive.filter = '{}' THEN
    RAISE EXCEPTION 'the filter must be an object with at least one of kind, cause, keys, published_hash, currency, from, to'
      USING ERRCODE = '22023';
  END IF;
  SELECT string_agg(f.name, ', ' ORDER BY f.name) INTO unknown
    FROM jsonb_each(waive.filter) AS f (name, value)
   WHERE CASE
           WHEN f.name = 'kind' THEN f.value NOT IN ('"missing"', '"duplicate"', '"amount"', '"orphan"')
           WHEN f.name = 'cause'
             THEN f.value NOT IN ('"event_pending"', '"event_parked"', '"processed_without_ledger"',
                                  '"never_published"', '"unknown"')
           WHEN f.name = 'keys' THEN jsonb_typeof(f.value) <> 'array' OR f.value = '[]'
                                     OR jsonb_path_exists(f.value, 'strict $[*] ? (@.type() != "array")', '{}', true)
           WHEN f.name IN ('published_hash', 'currency', 'from', 'to') THEN jsonb_typeof(f.value) <> 'string'
           ELSE true END;
  IF unknown IS NOT NULL THEN
    RAISE EXCEPTION 'the filter cannot be used: %', unknown USING ERRCODE = '22023',
      HINT = 'kind and cause are words of the glossary, keys a list of keys such as [["42"]], the others are texts';
  END IF;
  -- A time that is none is refused here, and not by every run that looks at the waiver.
  PERFORM (waive.filter ->> 'from')::timestamptz, (waive.filter ->> 'to')::timestamptz;
  INSERT INTO waivers (check_name, filter, reason, waived_by, waived_until)
  VALUES (waive.check_name, waive.filter, waive.reason, session_user, waive.until) RETURNING id INTO waiver;
  PERFORM FROM discrepancies AS d
    WHERE d.check_name = waive.check_name AND d.status IN ('suspected', 'open', 'acknowledged')
    ORDER BY d.id FOR UPDATE;
  UPDATE discrepancies AS d
     SET status = 'waived', waiver_id = waiver, status_changed_at = clock_timestamp(), status_reason = waive.reason,
         acknowledged_by = NULL, acknowledged_until = NULL
   WHERE d.check_name = waive.check_name AND d.status IN ('suspected', 'open', 'acknowledged')
     AND waiver_of(d.check_name, d.kind, d.cause, d.key, d.published_hash, d.currency, d.fact_at) = waiver;
  GET DIAGNOSTICS changed = ROW_COUNT;
  PERFORM audit_decision('waived', waive.reason, waive.check_name, NULL,
                         jsonb_build_object('waiver', waiver, 'filter', waive.filter, 'until', waive.until),
                         jsonb_build_object('findings', changed));
  RETURN waiver;
END
$$;

-- Ends a waiver before its time: the next run brings its findings back.
CREATE OR REPLACE FUNCTION end_waiver(waiver_id bigint, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  its_check text;
BEGIN
  PERFORM check_decision(end_waiver.reason, NULL, NULL);
  UPDATE waivers AS w SET ended_at = clock_timestamp(), ended_by = session_user
   WHERE w.id = end_waiver.waiver_id AND w.ended_at IS NULL
     AND (w.waived_until IS NULL OR w.waived_until > clock_timestamp())
  RETURNING w.check_name INTO its_check;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no waiver % that has not ended', end_waiver.waiver_id USING ERRCODE = 'P0002';
  END IF;
  PERFORM audit_decision('waiver ended', end_waiver.reason, its_check, NULL,
                         jsonb_build_object('waiver', end_waiver.waiver_id), '{}');
END
$$;

-- Parked events, or ones that were given to the outbox, become due again with all their attempts. One that was
-- parked since its fact has changed is from now on replayed all the same.
CREATE OR REPLACE FUNCTION unpark(event_ids text[], reason text) RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  wrong text;
  changed integer;
BEGIN
  PERFORM check_decision(unpark.reason, NULL, NULL);
  IF coalesce(cardinality(event_ids), 0) NOT BETWEEN 1 AND 10000 OR array_position(event_ids, NULL) IS NOT NULL THEN
    RAISE EXCEPTION 'name 1 to 10000 events by their ids' USING ERRCODE = '22023';
  END IF;
  PERFORM FROM replay_events AS r WHERE r.event_id = ANY (event_ids) ORDER BY r.event_id FOR UPDATE;
  SELECT string_agg(wanted.id, ', ' ORDER BY wanted.id) INTO wrong
    FROM unnest(event_ids) AS wanted (id)
   WHERE NOT EXISTS (SELECT FROM replay_events AS r
                      WHERE r.event_id = wanted.id AND r.status IN ('parked', 'handed_to_outbox'));
  IF wrong IS NOT NULL THEN
    RAISE EXCEPTION 'no parked event, and none given to the outbox: %', wrong USING ERRCODE = 'P0002';
  END IF;
  UPDATE replay_events AS r
     SET status = 'due', match_waived = r.match_waived OR r.parked_reason IS NOT DISTINCT FROM 'fact_changed',
         parked_at = NULL, parked_reason = NULL, handler_attempts = 0, transport_attempts = 0, unfinished_calls = 0,
         refused_by_digests = '{}', next_attempt_at = clock_timestamp()
   WHERE r.event_id = ANY (event_ids) AND r.status IN ('parked', 'handed_to_outbox');
  GET DIAGNOSTICS changed = ROW_COUNT;
  PERFORM audit_decision('unparked', unpark.reason, NULL, NULL, jsonb_build_object('event_ids', unpark.event_ids),
                         jsonb_build_object('events', changed));
  RETURN changed;
END
$$;

-- Asks the jobs for something; gives the id of the request. A correction waits for the approval of another person.
CREATE OR REPLACE FUNCTION request(kind text, scope jsonb, reason text, check_name text DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  form text;
  findings bigint[];
  wrong text;
  made_scope jsonb := request.scope;
  made_check text := request.check_name;
  made bigint;
BEGIN
  PERFORM check_decision(request.reason, NULL, NULL);
  IF (request.kind IN ('replay', 'verify', 'rebuild', 'correction')) IS NOT TRUE THEN
    RAISE EXCEPTION 'a request is one of replay, verify, rebuild, correction' USING ERRCODE = '22023';
  END IF;
  IF jsonb_typeof(request.scope) IS DISTINCT FROM 'object' THEN
    RAISE EXCEPTION 'the scope must be an object' USING ERRCODE = '22023';
  END IF;
  SELECT string_agg(k, '+' ORDER BY k) INTO form FROM jsonb_object_keys(request.scope) AS k;
  IF (form = ANY (CASE request.kind
                    WHEN 'replay' THEN ARRAY['event_ids', 'from+to', 'from+published_hash+to']
                    WHEN 'verify' THEN ARRAY['findings', 'from+to', 'from+published_hash+to', 'published_hash']
                    ELSE ARRAY['findings'] END)) IS NOT TRUE THEN
    RAISE EXCEPTION 'the scope of a % must be %', request.kind,
      CASE request.kind
        WHEN 'replay' THEN '{"event_ids": […]} or {"from": …, "to": …} with "published_hash" where wanted'
        WHEN 'verify' THEN '{"findings": […]}, {"published_hash": …} or {"from": …, "to": …} with "published_hash" where wanted'
        ELSE '{"findings": […]}' END
      USING ERRCODE = '22023';
  END IF;
  IF request.scope ? 'from'
     AND ((request.scope ->> 'from')::timestamptz < (request.scope ->> 'to')::timestamptz) IS NOT TRUE THEN
    RAISE EXCEPTION 'from must lie before to' USING ERRCODE = '22023';
  END IF;
  IF request.scope ? 'from' THEN
    made_scope := request.scope || jsonb_build_object(
      'from', to_char((request.scope ->> 'from')::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
      'to', to_char((request.scope ->> 'to')::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'));
  END IF;
  IF request.scope ? 'event_ids'
     AND (jsonb_typeof(request.scope -> 'event_ids') <> 'array'
          OR jsonb_array_length(request.scope -> 'event_ids') NOT BETWEEN 1 AND 100000
          OR jsonb_path_exists(request.scope, 'strict $.event_ids[*] ? (@.type() != "string" || @ == "")', '{}', true)) THEN
    RAISE EXCEPTION 'event_ids must be a list of 1 to 100000 texts' USING ERRCODE = '22023';
  END IF;
  IF request.scope ? 'findings' THEN
    IF jsonb_typeof(request.scope -> 'findings') <> 'array'
       OR jsonb_path_exists(request.scope, 'strict $.findings[*] ? (@.type() != "number" && @.type() != "string")', '{}', true) THEN
      RAISE EXCEPTION 'findings must be a list of ids' USING ERRCODE = '22023';
    END IF;
    SELECT array_agg(DISTINCT f.id::bigint ORDER BY f.id::bigint) INTO findings
      FROM jsonb_array_elements_text(request.scope -> 'findings') AS f (id);
    PERFORM lock_findings(findings,
      CASE WHEN request.kind = 'verify' THEN ARRAY['suspected', 'open', 'acknowledged', 'resolved', 'waived']
           ELSE ARRAY['open', 'acknowledged'] END,
      CASE request.kind WHEN 'correction' THEN 100 WHEN 'rebuild' THEN 1000 ELSE 10000 END);
    made_scope := jsonb_build_object('findings', findings);
  END IF;
  IF request.kind IN ('rebuild', 'correction') THEN
    SELECT string_agg(d.id::text, ', ' ORDER BY d.id) INTO wrong
      FROM discrepancies AS d
     WHERE d.id = ANY (findings)
       AND (d.row_id <> '' OR d.kind <> ALL (CASE request.kind WHEN 'rebuild' THEN ARRAY['missing']
                                                                ELSE ARRAY['duplicate', 'amount'] END));
    IF wrong IS NOT NULL THEN
      RAISE EXCEPTION 'no % can mend finding %', request.kind, wrong USING ERRCODE = '22023',
        HINT = 'a rebuild is for missing bills, a correction for duplicate bills and wrong amounts';
    END IF;
    SELECT string_agg(DISTINCT d.check_name, ', ') INTO wrong FROM discrepancies AS d WHERE d.id = ANY (findings);
    IF wrong LIKE '%, %' OR wrong <> coalesce(made_check, wrong) THEN
      RAISE EXCEPTION 'the findings must be of one check, they are of %', wrong USING ERRCODE = '22023';
    END IF;
    made_check := wrong;
  ELSIF made_check IS NOT NULL AND NOT EXISTS (SELECT FROM checks AS c WHERE c.name = made_check) THEN
    RAISE EXCEPTION 'there is no check %', made_check USING ERRCODE = 'P0002';
  END IF;
  IF request.kind = 'correction' THEN
    SELECT string_agg(d.finding_id::text, ', ' ORDER BY d.finding_id) INTO wrong
      FROM request_items AS d JOIN requests AS q ON q.id = d.request_id
     WHERE d.finding_id = ANY (findings) AND d.status IN ('due', 'claimed') AND q.kind = 'correction';
    IF wrong IS NOT NULL OR EXISTS (
         SELECT FROM requests AS q
          WHERE q.kind = 'correction' AND q.status = 'open'
            AND EXISTS (SELECT FROM jsonb_array_elements_text(q.scope -> 'findings') AS f (id)
                         WHERE f.id::bigint = ANY (findings))) THEN
      RAISE EXCEPTION 'a correction of one of these findings was requested before and has not ended'
        USING ERRCODE = '22023';
    END IF;
    -- What the approver sees, and what the service compares with what it finds.
    made_scope := made_scope || jsonb_build_object('seen', correction_facts(findings));
  END IF;
  INSERT INTO requests (kind, scope, check_name, requested_by, reason)
  VALUES (request.kind, made_scope, made_check, session_user, request.reason) RETURNING id INTO made;
  PERFORM audit_decision(request.kind || ' requested', request.reason, made_check, made, made_scope, '{}');
  RETURN made;
END
$$;

-- Lets the jobs carry out a correction that somebody else asked for.
CREATE OR REPLACE FUNCTION approve(request_id bigint, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  asked requests;
  findings bigint[];
BEGIN
  PERFORM check_decision(approve.reason, NULL, NULL);
  SELECT q.* INTO asked FROM requests AS q WHERE q.id = approve.request_id FOR UPDATE;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no request %', approve.request_id USING ERRCODE = 'P0002';
  END IF;
  IF asked.kind <> 'correction' THEN
    RAISE EXCEPTION 'a % needs no approval', asked.kind USING ERRCODE = '22023';
  END IF;
  IF lower(btrim(asked.requested_by)) = lower(btrim(session_user)) THEN
    RAISE EXCEPTION 'request % is your own: another person has to approve it', asked.id USING ERRCODE = '42501';
  END IF;
  IF asked.status <> 'open' OR asked.approved_by IS NOT NULL THEN
    RAISE EXCEPTION 'request % is % and waits for no approval', asked.id,
      CASE WHEN asked.status = 'open' THEN 'approved' ELSE asked.status END USING ERRCODE = '22023';
  END IF;
  SELECT array_agg(f.id::bigint) INTO findings FROM jsonb_array_elements_text(asked.scope -> 'findings') AS f (id);
  IF correction_facts(findings) IS DISTINCT FROM asked.scope -> 'seen' THEN
    RAISE EXCEPTION 'what request % is about has changed since: refuse it and make a new one', asked.id
      USING ERRCODE = '22023';
  END IF;
  UPDATE requests AS q SET approved_by = session_user, approved_at = clock_timestamp()
   WHERE q.id = asked.id AND q.status = 'open' AND q.approved_by IS NULL;
  PERFORM audit_decision('correction approved', approve.reason, asked.check_name, asked.id,
                         asked.scope || jsonb_build_object('requested_by', asked.requested_by), '{}');
END
$$;

-- Ends a request that no run has taken yet.
CREATE OR REPLACE FUNCTION refuse(request_id bigint, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  asked requests;
BEGIN
  PERFORM check_decision(refuse.reason, NULL, NULL);
  UPDATE requests AS q
     SET status = 'refused', finished_at = clock_timestamp(),
         result = jsonb_build_object('problem', refuse.reason, 'refused_by', session_user)
   WHERE q.id = refuse.request_id AND q.status = 'open'
  RETURNING q.* INTO asked;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no open request %', refuse.request_id USING ERRCODE = 'P0002';
  END IF;
  PERFORM audit_decision(asked.kind || ' refused', refuse.reason, asked.check_name, asked.id, asked.scope, '{}');
END
$$;

-- While a freeze lives, every run but its owner's ends as skipped; gives its id. Its parameters go by number, since
-- FREEZE is a word of SQL and qualifies nothing.
CREATE OR REPLACE FUNCTION freeze(until timestamptz, reason text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
DECLARE
  made bigint;
BEGIN
  PERFORM check_decision($2, $1, interval '7 days');
  INSERT INTO freezes (frozen_by, reason, frozen_until) VALUES (session_user, $2, $1)
  RETURNING id INTO made;
  PERFORM audit_decision('frozen', $2, NULL, NULL,
                         jsonb_build_object('freeze', made, 'until', $1), '{}');
  RETURN made;
END
$$;

CREATE OR REPLACE FUNCTION release(freeze_id bigint, reason text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
#variable_conflict use_column
BEGIN
  PERFORM check_decision(release.reason, NULL, NULL);
  UPDATE freezes AS f SET released_at = clock_timestamp(), released_by = session_user
   WHERE f.id = release.freeze_id AND f.released_at IS NULL AND f.frozen_until > clock_timestamp();
  IF NOT FOUND THEN
    RAISE EXCEPTION 'there is no freeze % that is alive', release.freeze_id USING ERRCODE = 'P0002';
  END IF;
  PERFORM audit_decision('released', release.reason, NULL, NULL, jsonb_build_object('freeze', release.freeze_id), '{}');
END
$$;
