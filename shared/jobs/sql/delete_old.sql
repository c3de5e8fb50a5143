-- Deletes jobs that ended longer ago than their tenant keeps them, the oldest of each tenant first, and writes their
-- erasures. A webhook that is still pending is deleted with its job.
WITH old AS (
    SELECT due.id FROM tenants
    CROSS JOIN LATERAL (
        SELECT id FROM jobs
        WHERE tenant_id = tenants.id
          AND finished_at < now() - make_interval(days => coalesce(tenants.retention_days, CAST(:days AS int)))
        ORDER BY finished_at LIMIT :most FOR UPDATE SKIP LOCKED
    ) AS due
    LIMIT :most
), gone AS (
    DELETE FROM jobs WHERE id IN (SELECT id FROM old) RETURNING id, tenant_id, attempt
)
INSERT INTO erasures (job_id, tenant_id, attempts) SELECT id, tenant_id, attempt FROM gone RETURNING job_id
