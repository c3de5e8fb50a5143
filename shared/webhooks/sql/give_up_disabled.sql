-- Gives up the deliveries that wait for disabled endpoints, from the beginning of each endpoint's queue. A delivery
-- that is being tried is left until its try has ended.
WITH found AS (
    SELECT delivery.id
    FROM tally_waiting('deliveries') AS lane
    JOIN webhook_endpoints AS endpoint ON endpoint.id = lane.owner AND endpoint.disabled_at IS NOT NULL
    CROSS JOIN LATERAL (
        SELECT id FROM webhook_deliveries
        WHERE state = 'pending' AND lease_until IS NULL AND endpoint_id = lane.owner
          AND (next_attempt_at, id::text) >= (lane.at, lane.item::text)
        ORDER BY endpoint_id, next_attempt_at, id::text
        LIMIT :most FOR UPDATE SKIP LOCKED
    ) AS delivery
    LIMIT :most
)
UPDATE webhook_deliveries SET state = 'failed', finished_at = now(), next_attempt_at = NULL
WHERE id IN (SELECT id FROM found) RETURNING id
