-- Counts the jobs that wait or run, for each tenant that has any.
SELECT owner, sum(jobs) FROM (
    SELECT owner, waiting AS jobs FROM tally_waiting('jobs')
    UNION ALL
    SELECT owner, 1 FROM tally_under_way('jobs')
) AS open GROUP BY owner
