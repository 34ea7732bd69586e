"""Keys for other ends than encryption follow from the ring's, and tell nothing about them nor about each other."""

import base64
import hmac

from dispatcher.rules import job_links
from dispatcher.rules.derived_keys import derived_key
from tests.rules.test_job_links import EXPIRES_AT, KEY, OTHER


def test_each_key_and_each_purpose_has_one_of_its_own() -> None:
    keys = {derived_key(key, purpose) for key in (KEY, OTHER) for purpose in ("job link", "endpoint request")}
    assert len(keys) == 4
    assert not keys & {KEY, OTHER}
    assert derived_key(KEY, "job link") == derived_key(KEY, "job link")


def test_a_link_is_signed_with_its_own() -> None:
    token = job_links.issue([KEY], "default", "job_1", EXPIRES_AT).removeprefix(job_links.PREFIX)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert raw[:32] == hmac.digest(derived_key(KEY, "job link"), raw[32:], "sha256")
