"""What a page of another origin can have a browser do here: nothing, since no key of ours comes by itself."""

import pytest

from tests.api.client import ADMIN_KEY, DOCUMENT, Api

PAGE = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
EVENT = b'{"type":"a.b","data":1}'


async def test_no_answer_sets_a_cookie_and_none_is_read(api: Api) -> None:
    for path in ("/docs", "/healthz", "/v1/events", "/v1/nothing"):
        assert "Set-Cookie" not in (await api.get(path)).headers
    sent = {"Cookie": f"Authorization=Bearer {ADMIN_KEY}; key={ADMIN_KEY}; session={ADMIN_KEY}", **PAGE}
    assert (await api.under(None).send("GET", "/v1/events", headers=sent)).status == 401


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
async def test_a_form_of_another_page_publishes_nothing(api: Api, content_type: str) -> None:
    """A browser sends these without asking first; it has no key to send with them, and with one they are no JSON."""
    sent = {"Content-Type": content_type, **PAGE}
    assert (await api.under(None).send("POST", "/v1/events", raw=EVENT, headers=sent)).status == 401
    assert (await api.send("POST", "/v1/events", raw=EVENT, headers=sent)).status == 415
    assert (await api.get("/v1/events")).json["data"] == []


async def test_a_key_in_the_url_opens_nothing(api: Api) -> None:
    nobody = api.under(None)
    for query in (f"access_token={ADMIN_KEY}", f"token={ADMIN_KEY}", f"key={ADMIN_KEY}"):
        assert (await nobody.get(f"/v1/events?{query}")).status == 401
        assert (await nobody.get(f"/v1/jobs/job_1/events?{query}")).status == 401


async def test_no_page_of_another_origin_may_send_a_key_or_read_an_answer(api: Api) -> None:
    for path in DOCUMENT["paths"]:
        here = path.replace("{id}", "x").replace("{job_id}", "x").replace("{tenant}", "x")
        asked = {**PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = await api.under(None).send("OPTIONS", here, headers=asked)
        assert preflight.status == 405, path
        answered = await api.send("GET", here, headers=PAGE)
        for headers in (preflight.headers, answered.headers):
            assert not [name for name in headers if name.startswith("Access-Control-")], path


async def test_a_page_cannot_be_framed_opened_into_or_embedded(api: Api) -> None:
    for path in ("/docs", "/v1/events"):
        headers = (await api.get(path)).headers
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


async def test_nobody_learns_which_release_answers(api: Api) -> None:
    from dispatcher.version import VERSION

    nobody = api.under(None)
    for path in ("/docs", "/openapi.json", "/healthz", "/v1/events"):
        answered = await nobody.get(path)
        assert answered.headers["Server"] == "dispatcher"
        for banner in (VERSION, "aiohttp", "Python/"):
            assert banner.encode() not in answered.raw, path
            assert banner not in str(dict(answered.headers)), path
