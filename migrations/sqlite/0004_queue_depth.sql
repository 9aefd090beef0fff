-- A queue with a limit is counted every second; jobs of other queues that wait for their time are not in the way.
CREATE INDEX jobs_due_queue ON jobs (queue, state) WHERE state IN ('scheduled', 'retryable');
