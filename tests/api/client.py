"""A client of the API that holds every answer against the OpenAPI document."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from json import dumps, loads
from typing import Any

import aiohttp
from aiohttp import web
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from dispatcher.api import openapi
from dispatcher.api.table import ROUTES
from dispatcher.store.deployment import Deployment

ADMIN_KEY = "admin-key-of-the-tests-that-nobody-guesses"
DOCUMENT = openapi.document(ROUTES)
_PATHS = [(re.compile(re.sub(r"\{\w+\}", "[^/]+", path)), path) for path in DOCUMENT["paths"] if "{" in path]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        return loads(self.raw)

    @property
    def pointers(self) -> list[str]:
        """The fields that a problem names."""
        return [error["pointer"] for error in self.json["errors"]]

    @property
    def problem(self) -> str:
        """The kind of problem."""
        return str(self.json["type"]).removeprefix("/docs#problem-")


@dataclass(frozen=True, slots=True)
class Api:
    """Requests to a running API under one key."""

    session: aiohttp.ClientSession
    base: str
    key: str | None
    deployment: Deployment
    app: web.Application

    def under(self, key: str | None) -> "Api":
        """The same API, called with another key."""
        return Api(self.session, self.base, key, self.deployment, self.app)

    async def send(
        self,
        method: str,
        path: str,
        *,
        json: object = None,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answered:
        sent = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        raw = dumps(json).encode() if json is not None else raw
        if raw is not None:
            sent["Content-Type"] = "application/json"
        sent.update(headers or {})
        async with self.session.request(
            method,
            self.base + path,
            data=None if raw is None else BytesIO(raw),
            headers=sent,
            skip_auto_headers=["Content-Type"],
        ) as response:
            answered = Answered(response.status, response.headers, await response.read())
        if method != "HEAD":
            check_documented(method, path.partition("?")[0], answered)
        return answered

    async def get(self, path: str) -> Answered:
        return await self.send("GET", path)

    async def post(self, path: str, json: object = None, **headers: str) -> Answered:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", path, json=json, headers=sent)

    async def patch(self, path: str, json: object) -> Answered:
        return await self.send("PATCH", path, json=json)

    async def delete(self, path: str) -> Answered:
        return await self.send("DELETE", path)


def check_documented(method: str, path: str, answered: Answered) -> None:
    """The answer is one that the document has for this route, and its content is as the document says."""
    operation = _operation(method, path)
    responses = operation["responses"] if operation else {}
    response = responses.get(str(answered.status)) or {"$ref": "#/components/responses/Problem"}
    if operation is not None and answered.status < 500:
        assert str(answered.status) in responses, f"{method} {path} answers {answered.status}, which is not documented"
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    if "content" not in response:
        assert answered.raw == b""
        return
    media_type = answered.headers["Content-Type"].partition(";")[0]
    assert media_type in response["content"], (method, path, answered)
    content = response["content"][media_type]
    if "json" in media_type:
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        Draft202012Validator(schema, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(answered.json)


def _operation(method: str, path: str) -> dict[str, Any] | None:
    operations = DOCUMENT["paths"].get(path)
    if operations is None:
        operations = next((DOCUMENT["paths"][template] for pattern, template in _PATHS if pattern.fullmatch(path)), {})
    operation: dict[str, Any] | None = operations.get(method.lower())
    return operation
