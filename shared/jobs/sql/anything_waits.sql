-- Says whether claim would find a job. It reads what claim reads, and neither writes nor locks a row.
WITH {eligible}
SELECT EXISTS (SELECT FROM head)
