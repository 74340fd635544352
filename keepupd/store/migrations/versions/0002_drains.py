"""Campaigns keep whether their input definition drains itself."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    op.add_column("campaigns", sa.Column("drains", sa.Text(), nullable=False, server_default=""))
