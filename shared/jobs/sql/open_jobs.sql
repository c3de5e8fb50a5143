-- Counts the jobs of a tenant that wait or run: the count of the tally's last fold plus the moves since then.
WITH last AS (SELECT id FROM tally_last)
SELECT (SELECT coalesce(sum(waiting), 0) FROM tally_lanes
        WHERE fold BETWEEN (SELECT id FROM last) AND (SELECT id FROM last) AND queue = 'jobs' AND owner = :tenant)
     + (SELECT count(*) FROM tally_running
        WHERE fold BETWEEN (SELECT id FROM last) AND (SELECT id FROM last) AND queue = 'jobs' AND owner = :tenant)
     + (SELECT coalesce(sum(waiting + running), 0) FROM tally_since WHERE queue = 'jobs' AND owner = :tenant)
