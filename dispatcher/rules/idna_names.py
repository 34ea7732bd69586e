"""Internationalised names as browsers read them (UTS 46, not transitional): what is written, and what is looked up."""

import re

import idna

#: What no name contains, however it is written: it would end the host or begin another part of the URL.
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f\"#%/:<>?@\[\\\]^`{|}]")


def to_ascii(host: str) -> str | None:
    """The name as DNS has it: `münchen.example` is `xn--mnchen-3ya.example`; None if browsers find no name in it."""
    try:
        mapped = idna.uts46_remap(host, std3_rules=False, transitional=False)
        labels = [_encoded(label) for label in mapped.split(".")]
    except (idna.IDNAError, UnicodeError, ValueError, IndexError):
        return None
    name = ".".join(labels)
    return None if _FORBIDDEN.search(name) or not is_name(name) else name


def is_name(host: str) -> bool:
    """Whether every `xn--` label of an ASCII name in lower case stands for what browsers would encode so."""
    return all(_stands_for_something(label) for label in host.split(".") if label.startswith("xn--"))


def _encoded(label: str) -> str:
    if label.isascii():
        return label
    if label.startswith("xn--"):
        raise ValueError("it is encoded already, and then not ASCII")
    return f"xn--{label.encode('punycode').decode('ascii')}"


def _stands_for_something(label: str) -> bool:
    try:
        decoded = label[4:].encode("ascii").decode("punycode")
        if not decoded or decoded.isascii() or _encoded(decoded) != label:
            return False
        if idna.uts46_remap(decoded, std3_rules=False, transitional=False) != decoded:
            return False
        idna.check_initial_combiner(decoded)
        if any(not idna.valid_contextj(decoded, place) for place, one in enumerate(decoded) if one in "\u200c\u200d"):
            return False
        return bool(idna.check_bidi(decoded))
    except (idna.IDNAError, UnicodeError, ValueError, IndexError):
        return False
