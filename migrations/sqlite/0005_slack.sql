-- A job's row grows when it is claimed and when it completes. Pages are filled with rows as they are enqueued, so nearly
-- every page would be split in a drain. New rows bring the room along, and give it up as they grow (SQLite then writes
-- over the old row): 18 bytes, of which a claim takes 10 (lease and attempted_at, 6 each; 'running' is 2 shorter than
-- 'available') and completion 8 (finalized_at, and 'completed' is 2 longer). NULL in rows from before: they are split.
ALTER TABLE jobs ADD COLUMN slack BLOB;
