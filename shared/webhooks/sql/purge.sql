-- Deletes deliveries of endpoints that their tenants have deleted.
WITH found AS (
    SELECT delivery.id FROM webhook_endpoints AS endpoint CROSS JOIN LATERAL (
        SELECT id FROM webhook_deliveries WHERE endpoint_id = endpoint.id LIMIT :most FOR UPDATE SKIP LOCKED
    ) AS delivery
    WHERE endpoint.deleted_at IS NOT NULL LIMIT :most
)
DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM found) RETURNING id
