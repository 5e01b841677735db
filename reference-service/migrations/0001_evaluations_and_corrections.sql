-- What a session was worth to the one who had it. A table of its own: completing a session stays one narrow update.
create table session_evaluations (
  session_id uuid primary key references sessions (id),
  score smallint not null check (score between 1 and 5),
  evaluated_at timestamptz not null default now()
);

-- What was done on an approved request: asked again, the same answer is given. Written with the rows it speaks of.
create table billing_corrections (
  request_id text not null,
  session_id uuid not null,
  kind text not null check (kind in ('duplicate', 'amount')),
  requested_by text not null,
  approved_by text not null,
  reason text not null,
  -- Ids of the ledger rows that were reversed, and of the one that was billed anew.
  reversed_ids bigint[] not null,
  billed_id bigint,
  corrected_at timestamptz not null default now(),
  primary key (request_id, session_id),
  check (lower(btrim(requested_by)) <> lower(btrim(approved_by)))
);

-- From a session to what was done to its bills.
create index billing_corrections_session_id on billing_corrections (session_id);
