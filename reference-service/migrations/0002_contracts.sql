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
