-- Patterns that live here, and nowhere else: those of a server with RECOLLECT_BACKEND=postgres. The
-- table reasoning_patterns is a picture of clusters, which each checkpoint of theirs repaints; here
-- nobody but that server writes. The columns are the same. The embedding comes when the server first
-- starts, since its size is that of the server's model.

CREATE SEQUENCE stored_pattern_versions AS bigint;

CREATE TABLE stored_patterns (
  id text COLLATE "C" PRIMARY KEY,
  session_id text,
  task text NOT NULL,
  reward double precision,
  success boolean,
  input text,
  output text,
  critique text,
  metadata json,
  version bigint NOT NULL DEFAULT nextval('stored_pattern_versions'),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL
);
CREATE INDEX stored_patterns_by_session ON stored_patterns USING hash (session_id);
CREATE INDEX stored_patterns_by_reward ON stored_patterns (reward);
COMMENT ON TABLE stored_patterns IS 'Patterns of a server that keeps them in this database';
COMMENT ON COLUMN stored_patterns.metadata IS 'Kept byte for byte: cast it to jsonb to search in it';
COMMENT ON COLUMN stored_patterns.created_at IS 'When this id was first stored';
COMMENT ON COLUMN stored_patterns.updated_at IS 'When it was last stored: createdAt of the API';

CREATE TABLE stored_pattern_space (
  single boolean PRIMARY KEY DEFAULT true CHECK (single),
  embedding_space text NOT NULL,
  dimension integer NOT NULL
);
COMMENT ON TABLE stored_pattern_space IS 'The model that the embeddings of stored_patterns are from';

CREATE TABLE stored_pattern_requests (
  request_id text COLLATE "C" PRIMARY KEY,
  digest text NOT NULL,
  version bigint,
  conflict boolean,
  expires_at timestamptz NOT NULL
);
CREATE INDEX stored_pattern_requests_by_expiry ON stored_pattern_requests (expires_at);
COMMENT ON TABLE stored_pattern_requests IS 'Stores with an idempotency key, and what they gave';
COMMENT ON COLUMN stored_pattern_requests.version IS
  'Of the pattern as it was written, or, in a conflict, as it was found';

-- A session's name may be longer than what an entry of a B-tree holds.
DROP INDEX reasoning_patterns_by_session;
CREATE INDEX reasoning_patterns_by_session ON reasoning_patterns USING hash (session_id);
