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
