-- A turn that completes jobs, takes in new ones and claims is one statement: an INSERT of a row for each lease that
-- outcomes name, for each shape of new jobs, and for each claim. sqlite3 gives the GIL away in every statement, and the
-- supervisor's loop may keep it for a millisecond or more before the next one begins; and a statement by itself is a
-- transaction. Turns of a few jobs go another way, where nothing of that weighs: small_turns.sql.
--
-- The view and its triggers are the connection's own; they stand in no file. `lease`: the one that the outcomes name,
-- or that the claimed jobs get; `ids` and `results`: as in complete and complete_with_results; `ended`: how many;
-- `shape`: what new jobs have in common, an object, and `args`: an array of what they have not.

-- name: plain_turn_view
CREATE TEMP VIEW plain_turn AS
SELECT 0 AS now, 0 AS lease, NULL AS ids, NULL AS results, 0 AS ended, NULL AS shape, NULL AS args, NULL AS queue,
       0 AS wanted;

-- name: plain_turn_complete
CREATE TEMP TRIGGER plain_turn_complete INSTEAD OF INSERT ON plain_turn WHEN NEW.ids IS NOT NULL BEGIN
    UPDATE jobs SET state = 'completed', finalized_at = NEW.now, slack = x''
    WHERE id IN (SELECT value FROM json_each(NEW.ids)) AND +lease = NEW.lease AND +state = 'running';
    SELECT RAISE(ROLLBACK, 'stale outcome') WHERE changes() <> NEW.ended;
END;

-- name: plain_turn_results
CREATE TEMP TRIGGER plain_turn_results INSTEAD OF INSERT ON plain_turn WHEN NEW.results IS NOT NULL BEGIN
    UPDATE jobs SET
        state = 'completed', finalized_at = NEW.now, slack = x'',
        result = CASE WHEN json_valid(o.value) THEN o.value ELSE json_quote(o.value) END
    FROM json_each(NEW.results) AS o
    WHERE jobs.id = CAST(o.key AS INTEGER) AND +jobs.lease = NEW.lease AND +jobs.state = 'running';
    SELECT RAISE(ROLLBACK, 'stale outcome') WHERE changes() <> NEW.ended;
END;

-- name: plain_turn_new
CREATE TEMP TRIGGER plain_turn_new INSTEAD OF INSERT ON plain_turn WHEN NEW.shape IS NOT NULL BEGIN
    INSERT INTO jobs (id, kind, queue, state, priority, args, max_attempts, max_interruptions, timeout_ms, created_at,
                      scheduled_at, tags, blob, slack)
    SELECT s.base + a.key, s.kind, s.queue, s.state, s.priority, a.value, s.max_attempts, s.max_interruptions,
           s.timeout_ms, NEW.now, s.scheduled_at, s.tags, s.blob, x'000000000000000000000000000000000000'
    FROM (SELECT json_extract(NEW.shape, '$.base') AS base, json_extract(NEW.shape, '$.kind') AS kind,
                 json_extract(NEW.shape, '$.queue') AS queue, json_extract(NEW.shape, '$.state') AS state,
                 json_extract(NEW.shape, '$.priority') AS priority,
                 json_extract(NEW.shape, '$.max_attempts') AS max_attempts,
                 json_extract(NEW.shape, '$.max_interruptions') AS max_interruptions,
                 json_extract(NEW.shape, '$.timeout_ms') AS timeout_ms,
                 json_extract(NEW.shape, '$.scheduled_at') AS scheduled_at,
                 json_extract(NEW.shape, '$.tags_json') AS tags, json_extract(NEW.shape, '$.blob_json') AS blob) AS s,
         json_each(NEW.args) AS a;
END;

-- name: plain_turn_claim
CREATE TEMP TRIGGER plain_turn_claim INSTEAD OF INSERT ON plain_turn WHEN NEW.wanted > 0 BEGIN
    UPDATE jobs SET state = 'running', attempt = attempt + 1, attempted_at = NEW.now, lease = NEW.lease, slack = x'0000000000000000'
    WHERE id IN (SELECT id FROM jobs WHERE state = 'available' AND queue = NEW.queue ORDER BY priority, id
                 LIMIT NEW.wanted);
END;

-- What is written to it: this, and as many of the parts below as there are, with UNION ALL between them.
-- name: plain_turn
INSERT INTO plain_turn (now, lease, ids, results, ended, shape, args, queue, wanted)

-- name: plain_turn_of_ended
SELECT ?, ?, ?, ?, ?, NULL, NULL, NULL, 0

-- name: plain_turn_of_new
SELECT ?, NULL, NULL, NULL, 0, ?, ?, NULL, 0

-- Claims are an array of [queue, limit].
-- name: plain_turn_of_claims
SELECT ?, ?, NULL, NULL, 0, NULL, NULL, json_extract(value, '$[0]'), json_extract(value, '$[1]') FROM json_each(?)
