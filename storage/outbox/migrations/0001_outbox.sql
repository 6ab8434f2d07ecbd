-- What waits of the tables that are followed. Everything is made by the user who installs it, and
-- the functions run with that user's rights: whoever writes to the table needs none in this schema.

CREATE TABLE recollect_outbox.sources (
  source integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  uid uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
  relation regclass NOT NULL,
  collection text NOT NULL UNIQUE,
  id_column text NOT NULL,
  text_column text,
  vector_column text,
  payload_columns text[],
  cluster_id text,
  paused boolean NOT NULL DEFAULT false,
  installed_at timestamptz NOT NULL DEFAULT now(),
  in_flight bigint[] NOT NULL DEFAULT '{}',
  attempts integer NOT NULL DEFAULT 0,
  taken_at timestamptz,
  applied bigint NOT NULL DEFAULT 0,
  repeated bigint NOT NULL DEFAULT 0,
  applied_seq bigint NOT NULL DEFAULT 0,
  applied_at timestamptz,
  circuit text NOT NULL DEFAULT 'closed',
  problem text,
  CHECK ((text_column IS NULL) <> (vector_column IS NULL))
);
COMMENT ON TABLE recollect_outbox.sources IS 'Tables whose rows flow into a collection';
COMMENT ON COLUMN recollect_outbox.sources.payload_columns IS 'NULL: all but the vector';
COMMENT ON COLUMN recollect_outbox.sources.cluster_id IS 'The cluster that consumes it';
COMMENT ON COLUMN recollect_outbox.sources.in_flight IS 'The batch that is being applied';
COMMENT ON COLUMN recollect_outbox.sources.attempts IS 'How often that batch was begun';
COMMENT ON COLUMN recollect_outbox.sources.taken_at IS 'When it was begun the last time';
COMMENT ON COLUMN recollect_outbox.sources.repeated IS 'Applied after more than one attempt';
COMMENT ON COLUMN recollect_outbox.sources.applied_seq IS 'The highest sequence that was applied';

