-- Counts the last jobs of a tenant that ended, `sample` at most, and says how many seconds ago the first of them did:
-- together they are the pace.
SELECT count(*), extract(epoch FROM now() - min(finished_at)) FROM (
    SELECT finished_at FROM jobs
    WHERE tenant_id = :tenant AND finished_at > now() - make_interval(secs => :seconds)
    ORDER BY finished_at DESC LIMIT :sample
) AS last
