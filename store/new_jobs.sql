-- New jobs. Their ids are given out by the store, so that one statement takes any number of jobs. Those that differ
-- only in their arguments go in by plain_turns.sql.

-- name: last_id
SELECT max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'jobs'), 0),
           coalesce((SELECT max(id) FROM jobs), 0), coalesce((SELECT max(id) FROM dead_letters), 0));

-- Jobs of any shape; one whose unique key is taken is left out.
-- name: insert_mixed
INSERT INTO jobs (id, kind, queue, state, priority, args, max_attempts, max_interruptions, timeout_ms, created_at,
                  scheduled_at, unique_key, tags, blob, slack)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
       json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'), :now,
       json_extract(value, '$[9]'), json_extract(value, '$[10]'), json_extract(value, '$[11]'),
       json_extract(value, '$[12]'), x'000000000000000000000000000000000000'
FROM json_each(:rows) WHERE true
ON CONFLICT (kind, unique_key) WHERE unique_key IS NOT NULL AND finalized_at IS NULL DO NOTHING;

-- The unfinished job that holds the unique key of each row: the row's own one, or another.
-- name: key_holders
SELECT json_extract(r.value, '$[0]'), jobs.id
FROM json_each(:rows) AS r JOIN jobs
  ON jobs.kind = json_extract(r.value, '$[1]') AND jobs.unique_key = json_extract(r.value, '$[10]')
 AND jobs.finalized_at IS NULL
WHERE json_extract(r.value, '$[10]') IS NOT NULL;
