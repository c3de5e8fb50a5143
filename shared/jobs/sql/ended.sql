-- Counts the jobs that have ended since a fold of the tally: the newest fold that is at least `ago` old, or, if there
-- is none, the oldest fold that is kept.
SELECT totals.succeeded - past.succeeded, totals.failed - past.failed,
       totals.canceled - past.canceled, totals.expired - past.expired
FROM queue_totals() AS totals CROSS JOIN LATERAL (
    (SELECT * FROM tally_folds WHERE at <= now() - :ago ORDER BY at DESC LIMIT 1)
    UNION ALL
    (SELECT * FROM tally_folds WHERE id > (SELECT id FROM tally_last) - :kept ORDER BY id LIMIT 1)
    LIMIT 1
) AS past
