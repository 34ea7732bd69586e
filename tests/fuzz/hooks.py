"""What `schemathesis` loads: no request of it waits long for events, and none leads to somebody else's server."""

import os
from typing import Any

import schemathesis
from schemathesis import Case, HookContext

#: Long-polls that would be valid last so long at most, in seconds.
LONGEST_WAIT_S = float(os.environ["FUZZ_LONGEST_WAIT_S"])
LONGEST_VALID_WAIT_S = 30


@schemathesis.hook
def before_call(context: HookContext, case: "Case[Any]", kwargs: dict[str, Any]) -> None:
    """Shortens a valid `wait`, and has the examples' callback URLs lead to a name that nobody can have."""
    try:
        if LONGEST_WAIT_S < float(str((case.query or {}).get("wait"))) <= LONGEST_VALID_WAIT_S:
            case.query["wait"] = LONGEST_WAIT_S
    except ValueError:
        pass
    if isinstance(case.body, dict):
        for name in ("url", "target_url"):
            if isinstance(url := case.body.get(name), str):
                case.body[name] = url.replace("//example.com", "//example.invalid")
