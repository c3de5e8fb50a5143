-- Gives up deliveries that were begun longer ago than `age` and that no sender is trying.
WITH found AS (
    SELECT id FROM webhook_deliveries
    WHERE state = 'pending' AND begun_at < now() - :age AND (lease_until IS NULL OR lease_until < now())
    ORDER BY begun_at LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries SET state = 'failed', finished_at = now(), next_attempt_at = NULL, lease_until = NULL
WHERE id IN (SELECT id FROM found) RETURNING id
