-- The schema of migration 0008, as a released version made it.
CREATE FUNCTION public.refuse_rewriting_the_audit_trail() RETURNS trigger
    LANGUAGE plpgsql
    AS $$
BEGIN
    RAISE EXCEPTION 'the audit trail is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
CREATE TABLE public.alembic_version (
    version_num character varying(32) NOT NULL
);
CREATE TABLE public.audit_entry (
    event_id uuid NOT NULL,
    number bigint NOT NULL,
    command_id uuid,
    kind text NOT NULL,
    actor text NOT NULL,
    reason text,
    registration_id uuid,
    from_status text,
    to_status text,
    before_after jsonb,
    spots_delta integer NOT NULL,
    spots_reserved integer NOT NULL,
    at timestamp with time zone NOT NULL,
    hash bytea NOT NULL
);
COMMENT ON COLUMN public.audit_entry.command_id IS 'null for a registration that was there before the trail';
COMMENT ON COLUMN public.audit_entry.kind IS 'the command''s kind, or promotion';
COMMENT ON COLUMN public.audit_entry.before_after IS '[before, after] of every setting that changed';
COMMENT ON COLUMN public.audit_entry.spots_reserved IS 'the counter after this entry';
COMMENT ON COLUMN public.audit_entry.hash IS 'SHA-256 over the entry before and this one';
CREATE TABLE public.command (
    event_id uuid NOT NULL,
    id uuid NOT NULL,
    seq bigint NOT NULL,
    kind text NOT NULL,
    payload jsonb NOT NULL,
    actor text NOT NULL,
    accepted_at timestamp with time zone DEFAULT clock_timestamp() NOT NULL,
    version smallint DEFAULT 1 NOT NULL
);
COMMENT ON COLUMN public.command.version IS 'the version of the commands'' format that a reader must know';
ALTER TABLE public.command ALTER COLUMN seq ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME public.command_seq_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);
CREATE TABLE public.event (
    id uuid NOT NULL,
    slug text NOT NULL,
    title text NOT NULL,
    capacity integer NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    spots_reserved integer DEFAULT 0 NOT NULL,
    overbooked_spots integer DEFAULT 0 NOT NULL,
    waitlist_length integer DEFAULT 0 NOT NULL,
    waitlist_enabled boolean DEFAULT true NOT NULL,
    waitlist_limit integer,
    promotion_policy text DEFAULT 'strict_fifo'::text NOT NULL,
    auto_promote boolean DEFAULT true NOT NULL,
    max_spots_per_registration integer DEFAULT 10 NOT NULL,
    opens_at timestamp with time zone,
    closes_at timestamp with time zone,
    paused boolean DEFAULT false NOT NULL,
    audit_seq bigint DEFAULT 0 NOT NULL,
    follow_up_id uuid,
    CONSTRAINT event_capacity_not_negative CHECK ((capacity >= 0)),
    CONSTRAINT event_closes_after_it_opens CHECK ((closes_at > opens_at)),
    CONSTRAINT event_max_spots_positive CHECK ((max_spots_per_registration > 0)),
    CONSTRAINT event_not_oversold CHECK ((spots_reserved <= (capacity + overbooked_spots))),
    CONSTRAINT event_overbooked_spots_not_negative CHECK ((overbooked_spots >= 0)),
    CONSTRAINT event_promotion_policy_known CHECK ((promotion_policy = ANY (ARRAY['strict_fifo'::text, 'skip_unfit'::text]))),
    CONSTRAINT event_spots_reserved_not_negative CHECK ((spots_reserved >= 0)),
    CONSTRAINT event_waitlist_length_not_negative CHECK ((waitlist_length >= 0)),
    CONSTRAINT event_waitlist_limit_not_negative CHECK ((waitlist_limit >= 0))
);
COMMENT ON COLUMN public.event.spots_reserved IS 'atomic counter for confirmed spots, prevents race conditions';
COMMENT ON COLUMN public.event.overbooked_spots IS 'spots confirmed beyond capacity when that was found; shrinks, and lets nobody in';
COMMENT ON COLUMN public.event.waitlist_length IS 'registrations that wait; moves in the same statement as spots_reserved';
COMMENT ON COLUMN public.event.follow_up_id IS 'its newest follow-up; promotion waits for it while it is pending';
CREATE TABLE public.idempotency_key (
    event_id uuid NOT NULL,
    key bytea NOT NULL,
    command_id uuid NOT NULL,
    fingerprint bytea NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON COLUMN public.idempotency_key.key IS 'SHA-256 of the client''s key';
COMMENT ON COLUMN public.idempotency_key.fingerprint IS 'SHA-256 of what was asked under that key';
CREATE TABLE public.outcome (
    event_id uuid NOT NULL,
    command_id uuid NOT NULL,
    body jsonb NOT NULL,
    settled_at timestamp with time zone NOT NULL
);
CREATE VIEW public.ledger AS
 SELECT command.event_id,
    command.id,
    command.seq,
    command.kind,
    command.payload,
    command.actor,
    command.accepted_at,
    command.version,
    outcome.body AS outcome,
    outcome.settled_at
   FROM (public.command
     LEFT JOIN public.outcome ON (((outcome.event_id = command.event_id) AND (outcome.command_id = command.id))));
CREATE TABLE public.ledger_mark (
    single boolean DEFAULT true NOT NULL,
    seq bigint NOT NULL,
    CONSTRAINT ledger_mark_single CHECK (single)
);
COMMENT ON COLUMN public.ledger_mark.seq IS 'the numbering had come at least this far';
CREATE TABLE public.pending_command (
    event_id uuid NOT NULL,
    seq bigint NOT NULL,
    command_id uuid NOT NULL
)
WITH (autovacuum_vacuum_scale_factor='0', autovacuum_vacuum_threshold='5000');
CREATE TABLE public.registration (
    event_id uuid NOT NULL,
    id uuid NOT NULL,
    name text NOT NULL,
    spots_count integer NOT NULL,
    status text NOT NULL,
    created_at timestamp with time zone DEFAULT now() NOT NULL,
    updated_at timestamp with time zone DEFAULT now() NOT NULL,
    seq bigint NOT NULL,
    command_id uuid,
    email text,
    email_key text,
    CONSTRAINT registration_spots_count_positive CHECK ((spots_count > 0)),
    CONSTRAINT registration_status_known CHECK ((status = ANY (ARRAY['CONFIRMED'::text, 'WAITLIST'::text, 'CANCELLED'::text])))
);
COMMENT ON COLUMN public.registration.seq IS 'its place: the ledger''s seq that put it there';
COMMENT ON COLUMN public.registration.command_id IS 'the command that made it; null for an adopted registration';
COMMENT ON COLUMN public.registration.email_key IS 'the address in the form in which two spellings are equal';
CREATE TABLE public.trouble (
    event_id uuid NOT NULL,
    command_id uuid,
    error text NOT NULL,
    tries integer DEFAULT 1 NOT NULL,
    since timestamp with time zone DEFAULT now() NOT NULL,
    tried_at timestamp with time zone DEFAULT now() NOT NULL
);
COMMENT ON COLUMN public.trouble.command_id IS 'null when the whole event is in trouble';
COMMENT ON COLUMN public.trouble.error IS 'the last error, without its details';
INSERT INTO public.alembic_version VALUES ('0008');
INSERT INTO public.ledger_mark VALUES (true, 0);
SELECT pg_catalog.setval('public.command_seq_seq', 1, false);
ALTER TABLE ONLY public.alembic_version
    ADD CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num);
