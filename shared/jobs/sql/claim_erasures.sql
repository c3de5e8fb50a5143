-- Takes erasures that are due, beginning with those that have waited longest. Each is due again after `retry`, in case
-- the process that takes it dies.
WITH due AS (
    SELECT job_id FROM erasures WHERE due_at <= now() ORDER BY due_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE erasures SET due_at = now() + :retry WHERE job_id IN (SELECT job_id FROM due)
RETURNING tenant_id, job_id, attempts
