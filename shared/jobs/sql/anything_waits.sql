-- Says whether `claim` would find a job. It reads the same rows as `claim`; it neither writes nor locks any.
WITH {eligible}
SELECT EXISTS (SELECT FROM head)
