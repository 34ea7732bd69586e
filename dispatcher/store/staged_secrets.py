"""A staged secret: shown to whoever asked for it, and signing nothing until it is activated. One per endpoint."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Row

from dispatcher.rules.key_pairs import SigningKeys
from dispatcher.store.keyring import KeyRing

_PURPOSE = "staged secret"

#: The columns of an endpoint that has nothing staged.
NOTHING: dict[str, Any] = {"staged_sealed": None, "staged_at": None, "staged_overlap_s": None}


@dataclass(frozen=True, slots=True, repr=False)
class Staged:
    """What is to sign, and how long the former will sign beside it from then on."""

    keys: SigningKeys
    overlap: timedelta


def columns(
    keyring: KeyRing, endpoint_row: int, keys: SigningKeys, now: datetime, overlap: timedelta
) -> dict[str, Any]:
    """The columns of an endpoint that has these staged, in the place of what was."""
    return {
        "staged_sealed": keyring.seal(keys.text, _PURPOSE, endpoint_row),
        "staged_at": now,
        "staged_overlap_s": overlap.total_seconds(),
    }


def staged(keyring: KeyRing, row: Row[Any]) -> Staged | None:
    """What a row of `endpoints` has staged; null: nothing. Raises `Unreadable`."""
    if row.staged_sealed is None:
        return None
    keys = SigningKeys.read(keyring.open(row.staged_sealed, _PURPOSE, row.row_id))
    return Staged(keys, timedelta(seconds=row.staged_overlap_s))
