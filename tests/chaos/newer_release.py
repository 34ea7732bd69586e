"""A release that does not exist yet: this one, with a migration more."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dispatcher.store import migrate

_MIGRATION = '''"""Something more."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade():
    ours = op.get_context().opts["tables"]
    op.add_column(f"{{ours.prefix}}deliveries", sa.Column("more", sa.Text(), nullable=True), schema=ours.schema)
    op.add_column(f"{{ours.prefix}}endpoints", sa.Column("more", sa.Text(), nullable=True), schema=ours.schema)
    op.create_table(f"{{ours.prefix}}more", sa.Column("row_id", sa.Integer(), primary_key=True), schema=ours.schema)
    {contract}


def downgrade():
    raise NotImplementedError
'''
_CONTRACT = "op.execute(f\"UPDATE {ours.name('compatibility')} SET oldest_code = '{revision}'\")"


@contextmanager
def newer_release(directory: Path, *, compatible: bool = True) -> Iterator[None]:
    """This process is of the newer release meanwhile; `compatible`: its migration lets the older one go on."""
    versions = shutil.copytree(migrate.scripts(), directory / "migrations") / "versions"
    migration = _MIGRATION.format(contract="" if compatible else _CONTRACT)
    (versions / "0002_something_more.py").write_text(migration)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(migrate, "scripts", lambda: directory / "migrations")
        yield
