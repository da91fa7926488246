-- Database roles for the parts of a running service and for the nightly job, each with what its statements
-- need and no more.
--
--   psql "$ADMITONE_DATABASE_URL" --file docs/sql/roles.sql --file docs/sql/passwords.sql
--
-- as the owner of the tables, after migrating. To make the roles it needs CREATEROLE, and nothing once they are
-- there. Safe to run again. No role, the owner included, can change or remove an audit entry: a trigger refuses
-- it, and these roles are not even allowed to try.

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'admitone_api') THEN
        CREATE ROLE admitone_api;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'admitone_worker') THEN
        CREATE ROLE admitone_worker;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'admitone_tidy') THEN
        CREATE ROLE admitone_tidy;
    END IF;
END $$;

GRANT USAGE ON SCHEMA public TO admitone_api, admitone_worker, admitone_tidy;
GRANT SELECT ON alembic_version, event, registration, audit_entry, ledger, command, pending_command, outcome,
    idempotency_key, ledger_mark, trouble, organiser, api_key, event_protection TO admitone_api, admitone_worker;

-- The API accepts: it adds events, commands and API keys, and changes nothing that is there but the
-- end of a key and the protection of an event, on which no decision depends.
GRANT INSERT ON event, command, pending_command, idempotency_key TO admitone_api;
GRANT INSERT ON organiser, api_key TO admitone_api;
GRANT INSERT, UPDATE ON event_protection TO admitone_api;
GRANT UPDATE (revoked_at) ON api_key TO admitone_api;
GRANT SELECT, USAGE ON SEQUENCE command_seq_seq TO admitone_api;

-- The worker decides: it settles commands, moves counters and registrations, adds to the audit trail, and adds
-- the commands that follow from commands.
GRANT UPDATE ON event TO admitone_worker;
GRANT INSERT ON outcome TO admitone_worker;
GRANT DELETE ON pending_command, idempotency_key TO admitone_worker;
GRANT UPDATE ON ledger_mark TO admitone_worker;
GRANT SELECT ON SEQUENCE command_seq_seq TO admitone_worker;
GRANT INSERT, UPDATE, DELETE ON registration TO admitone_worker;
GRANT INSERT ON command, pending_command, audit_entry TO admitone_worker;
-- And it empties payloads, when it erases what is personal.
GRANT UPDATE (payload) ON command TO admitone_worker;
GRANT INSERT, UPDATE, DELETE ON trouble TO admitone_worker;

-- The nightly job forgets: it deletes refused commands and those of deleted registrations, old keys, ended API keys, notes, and empties payloads.
GRANT SELECT ON command, outcome, idempotency_key, trouble, api_key TO admitone_tidy;
GRANT SELECT (id, closes_at, promote_until, cancel_until, archived, deleted, updated_at) ON event TO admitone_tidy;
GRANT UPDATE (payload) ON command TO admitone_tidy;
GRANT DELETE ON command, outcome, idempotency_key, trouble, api_key TO admitone_tidy;

-- Readiness and `admitone status` look at sessions of other roles. Without this they work, and do not tell how
-- long a session has been silent. From PostgreSQL 16 on, CREATEROLE alone may not grant it: a superuser can.
DO $$
BEGIN
    GRANT pg_read_all_stats TO admitone_api, admitone_worker;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'pg_read_all_stats is not granted: a superuser can GRANT it TO admitone_api, admitone_worker';
END $$;
