"""Canaries: secrets that are like no other text, in every form in which they could be found again."""

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote


def canary(kind: str) -> str:
    """A secret with characters that URLs, JSON and headers write in different ways."""
    word = "".join(letter if letter.isalnum() else "-" for letter in kind)
    return f"{word}-{secrets.token_hex(8)}+/{secrets.token_hex(4)}"


@dataclass(slots=True)
class Canaries:
    """Secrets by what they are, and what was found of them where."""

    kept: dict[str, str] = field(default_factory=dict)
    found: list[str] = field(default_factory=list)
    searched: int = 0

    def plant(self, kind: str, secret: str | None = None) -> str:
        """A secret of this kind: made, or one that was made elsewhere."""
        self.kept[kind] = secret if secret is not None else canary(kind)
        return self.kept[kind]

    def search(self, place: str, content: bytes | str, *, shown_once: Iterable[str] = ()) -> None:
        """Looks for every canary but those that this place shows to whoever asked for them."""
        raw = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        self.searched += 1
        for kind, secret in self.kept.items():
            if kind in shown_once:
                continue
            self.found += [f"{kind} as {form} in {place}" for form, text in forms(secret).items() if text in raw]


def forms(secret: str) -> Mapping[str, bytes]:
    """How a secret may be written: as it is, percent-encoded, in JSON, in base64 at any place, in hex."""
    raw = secret.encode()
    found = {
        "text": raw,
        "percent-encoded": quote(secret, safe="").encode(),
        "a path": quote(secret, safe="/").encode(),
        "JSON": json.dumps(secret)[1:-1].replace("/", "\\/").encode(),
        "hex": raw.hex().encode(),
        "upper-case hex": raw.hex().upper().encode(),
    }
    for offset in range(3):
        # What stands before it shifts its letters; those at the ends are mixed with their neighbours'.
        encoded = base64.b64encode(b"x" * offset + raw)
        inner = encoded[(0, 2, 3)[offset] : len(encoded) - 4]
        found[f"base64 behind {offset}"] = inner
        found[f"url-safe base64 behind {offset}"] = inner.translate(bytes.maketrans(b"+/", b"-_"))
    return found
