"""Let results say which format was decoded and how strongly a JPEG was compressed."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("results", sa.Column("file_format", sa.Text(), nullable=True))
    op.add_column("results", sa.Column("jpeg_quality", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("results", "jpeg_quality")
    op.drop_column("results", "file_format")
