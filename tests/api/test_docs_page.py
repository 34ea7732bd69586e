"""The page at /docs: complete, self-contained, and harmless."""

import base64
import re
from hashlib import sha256
from html.parser import HTMLParser

from dispatcher.api.docs_page import prose
from dispatcher.api.problem_kinds import KINDS
from dispatcher.api.table import ROUTES
from tests.api.client import DOCUMENT, Api


class _Elements(HTMLParser):
    """What a browser would see: ids, links, and what it would load or run."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.attributes: set[str] = set()
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.attributes |= given.keys()
        self.ids += [given["id"]] if "id" in given else []
        self.links += [given["href"]] if tag == "a" else []
        self.loaded += [given[name] for name in ("src", "srcset", "data", "action") if name in given]
        self.loaded += [given["href"]] if tag == "link" else []


async def _page(api: Api) -> tuple[str, str]:
    answered = await api.under(None).get("/docs")
    assert answered.status == 200
    return answered.raw.decode(), answered.headers["Content-Security-Policy"]


async def test_every_route_schema_and_problem_is_on_the_page(api: Api) -> None:
    html, _ = await _page(api)
    ids = _Elements(html).ids
    assert len(ids) == len(set(ids))
    assert {route.operation for route in ROUTES} <= set(ids)
    assert {f"schema-{name}" for name in DOCUMENT["components"]["schemas"]} <= set(ids)
    assert {f"problem-{kind.name}" for kind in KINDS} <= set(ids)


async def test_every_link_on_the_page_leads_somewhere_on_it(api: Api) -> None:
    elements = _Elements((await _page(api))[0])
    assert len(elements.links) > len(ROUTES)
    assert {link for link in elements.links if link.removeprefix("#") not in elements.ids} == {"/openapi.json"}


async def test_the_page_loads_nothing(api: Api) -> None:
    html, policy = await _page(api)
    elements = _Elements(html)
    assert elements.loaded == ["data:,"]
    assert not {name for name in elements.attributes if name.startswith("on") or name == "style"}
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


async def test_the_policy_allows_exactly_the_pages_own_style_and_script(api: Api) -> None:
    html, policy = await _page(api)
    for tag, directive in (("style", "style-src"), ("script", "script-src")):
        (source,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(sha256(source.encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in policy


def test_text_becomes_html_only_where_it_is_code() -> None:
    assert prose("`a<b>` & <script>") == "<code>a&lt;b&gt;</code> &amp; &lt;script&gt;"