ALTER TABLE ONLY public.audit_entry
    ADD CONSTRAINT audit_entry_pkey PRIMARY KEY (event_id, number);
ALTER TABLE ONLY public.command
    ADD CONSTRAINT command_pkey PRIMARY KEY (event_id, id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.event
    ADD CONSTRAINT event_slug_key UNIQUE (slug);
ALTER TABLE ONLY public.idempotency_key
    ADD CONSTRAINT idempotency_key_command_key UNIQUE (event_id, command_id);
ALTER TABLE ONLY public.idempotency_key
    ADD CONSTRAINT idempotency_key_pkey PRIMARY KEY (event_id, key);
ALTER TABLE ONLY public.ledger_mark
    ADD CONSTRAINT ledger_mark_pkey PRIMARY KEY (single);
ALTER TABLE ONLY public.outcome
    ADD CONSTRAINT outcome_pkey PRIMARY KEY (event_id, command_id);
ALTER TABLE ONLY public.pending_command
    ADD CONSTRAINT pending_command_pkey PRIMARY KEY (event_id, seq);
ALTER TABLE ONLY public.registration
    ADD CONSTRAINT registration_command_key UNIQUE (event_id, command_id);
ALTER TABLE ONLY public.registration
    ADD CONSTRAINT registration_pkey PRIMARY KEY (event_id, id);
ALTER TABLE ONLY public.trouble
    ADD CONSTRAINT trouble_command_key UNIQUE NULLS NOT DISTINCT (event_id, command_id);
CREATE INDEX idempotency_key_created_idx ON public.idempotency_key USING brin (created_at);
CREATE INDEX outcome_failed_idx ON public.outcome USING btree (event_id, settled_at) WHERE ((body ->> 'outcome'::text) = 'failed'::text);
CREATE INDEX outcome_settled_idx ON public.outcome USING brin (settled_at);
CREATE UNIQUE INDEX registration_holder_key ON public.registration USING btree (event_id, email_key) WHERE (status <> 'CANCELLED'::text);
CREATE UNIQUE INDEX registration_place_key ON public.registration USING btree (event_id, seq);
CREATE INDEX registration_waitlist_idx ON public.registration USING btree (event_id, seq) WHERE (status = 'WAITLIST'::text);
CREATE INDEX registration_waitlist_size_idx ON public.registration USING btree (event_id, spots_count, seq) WHERE (status = 'WAITLIST'::text);
CREATE TRIGGER audit_entry_append_only BEFORE DELETE OR UPDATE OR TRUNCATE ON public.audit_entry FOR EACH STATEMENT EXECUTE FUNCTION public.refuse_rewriting_the_audit_trail();
ALTER TABLE ONLY public.registration
    ADD CONSTRAINT registration_event_fkey FOREIGN KEY (event_id) REFERENCES public.event(id);
