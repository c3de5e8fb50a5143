-- Takes the oldest due delivery of an endpoint, unless the endpoint's limit of concurrent tries is reached.
--
-- It is a separate statement, run after next_endpoint in the same transaction. So it sees what the previous claim for
-- the endpoint committed before it released the lock.
WITH busy AS (
    SELECT count(*) AS tries FROM leased_deliveries WHERE endpoint_id = :endpoint AND lease_until > now()
)
UPDATE webhook_deliveries SET attempt = attempt + 1, lease_until = now() + :lease
FROM webhook_endpoints AS endpoint, busy
WHERE webhook_deliveries.id = (
    SELECT id FROM webhook_deliveries
    WHERE state = 'pending' AND lease_until IS NULL AND endpoint_id = :endpoint
      AND (next_attempt_at, id::text) >= (:at, CAST(CAST(:item AS uuid) AS text)) AND next_attempt_at <= now()
    ORDER BY endpoint_id, next_attempt_at, id::text
    LIMIT 1 FOR UPDATE SKIP LOCKED
) AND endpoint.id = webhook_deliveries.endpoint_id AND endpoint.disabled_at IS NULL
  AND busy.tries < CASE WHEN endpoint.failing_since IS NOT NULL THEN :per_failing
                        WHEN endpoint.id = ANY (CAST(:proven AS uuid[])) THEN :per_proven ELSE :per_endpoint END
RETURNING webhook_deliveries.id, webhook_deliveries.attempt, attempt - tries_before AS planned_try, endpoint.id,
          webhook_deliveries.body, endpoint.url, endpoint.secret_encrypted,
          CASE WHEN endpoint.old_secret_until > now() THEN endpoint.old_secret_encrypted END AS old_secret_encrypted,
          endpoint.failing_since, busy.tries
