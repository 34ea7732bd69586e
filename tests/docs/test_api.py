"""docs/api.md, typed against a real server: every command works, and answers as the page says."""

from pathlib import Path

from tests.docs.pages import ROOT
from tests.docs.serving import served
from tests.receiver import Receiver


async def test_every_command_of_the_api_guide_works_and_answers_as_written(tmp_path: Path, receiver: Receiver) -> None:
    async with served(tmp_path, receiver) as guide:
        await guide.run(ROOT / "docs" / "api.md")
    assert receiver.received("/hook")
    assert receiver.received("/broken")
