"""The page at `/docs`: one self-contained document, written on the server from the OpenAPI document."""

import base64
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from dispatcher.api.docs_schema import fields_table, type_text
from dispatcher.api.problem_kinds import KINDS


@dataclass(frozen=True, slots=True)
class Page:
    """The page, and the content security policy under which all of it works."""

    html: bytes
    policy: str


def render(document: dict[str, Any]) -> Page:
    """The page of an OpenAPI document."""
    resources = files("dispatcher.api")
    style = resources.joinpath("docs.css").read_text(encoding="utf-8")
    script = resources.joinpath("docs.js").read_text(encoding="utf-8")
    info = document["info"]
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(info['title'])} API</title><link rel='icon' href='data:,'>",
        f"<style>{style}</style></head><body><div class='frame'>",
        *_navigation(document),
        "<main><header>",
        f"<h1>{escape(info['title'])} API</h1>",
        *(f"<p class='about'>{prose(part)}</p>" for part in info["description"].split("\n\n")),
        "<p class='about'>Requests carry <code>Authorization: Bearer KEY</code>.",
        " Tools read the same from <a href='/openapi.json'>openapi.json</a>.</p></header>",
        "<p class='nothing' id='nothing'>Nothing here has these words.</p>",
        *_operations(document),
        *_schemas(document),
        *_problems(),
        f"</main></div><script>{script}</script></body></html>",
    ]
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; img-src data:;"
        " base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return Page("".join(parts).encode(), policy)


def prose(text: str) -> str:
    """Text with `code` between backticks, as HTML."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(source.encode()).digest()).decode()}'"


def _by_tag(document: dict[str, Any]) -> Iterator[tuple[str, list[tuple[str, str, dict[str, Any]]]]]:
    for tag in document["tags"]:
        yield (
            tag["name"],
            [
                (path, method, operation)
                for path, methods in document["paths"].items()
                for method, operation in methods.items()
                if tag["name"] in operation["tags"]
            ],
        )


def _search_words(path: str, method: str, operation: dict[str, Any]) -> str:
    text = " ".join((method, path, operation["summary"], operation["operationId"], *operation["tags"]))
    return escape(text.lower())


def _badge(method: str) -> str:
    return f"<span class='method {method}'>{method.upper()}</span>"


def _navigation(document: dict[str, Any]) -> Iterator[str]:
    title, release = escape(document["info"]["title"]), escape(document["info"]["version"])
    yield f"<nav aria-label='Routes'><div class='name'>{title}<small>{release}</small></div>"
    yield "<input id='filter' type='search' placeholder='Filter ( / )' aria-label='Filter routes' autocomplete='off'>"
    yield "<div class='list'>"
    for tag, operations in _by_tag(document):
        yield f"<div data-group><h2>{escape(tag)}</h2><ul>"
        for path, method, operation in operations:
            yield (
                f"<li data-search=\"{_search_words(path, method, operation)}\"><a href='#{operation['operationId']}'>"
                f"{_badge(method)}<span>{escape(operation['summary'])}</span></a></li>"
            )
        yield "</ul></div>"
    yield "<h2>More</h2><ul><li><a href='#schemas'>Schemas</a></li><li><a href='#problems'>Problems</a></li></ul>"
    yield "</div></nav>"


def _operations(document: dict[str, Any]) -> Iterator[str]:
    for tag, operations in _by_tag(document):
        yield f"<section data-group><h2>{escape(tag)}</h2>"
        for path, method, operation in operations:
            yield from _operation(document, path, method, operation)
        yield "</section>"


def _operation(document: dict[str, Any], path: str, method: str, operation: dict[str, Any]) -> Iterator[str]:
    key = "" if operation["security"] else "<span class='key'>no key needed</span>"
    yield f'<article id="{operation["operationId"]}" data-search="{_search_words(path, method, operation)}">'
    yield f"<h3>{_badge(method)}<span class='path'>{escape(path)}</span>{key}</h3>"
    yield f"<p class='summary'>{prose(operation['summary'])}</p>"
    if "description" in operation:
        yield f"<p class='about'>{prose(operation['description'])}</p>"
    if operation["parameters"]:
        yield "<h4>Parameters</h4><div class='scroll'><table>"
        for parameter in operation["parameters"]:
            must = "<span class='must'>required</span>" if parameter.get("required") else ""
            about = f"{prose(parameter.get('description', ''))}"
            yield (
                f"<tr><td><code>{escape(parameter['name'])}</code>{must}</td>"
                f"<td>{parameter['in']} · {type_text(parameter['schema'])}</td><td>{about}</td></tr>"
            )
        yield "</table></div>"
    body = operation.get("requestBody")
    if body is not None:
        schema = body["content"]["application/json"]["schema"]
        yield f"<h4>Body</h4>{fields_table(document, schema)}"
    yield f"<h4>Example</h4><pre>{escape(_curl(path, method, operation), quote=False)}</pre>"
    yield "<h4>Answers</h4><div class='scroll'><table class='status'>"
    for status, response in operation["responses"].items():
        yield _answer(status, response)
    yield "</table></div></article>"


def _answer(status: str, response: dict[str, Any]) -> str:
    if "$ref" in response:
        name = response["$ref"].rsplit("/", 1)[1]
        if status == "default":
            return "<tr><td>other</td><td>Any other error, as a <a href='#schema-Problem'>problem</a>.</td></tr>"
        kinds = ", ".join(
            f"<a href='#problem-{kind.name}'>{kind.name}</a>" for kind in KINDS if name == f"Problem{kind.status}"
        )
        return f"<tr><td class='bad'>{status}</td><td>{kinds}</td></tr>"
    shapes = (
        type_text(content["schema"]) if media_type == "application/json" else escape(media_type)
        for media_type, content in response.get("content", {}).items()
    )
    shape = f" {' · '.join(shapes)}".rstrip()
    kind = "ok" if status.startswith("2") else "bad"
    return f"<tr><td class='{kind}'>{status}</td><td>{prose(response['description'])}{shape}</td></tr>"


def _curl(path: str, method: str, operation: dict[str, Any]) -> str:
    url = re.sub(r"\{(\w+)\}", lambda found: f"${found[1].upper()}", path)
    lines = [f'curl "$DISPATCHER_URL{url}"' if method == "get" else f'curl -X {method.upper()} "$DISPATCHER_URL{url}"']
    if operation["security"]:
        lines.append('-H "Authorization: Bearer $DISPATCHER_KEY"')
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]["example"]
        lines += ["-H 'Content-Type: application/json'", f"-d '{json.dumps(body)}'"]
    return " \\\n  ".join(lines)


def _schemas(document: dict[str, Any]) -> Iterator[str]:
    yield "<section id='schemas' data-group><h2>Schemas</h2>"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield f"<article id='schema-{escape(name)}' data-search='schema {escape(name.lower())}'>"
        yield f"<h3><span class='path'>{escape(schema.get('title', name))}</span></h3>"
        if "description" in schema:
            yield f"<p class='about'>{prose(schema['description'])}</p>"
        yield fields_table(document, schema)
        yield "</article>"
    yield "</section>"


def _problems() -> Iterator[str]:
    yield "<section id='problems' data-group><h2>Problems</h2>"
    for kind in KINDS:
        yield (
            f"<article id='problem-{kind.name}' data-search='problem {kind.name} {kind.status}'>"
            f"<h3><span class='path'>{kind.name}</span><span class='key'>{kind.status}</span></h3>"
            f"<p class='summary'>{prose(kind.title)}</p><p class='about'>{prose(kind.remedy)}</p></article>"
        )
    yield "</section>"
