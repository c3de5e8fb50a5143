-- Adds entries to their days, `most` at most, and deletes them. Several processes may run it at once: SKIP LOCKED gives
-- each other entries, and the order of the rows keeps two of them from waiting for each other in a circle.
WITH gone AS (
    DELETE FROM usage_entries WHERE id IN (
        SELECT id FROM usage_entries ORDER BY id LIMIT :most FOR UPDATE SKIP LOCKED
    ) RETURNING tenant_id, day, key_id, jobs, bytes, device_seconds
), added AS (
    INSERT INTO usage_days AS old (tenant_id, day, key_id, jobs, bytes, device_seconds)
    SELECT tenant_id, day, key_id, sum(jobs), sum(bytes), sum(device_seconds) FROM gone
    GROUP BY tenant_id, day, key_id ORDER BY tenant_id, day, key_id
    ON CONFLICT (tenant_id, day, key_id) DO UPDATE
    SET jobs = old.jobs + excluded.jobs, bytes = old.bytes + excluded.bytes,
        device_seconds = old.device_seconds + excluded.device_seconds
)
SELECT count(*) FROM gone
