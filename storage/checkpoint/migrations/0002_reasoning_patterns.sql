-- What agents tried and how it went, to be asked in SQL: the collection `patterns` as of the last
-- checkpoint. With pgvector an embedding is a vector, whose size and index come with the first
-- patterns; without it, bytes as in records.

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector') THEN
    BEGIN
      CREATE EXTENSION IF NOT EXISTS vector;
    EXCEPTION WHEN insufficient_privilege THEN
      RAISE NOTICE 'pgvector is there, but may not be used';
    END;
  END IF;
END
$$;

CREATE TABLE reasoning_patterns (
  cluster integer NOT NULL,
  id text NOT NULL,
  session_id text,
  task text,
  reward double precision,
  success boolean,
  input text,
  output text,
  critique text,
  metadata jsonb,
  version bigint NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  PRIMARY KEY (cluster, id)
);
CREATE INDEX reasoning_patterns_by_session ON reasoning_patterns (session_id);
CREATE INDEX reasoning_patterns_by_reward ON reasoning_patterns (reward);

DO $$
BEGIN
  IF EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN
    EXECUTE format(
      'ALTER TABLE reasoning_patterns ADD COLUMN embedding %s.vector',
      (SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'vector')
    );
  ELSE
    ALTER TABLE reasoning_patterns ADD COLUMN embedding bytea;
  END IF;
END
$$;

CREATE TABLE pattern_progress (
  cluster integer PRIMARY KEY,
  collection bigint NOT NULL,
  checkpoint_id bigint NOT NULL
);
COMMENT ON TABLE pattern_progress IS 'The checkpoint that reasoning_patterns shows, by cluster';
