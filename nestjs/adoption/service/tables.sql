-- What the adopting service has before it meets the module.
create table sessions (
  id text primary key,
  amount_minor bigint not null,
  currency text not null,
  completed_at timestamptz
);

create table mentor_payable_ledgers (
  id bigint generated always as identity primary key,
  session_id text not null references sessions (id),
  amount_minor bigint not null,
  currency text not null,
  idempotency_key text not null unique,
  event_id text not null,
  created_at timestamptz not null default now()
);