CREATE TABLE recollect_outbox.events (
  seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  source integer NOT NULL,
  op text NOT NULL CHECK (op IN ('upsert', 'delete')),
  key text,
  image jsonb,
  xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
  written_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX events_by_source ON recollect_outbox.events (source, seq);
COMMENT ON TABLE recollect_outbox.events IS 'Changes that wait; they go when they are applied';
COMMENT ON COLUMN recollect_outbox.events.written_at IS 'Shortly before its transaction committed';

CREATE TABLE recollect_outbox.dead_letters (
  id bigint PRIMARY KEY,
  source integer NOT NULL,
  op text NOT NULL,
  key text,
  image jsonb,
  written_at timestamptz NOT NULL,
  reason text NOT NULL CHECK (reason IN
    ('invalid_payload', 'embedding_failed', 'max_retries_exceeded', 'manual_nack')),
  detail text NOT NULL,
  died_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX dead_letters_by_key ON recollect_outbox.dead_letters (source, key);
COMMENT ON TABLE recollect_outbox.dead_letters IS 'Changes that could not be applied; id: their seq';

CREATE FUNCTION recollect_outbox.image(content jsonb, wanted text[]) RETURNS jsonb
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN wanted IS NULL OR content IS NULL THEN content ELSE (
    SELECT coalesce(jsonb_object_agg(key, value), '{}') FROM jsonb_each(content)
    WHERE key = ANY (wanted)
  ) END
$$;

CREATE FUNCTION recollect_outbox.image_columns(described recollect_outbox.sources) RETURNS text[]
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE WHEN described.payload_columns IS NOT NULL THEN described.payload_columns
    || described.id_column || coalesce(described.text_column, described.vector_column) END
$$;

-- Arguments: source, key column, columns of the image (none: all).
--
-- Triggers of a statement run row by row. One of somebody else's may change a row whose own turn
-- comes later, and which is then shown as it was before: its older image would come last. So once
-- changes were noted from within another trigger, what is noted is how the row is by now.
CREATE FUNCTION recollect_outbox.capture() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted text[] := TG_ARGV[2];
  nested boolean := coalesce(current_setting('recollect_outbox.nested', true), '') = 'on';
  now_there text := format(
    'SELECT to_jsonb(t) FROM ONLY %1$I.%2$I t WHERE t.%3$I = ($1).%3$I',
    TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[1]
  );
  was jsonb;
  became jsonb;
  old_key text;
  new_key text;
BEGIN
  IF TG_OP <> 'INSERT' THEN
    was := recollect_outbox.image(to_jsonb(OLD), wanted);
    old_key := was ->> TG_ARGV[1];
  END IF;
  IF TG_OP <> 'DELETE' THEN
    became := recollect_outbox.image(to_jsonb(NEW), wanted);
    new_key := became ->> TG_ARGV[1];
  END IF;
  IF was = became THEN
    RETURN NULL;
  END IF;
  IF pg_trigger_depth() > 1 AND NOT nested THEN
    PERFORM set_config('recollect_outbox.nested', 'on', true);
  END IF;
  IF TG_OP = 'DELETE' OR TG_OP = 'UPDATE' AND old_key IS DISTINCT FROM new_key THEN
    was := NULL;
    IF nested AND old_key IS NOT NULL THEN
      EXECUTE now_there INTO was USING OLD;
      was := recollect_outbox.image(was, wanted);
    END IF;
    INSERT INTO recollect_outbox.events (source, op, key, image) VALUES (
      TG_ARGV[0]::integer, CASE WHEN was IS NULL THEN 'delete' ELSE 'upsert' END, old_key, was
    );
  END IF;
  IF TG_OP <> 'DELETE' THEN
    IF nested AND new_key IS NOT NULL THEN
      EXECUTE now_there INTO became USING NEW;
      became := recollect_outbox.image(became, wanted);
    END IF;
    INSERT INTO recollect_outbox.events (source, op, key, image) VALUES (
      TG_ARGV[0]::integer, CASE WHEN became IS NULL THEN 'delete' ELSE 'upsert' END, new_key, became
    );
  END IF;
  PERFORM pg_notify('recollect_outbox', '');
  RETURN NULL;
END
$$;

-- TRUNCATE also removes rows that a transaction of a higher isolation level cannot see.
CREATE FUNCTION recollect_outbox.capture_truncate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
    RAISE EXCEPTION 'a table with a recollect outbox is truncated under READ COMMITTED only'
      USING ERRCODE = 'feature_not_supported';
  END IF;
  EXECUTE format(
    'INSERT INTO recollect_outbox.events (source, op, key)
     SELECT $1, ''delete'', to_jsonb(%I) #>> ''{}'' FROM ONLY %I.%I',
    TG_ARGV[1], TG_TABLE_SCHEMA, TG_TABLE_NAME
  ) USING TG_ARGV[0]::integer;
  PERFORM pg_notify('recollect_outbox', '');
  RETURN NULL;
END
$$;

CREATE FUNCTION recollect_outbox.qualified(wanted regclass) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT format('%I.%I', nspname, relname)
  FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace WHERE pg_class.oid = wanted
$$;

-- Triggers fire in the order of their names, and another one may change the row once more: this
-- one has to be the first, or the older image would come last.
CREATE FUNCTION recollect_outbox.trigger_name(wanted integer) RETURNS text
LANGUAGE sql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT '!recollect_outbox_' || wanted
$$;

CREATE FUNCTION recollect_outbox.detach(wanted integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  place text := (SELECT recollect_outbox.qualified(relation)
                 FROM recollect_outbox.sources WHERE source = wanted);
  name text := recollect_outbox.trigger_name(wanted);
BEGIN
  IF place IS NOT NULL THEN
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', name, place);
    EXECUTE format('DROP TRIGGER IF EXISTS %I ON %s', name || '_truncate', place);
  END IF;
END
$$;

CREATE FUNCTION recollect_outbox.attach(wanted integer) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  described recollect_outbox.sources;
  place text;
  name text := recollect_outbox.trigger_name(wanted);
  columns text[];
BEGIN
  SELECT * INTO STRICT described FROM recollect_outbox.sources WHERE source = wanted;
  place := recollect_outbox.qualified(described.relation);
  columns := recollect_outbox.image_columns(described);
  EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', place);
  PERFORM recollect_outbox.detach(wanted);
  EXECUTE format(
    'CREATE TRIGGER %I AFTER INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW
     EXECUTE FUNCTION recollect_outbox.capture(%L, %L %s)',
    name, place, wanted, described.id_column,
    CASE WHEN columns IS NULL THEN '' ELSE format(', %L', columns) END
  );
  EXECUTE format(
    'CREATE TRIGGER %I BEFORE TRUNCATE ON %s FOR EACH STATEMENT
     EXECUTE FUNCTION recollect_outbox.capture_truncate(%L, %L)',
    name || '_truncate', place, wanted, described.id_column
  );
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', place, name);
  EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', place, name || '_truncate');
END
$$;

-- Whether changes of the table are seen.
CREATE FUNCTION recollect_outbox.attached(wanted integer) RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT count(*) = 2 FROM pg_trigger JOIN recollect_outbox.sources ON relation = tgrelid
  WHERE source = wanted AND tgenabled <> 'D' AND NOT tgisinternal AND tgname IN (
    recollect_outbox.trigger_name(wanted), recollect_outbox.trigger_name(wanted) || '_truncate')
$$;

-- Queue the rows of the table as they are now, all or those of some keys; return how many. Whoever
-- calls this has locked the table against writers, so that what they write next comes behind.
CREATE FUNCTION recollect_outbox.fill(wanted integer, keys text[] DEFAULT NULL) RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  described recollect_outbox.sources;
  queued bigint;
BEGIN
  SELECT * INTO STRICT described FROM recollect_outbox.sources WHERE source = wanted;
  EXECUTE format(
    'INSERT INTO recollect_outbox.events (source, op, key, image)
     SELECT $1, ''upsert'', to_jsonb(t.%1$I) #>> ''{}'', recollect_outbox.image(to_jsonb(t), $2)
     FROM ONLY %2$s t WHERE $3 IS NULL OR to_jsonb(t.%1$I) #>> ''{}'' = ANY ($3)',
    described.id_column, recollect_outbox.qualified(described.relation)
  ) USING wanted, recollect_outbox.image_columns(described), keys;
  GET DIAGNOSTICS queued = ROW_COUNT;
  PERFORM pg_notify('recollect_outbox', '');
  RETURN queued;
END
$$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA recollect_outbox FROM PUBLIC;
