"""Keep the client's own id, its declaration and deadline, and the prediction of a job beside its state, for lists."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

_INDEXES = {"jobs_list_by_prediction": "prediction", "jobs_list_by_client_ref": "client_ref"}
#: Jobs that one statement fills in: few, so that it holds no lock for long.
_BATCH = 10_000
_PREDICTIONS = sa.text("""
WITH found AS (
    SELECT job_id, prediction FROM results WHERE job_id > :after ORDER BY job_id LIMIT :batch
), filled AS (
    UPDATE jobs SET prediction = found.prediction FROM found WHERE jobs.id = found.job_id AND jobs.prediction IS NULL
)
SELECT max(job_id::text) FROM found
""")
# A trigger, because workers of the version before end jobs too while an upgrade goes through the machines.
_TRIGGER_FUNCTION = """
CREATE FUNCTION copy_prediction() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.prediction := (SELECT prediction FROM results WHERE job_id = NEW.id);
    RETURN NEW;
END $$
"""
_TRIGGER = """
CREATE TRIGGER jobs_prediction BEFORE UPDATE OF state ON jobs
FOR EACH ROW WHEN (NEW.state = 'succeeded') EXECUTE FUNCTION copy_prediction()
"""


def upgrade() -> None:
    op.add_column("jobs", sa.Column("flagged_only", sa.Boolean(), server_default=sa.text("false"), nullable=False))
    for column in ("client_ref", "declared", "prediction"):
        op.add_column("jobs", sa.Column(column, sa.Text(), nullable=True))
    op.add_column("jobs", sa.Column("deadline_seconds", sa.Integer(), nullable=True))
    op.execute(_TRIGGER_FUNCTION)
    op.execute(_TRIGGER)
    with op.get_context().autocommit_block():
        _fill_in_predictions()
        for name, column in _INDEXES.items():
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # an upgrade that broke off may have left a part
            op.create_index(
                name,
                "jobs",
                ["tenant_id", column, sa.text("created_at DESC"), sa.text("id DESC")],
                postgresql_where=sa.text(f"{column} IS NOT NULL"),
                postgresql_concurrently=True,
            )


def _fill_in_predictions() -> None:
    """Copy the predictions of the results that are there. The trigger copies those of jobs that end meanwhile."""
    after: str | None = "00000000-0000-0000-0000-000000000000"
    while after is not None:
        after = op.get_bind().scalar(_PREDICTIONS, {"after": after, "batch": _BATCH})


def downgrade() -> None:
    op.execute("DROP TRIGGER jobs_prediction ON jobs")
    op.execute("DROP FUNCTION copy_prediction()")
    for name in _INDEXES:
        op.drop_index(name, table_name="jobs")
    for column in ("deadline_seconds", "prediction", "declared", "client_ref", "flagged_only"):
        op.drop_column("jobs", column)
