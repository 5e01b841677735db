-- Made by npm run schema from migrations/, without the tables of the module: those stand in nestjs/sql.

-- Sessions, and what is owed to mentors for them.

create table sessions (
  id uuid primary key,
  contract_id text not null,
  mentor_id text not null,
  amount_minor bigint not null check (amount_minor >= 0),
  currency text not null,
  created_at timestamptz not null default now(),
  completed_at timestamptz
);

-- Windows of completed sessions: what must be billed.
create index sessions_completed_at on sessions (completed_at);

create table mentor_payable_ledgers (
  id bigint generated always as identity primary key,
  session_id uuid not null,
  mentor_id text not null,
  amount_minor bigint not null,
  currency text not null,
  -- session:<id>:<n>: one bill per session, whoever asks and how often; a bill corrected after a reversal takes the
  -- next n. reversal:<ledger id>: a row is reversed once.
  idempotency_key text not null unique,
  reverses_id bigint references mentor_payable_ledgers (id),
  created_at timestamptz not null default now()
);

-- From a session to its bills, and windows of bills.
create index mentor_payable_ledgers_session_id on mentor_payable_ledgers (session_id);
create index mentor_payable_ledgers_created_at on mentor_payable_ledgers (created_at);

-- From a bill to the row that reverses it.
create index mentor_payable_ledgers_reverses_id on mentor_payable_ledgers (reverses_id);

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

-- What was agreed: units of a service at a price. The row itself says what may still be consumed.
create table contracts (
  id uuid primary key,
  mentor_id text not null,
  currency text not null,
  unit_price_minor bigint not null check (unit_price_minor >= 0),
  total_units integer not null check (total_units > 0),
  consumed_units integer not null default 0,
  status text not null default 'signed' check (status in ('signed', 'active')),
  signed_at timestamptz not null default now(),
  activated_at timestamptz,
  check (consumed_units between 0 and total_units),
  check ((status = 'active') = (activated_at is not null))
);

create table service_consumptions (
  id uuid primary key,
  contract_id uuid not null references contracts (id),
  units integer not null check (units > 0),
  consumed_at timestamptz not null default now()
);
create index service_consumptions_contract_id on service_consumptions (contract_id);

-- Written by listeners, from events alone.

-- When a contract became active, and by which event that was learnt.
create table contract_activations (
  contract_id uuid primary key,
  event_id text not null,
  activated_at timestamptz not null,
  recorded_at timestamptz not null default now()
);

-- One row per event of consumption: what makes counting it a second time impossible.
create table counted_consumptions (
  event_id text primary key,
  contract_id uuid not null,
  units integer not null check (units > 0),
  counted_at timestamptz not null default now()
);

-- The sum of them, in the order in which they come: signing and consuming may be learnt in any.
create table contract_balances (
  contract_id uuid primary key,
  total_units integer,
  consumed_units integer not null default 0 check (consumed_units >= 0),
  opened_at timestamptz
);

-- To whom a contract's sessions are owed, and in which currency.
create table mentor_payable_accounts (
  contract_id uuid primary key,
  mentor_id text not null,
  currency text not null,
  opened_at timestamptz not null default now()
);
