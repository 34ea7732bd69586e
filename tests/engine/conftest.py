"""What the loops of a dispatcher have done."""

import pytest

from dispatcher.engine.fanning import Fanning
from dispatcher.store.hot import FannedOut


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[FannedOut]:
    """What the fan-out loop has done."""
    done: list[FannedOut] = []
    settle = Fanning.settle

    def noted(loop: Fanning, result: FannedOut) -> None:
        if result.events:
            done.append(result)
        settle(loop, result)

    monkeypatch.setattr(Fanning, "settle", noted)
    return done
