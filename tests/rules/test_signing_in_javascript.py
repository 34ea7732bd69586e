"""What is signed here verifies with npm's `standardwebhooks`, which nobody here wrote."""

import json
import shutil
import subprocess
import time

import pytest

from dispatcher.rules.secrets import Secret
from dispatcher.rules.signing import signature_header
from tests.npm import node_modules

_PROGRAM = """
const { Webhook } = require("standardwebhooks");
const cases = JSON.parse(require("fs").readFileSync(0, "utf-8"));
console.log(JSON.stringify(cases.map(({ secret, body, headers }) => {
  try { new Webhook(secret).verify(body, headers); return "ok"; } catch (error) { return error.message; }
})));
"""

_BODIES = [
    '{"test": 2432232314}',
    '{"type":"job.completed","data":{"n":1.50,"big":12345678901234567890123,"z":1,"a":2}}',
    '{"data":"tüv – 日本 \\u2028 \u2028 😀"}',
    "[]",
]


def _verified(cases: list[dict[str, object]]) -> list[str]:
    node = shutil.which("node") or "node"
    environment = {"NODE_PATH": str(node_modules())}
    done = subprocess.run(
        [node, "-e", _PROGRAM],
        input=json.dumps(cases).encode(),
        env=environment,
        capture_output=True,
        timeout=30,
        check=True,
    )
    answers: list[str] = json.loads(done.stdout)
    return answers


def _case(body: str, signed_with: list[Secret], verified_with: Secret, signed: str | None = None) -> dict[str, object]:
    now = int(time.time())
    signature = signature_header([secret.key for secret in signed_with], "evt_1", now, (signed or body).encode())
    headers = {"webhook-id": "evt_1", "webhook-timestamp": str(now), "webhook-signature": signature}
    return {"secret": verified_with.text, "body": body, "headers": headers}


def test_javascript_verifies_our_signatures_whatever_the_body() -> None:
    secret = Secret.generate()
    assert _verified([_case(body, [secret], secret) for body in _BODIES]) == ["ok"] * len(_BODIES)


def test_javascript_verifies_with_either_secret_while_one_is_rotated() -> None:
    old, new = Secret.generate(), Secret.generate()
    assert _verified([_case(_BODIES[0], [new, old], old), _case(_BODIES[0], [new, old], new)]) == ["ok", "ok"]


@pytest.mark.parametrize("changed", ["secret", "body"])
def test_javascript_refuses_what_was_changed(changed: str) -> None:
    secret = Secret.generate()
    if changed == "secret":
        case = _case(_BODIES[0], [Secret.generate()], secret)
    else:
        case = _case(_BODIES[0], [secret], secret, signed=_BODIES[1])
    assert _verified([case]) == ["No matching signature found"]
