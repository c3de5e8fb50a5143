-- Sums what a tenant used on each day from `first` to `last`, by key. Entries that retention has not added to their days
-- yet count too; one snapshot sees each of them in exactly one of the two tables.
SELECT day, key_id, sum(jobs)::bigint AS jobs, sum(bytes)::bigint AS bytes, sum(device_seconds) AS device_seconds
FROM (
    SELECT day, key_id, jobs, bytes, device_seconds FROM usage_days
    WHERE tenant_id = :tenant AND day BETWEEN :first AND :last
    UNION ALL
    SELECT day, key_id, jobs, bytes, device_seconds FROM usage_entries
    WHERE tenant_id = :tenant AND day BETWEEN :first AND :last
) AS used
GROUP BY day, key_id ORDER BY day, key_id
