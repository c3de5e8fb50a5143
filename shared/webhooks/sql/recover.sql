-- Makes failed deliveries of an endpoint pending again, with a try at once. Bodies, ids and logs of tries stay.
WITH found AS (
    SELECT id FROM webhook_deliveries
    WHERE endpoint_id = :endpoint AND state = 'failed' AND created_at >= :since
    ORDER BY endpoint_id, state, created_at DESC, id DESC LIMIT :most FOR UPDATE SKIP LOCKED
)
UPDATE webhook_deliveries
SET state = 'pending', finished_at = NULL, tries_before = attempt, next_attempt_at = now(), begun_at = now()
WHERE id IN (SELECT id FROM found) RETURNING id
