"""The corpus of URLs (`urls.txt`): each with where it goes, or the words with which it is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_LINE = re.compile(r"(?P<url>\S.*?) {2,}(?P<verdict>\S.*)")
_ESCAPE = re.compile(r"\\(?:u(?P<code>[0-9a-f]{4})|\\)")


class Case(NamedTuple):
    """A URL, and its destination or words of its refusal."""

    attack: str
    url: str
    destination: str | None
    words: str


def cases() -> Iterator[Case]:
    """Every line of the corpus. Raises `ValueError` for one that cannot be read."""
    attack = ""
    for line in (Path(__file__).parent / "urls.txt").read_text().splitlines():
        if line.startswith("## "):
            attack = line.removeprefix("## ")
        elif line and not line.startswith("#"):
            parts = _LINE.fullmatch(line)
            if parts is None:
                raise ValueError(f"no URL and verdict: {line}")
            url = _ESCAPE.sub(lambda found: chr(int(found["code"], 16)) if found["code"] else "\\", parts["url"])
            if parts["verdict"].startswith("ok "):
                yield Case(attack, url, parts["verdict"].removeprefix("ok ").strip(), "")
            else:
                yield Case(attack, url, None, parts["verdict"])


CASES = tuple(cases())
