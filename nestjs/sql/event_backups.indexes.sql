-- The indexes of event_backups.sql for a table that is in use already, built without holding up anybody. Each statement
-- stands alone, outside a transaction, as psql sends it: psql --file=event_backups.indexes.sql. May be run again; an index
-- that a broken-off run left invalid (\d event_backups shows it) is dropped first.

-- What is still pending, oldest first: stays small, whatever the table's age.
create index concurrently if not exists event_backups_pending on event_backups (status, created_at) where status = 'pending';

-- Windows of time: retention, and the look-up of what a release has published.
create index concurrently if not exists event_backups_created_at on event_backups (created_at);

-- From a session to its events: the cause of a missing bill without a scan of the window.
create index concurrently if not exists event_backups_session_id on event_backups ((payload ->> 'sessionId'));
