-- The outbox: one row per event, written in the transaction that publishes it, delivered by the publisher that polls.
create table if not exists domain_events (
  -- Of an event handed over from event_backups its event_id, so that it enters once.
  id text primary key default gen_random_uuid()::text,
  event_type text not null,
  aggregate_id text not null,
  payload jsonb not null,
  status text not null default 'pending' check (status in ('pending', 'processing', 'published', 'failed')),
  -- When it may be claimed: now, after a failure a while later, and where it is claimed once that claim has run out.
  available_at timestamptz not null default now(),
  attempts integer not null default 0,
  -- New with every claim: a late publisher whose claim was taken over matches no row.
  claimed_by text,
  claimed_at timestamptz,
  published_at timestamptz,
  -- Class or code of the last failure; never a message, which may hold personal data.
  error text,
  created_at timestamptz not null default now()
);

-- What the publisher claims, in its order: only open rows, so it stays small, whatever the table's age.
create index if not exists domain_events_open on domain_events (available_at, id)
  where status in ('pending', 'processing');
