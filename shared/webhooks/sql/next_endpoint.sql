-- Finds the endpoint to send to next, and locks it for this transaction.
--
-- The tally says for which endpoints deliveries wait, and where each one's queue begins (shared/jobs/tally.py), so the
-- statement reads no delivery that has ended. Endpoints with the fewest tries in progress come first, so that no
-- receiver waits for another that hangs. Among those, the endpoint whose due delivery is oldest comes first.
--
-- The statement never waits for the lock, and each endpoint has its own. So a process that freezes during a claim stops
-- only that endpoint, until PostgreSQL ends its transaction.
WITH busy AS (
    SELECT endpoint_id, count(*) AS tries FROM leased_deliveries WHERE lease_until > now() GROUP BY endpoint_id
), failing AS MATERIALIZED (
    SELECT id FROM webhook_endpoints WHERE failing_since IS NOT NULL AND disabled_at IS NULL
), lane AS (
    SELECT owner, at, item, tries
    FROM (
        SELECT owner, at, item, sum(tries) OVER (PARTITION BY owner) AS tries
        FROM (
            SELECT owner, at, item, 0 AS tries FROM tally_waiting('deliveries') WHERE at <= now()
            UNION ALL
            SELECT endpoint_id, NULL, NULL, tries FROM busy
        ) AS each
    ) AS of_endpoint
    WHERE at IS NOT NULL AND owner <> ALL (CAST(:passed AS uuid[]))
      AND tries < CASE WHEN owner IN (SELECT id FROM failing) THEN :per_failing
                       WHEN owner = ANY (CAST(:proven AS uuid[])) THEN :per_proven ELSE :per_endpoint END
    ORDER BY tries, at, owner
), enabled AS MATERIALIZED (
    SELECT lane.* FROM lane CROSS JOIN LATERAL (
        SELECT FROM webhook_endpoints WHERE id = lane.owner AND disabled_at IS NULL OFFSET 0
    ) AS endpoint
    LIMIT :looked
), turn AS MATERIALIZED (
    SELECT enabled.owner AS id, enabled.at, enabled.item FROM enabled CROSS JOIN LATERAL (
        SELECT next_attempt_at FROM webhook_deliveries
        WHERE state = 'pending' AND lease_until IS NULL AND endpoint_id = enabled.owner
          AND (next_attempt_at, id::text) >= (enabled.at, enabled.item::text) AND next_attempt_at <= now()
        ORDER BY endpoint_id, next_attempt_at, id::text LIMIT 1
    ) AS head
    ORDER BY enabled.tries, head.next_attempt_at, enabled.owner
)
SELECT id, at, item FROM turn WHERE pg_try_advisory_xact_lock(1147498341, hashtext(CAST(id AS text))) LIMIT 1
