CREATE SCHEMA IF NOT EXISTS graphrag;

CREATE TABLE IF NOT EXISTS graphrag.documents (
    path text NOT NULL,
    module text NOT NULL,
    characters integer NOT NULL,
    passages integer NOT NULL
);

-- `point` is the passage's id in Qdrant. No key here is unique, on purpose: it is ctx.once that keeps a second delivery
-- of a job out, and if it did not, the demo's count would show it.
CREATE TABLE IF NOT EXISTS graphrag.passages (
    point uuid NOT NULL,
    path text NOT NULL,
    line integer NOT NULL,
    text text NOT NULL
);

CREATE TABLE IF NOT EXISTS graphrag.related (
    path text NOT NULL,
    other text NOT NULL,
    score real NOT NULL
);

CREATE INDEX IF NOT EXISTS documents_path ON graphrag.documents (path);
CREATE INDEX IF NOT EXISTS passages_point ON graphrag.passages (point);
