"""Whether an answer looks as the documentation says: the same keys, kinds of values, and words."""

import re
from typing import Any

#: Words that depend on when one looks.
_VOLATILE = {"state", "request_id"}
#: A link's token, alone or in its path.
_LINK = re.compile(r"(/v1/jobs/\w+/events\?token=)?job_[\w-]{40,}$")


def difference(written: Any, real: Any, at: str = "") -> str | None:
    """Where the real answer is not like the written one, and how; null when it is."""
    if isinstance(written, dict) and isinstance(real, dict):
        if written.keys() != real.keys():
            return f"{at or 'the answer'} has the keys {sorted(real)}, and is written with {sorted(written)}"
        return next((found for key in written if (found := _member(written, real, at, key))), None)
    if isinstance(written, list) and isinstance(real, list):
        if len(written) != len(real):
            return f"{at} has {len(real)} entries, and is written with {len(written)}"
        pairs = enumerate(zip(written, real, strict=True))
        return next((found for place, pair in pairs if (found := difference(*pair, at=f"{at}/{place}"))), None)
    if isinstance(written, bool) or isinstance(real, bool) or written is None or real is None:
        return None if written is real else f"{at} is {real!r}, and is written as {written!r}"
    if isinstance(written, int | float) and isinstance(real, int | float):
        return None
    if isinstance(written, str) and isinstance(real, str):
        same = written == real or _is_different_each_time(written)
        return None if same else f"{at} is {real!r}, and is written as {written!r}"
    return f"{at} is {real!r}, and is written as {written!r}"


def _member(written: dict[str, Any], real: dict[str, Any], at: str, key: str) -> str | None:
    return None if key in _VOLATILE else difference(written[key], real[key], f"{at}/{key}")


def _is_different_each_time(text: str) -> bool:
    """Ids, secrets, links, times and addresses."""
    return bool(_LINK.match(text)) or text.startswith(
        ("evt_", "ep_", "dlv_", "att_", "dl_", "rdl_", "key_", "whk_", "whsec_", "2026-", "http://")
    )
