"""The OpenAPI 3.1 document, made from the same table and models that serve the requests."""

import json
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from dispatcher.api.problem_kinds import KINDS, MEDIA_TYPE
from dispatcher.api.problems import Problem
from dispatcher.api.route import Route
from dispatcher.states import Scope

_REFERENCE = "#/components/schemas/{model}"
_Mode = Literal["validation", "serialization"]
_Schemas = dict[tuple[Any, _Mode], dict[str, Any]]

_DESCRIPTION = """Outbound webhooks from a transactional outbox: published events are signed, sent to every endpoint \
that matches, retried, and kept as dead letters when they are given up.

Times are RFC 3339 in UTC with `Z`. Ids are opaque. Lists are newest first; `next_cursor` continues them. Unknown \
fields and parameters are refused by name. Errors are RFC 9457 problems."""

_KEY = "The admin key, or one that was made with it. The list names the scope that it must have; `admin` has all."

#: Problems that any route with a key, and any route with a body, can answer.
_WITH_KEY = (401, 403, 422, 429, 503)
_WITH_BODY = (400, 408, 413, 415, 422)


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The document of these routes."""
    schemas, definitions = _schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas, routes)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "dispatcher",
            # The API's own: which release answers is nobody's business who has no key.
            "version": "1",
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "responses": dict(_problem_responses(schemas[Problem, "serialization"])),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": _KEY},
                "link": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "token",
                    "description": "The token of a job's link; it opens what is about that job, and may be sent as"
                    " Bearer key too.",
                },
            },
        },
    }


def encoded(content: dict[str, Any]) -> bytes:
    """The document as JSON."""
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()


def problem_statuses(route: Route) -> tuple[int, ...]:
    """The statuses of the problems that a route can answer, beside an unforeseen 500."""
    statuses = {422, *route.problems}
    if route.scope is not None:
        statuses.update(_WITH_KEY)
    if route.method in ("POST", "PATCH", "PUT"):
        statuses.update(_WITH_BODY)
    return tuple(sorted(statuses - route.answers.keys()))


def _schemas(routes: Iterable[Route]) -> tuple[_Schemas, dict[str, Any]]:
    wanted: dict[tuple[type[BaseModel], _Mode], None] = {(Problem, "serialization"): None}
    for route in routes:
        if route.body is not None:
            wanted[route.body, "validation"] = None
        for answer in route.answers.values():
            if answer.model is not None:
                wanted[answer.model, "serialization"] = None
    schemas, root = models_json_schema(list(wanted), ref_template=_REFERENCE)
    return dict(schemas), root.get("$defs", {})


def _operation(route: Route, schemas: _Schemas, routes: Sequence[Route]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.operation,
        "tags": [route.tag],
        "summary": route.summary,
        "parameters": _parameters(route),
        "responses": _responses(route, schemas, routes),
        "security": _security(route),
    }
    if route.scope is not None:
        wants = f"Wants a key with the scope `{route.scope}`"
        if route.scope is not Scope.ADMIN and route.of_deployment:
            wants += " and without tenant"
        operation["description"] = " ".join(filter(None, (route.description.strip(), f"{wants}.")))
    if route.body is not None:
        required = any(field.is_required() for field in route.body.model_fields.values())
        schema = schemas[route.body, "validation"]
        content = {"schema": schema, "example": route.example}
        operation["requestBody"] = {"required": required, "content": {"application/json": content}}
    return operation


def _security(route: Route) -> list[dict[str, list[str]]]:
    if route.scope is None:
        return []
    by_key = {"key": [str(route.scope)]}
    return [by_key, {"link": []}] if route.linked else [by_key]


def _parameters(route: Route) -> list[dict[str, Any]]:
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.parameters
    ]
    schema = route.query.model_json_schema(ref_template=_REFERENCE)
    inlined = schema.get("$defs", {})
    for name, field in schema.get("properties", {}).items():
        parameter: dict[str, Any] = {"name": name, "in": "query", "schema": _without_null(field, inlined)}
        if "description" in field:
            parameter["description"] = field["description"]
        parameters.append(parameter)
    if route.idempotent:
        parameters.append(
            {
                "name": "Idempotency-Key",
                "in": "header",
                "schema": {"type": "string", "minLength": 1, "maxLength": 255},
                "description": "Makes a repeated request answer what the first one did.",
            }
        )
    return parameters


def _without_null(field: dict[str, Any], inlined: dict[str, Any]) -> dict[str, Any]:
    """A parameter is either sent or not: it has no null, and needs no reference to a model of ours."""
    kept = {key: value for key, value in field.items() if key not in ("title", "description")}
    if kept.get("default", ...) is None:
        del kept["default"]
    options = [option for option in kept.pop("anyOf", []) if option != {"type": "null"}]
    kept.update(options[0] if options else {})
    reference = kept.pop("$ref", None)
    if reference is not None:
        target = inlined[reference.rsplit("/", 1)[1]]
        kept.update({key: value for key, value in target.items() if key in ("type", "enum")})
    return kept


def _responses(route: Route, schemas: _Schemas, routes: Sequence[Route]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, answer in route.answers.items():
        response: dict[str, Any] = {"description": answer.description}
        if answer.model is not None:
            response["content"] = {answer.media_type: {"schema": schemas[answer.model, "serialization"]}}
        elif status != 204:
            kind = "object" if answer.media_type == "application/json" else "string"
            response["content"] = {answer.media_type: {"schema": {"type": kind}}}
        if answer.stream_type is not None:
            response.setdefault("content", {})[answer.stream_type] = {"schema": {"type": "string"}}
        if answer.located is not None:
            response["headers"] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}
            response["links"] = _links(answer.located, routes)
        responses[str(status)] = response
    for status in problem_statuses(route):
        responses[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    responses["default"] = {"$ref": "#/components/responses/Problem"}
    return responses


def _links(located: str, routes: Sequence[Route]) -> dict[str, Any]:
    """What can be done next with the thing that an answer is about."""
    return {
        route.operation: {"operationId": route.operation, "parameters": {"id": "$response.body#/id"}}
        for route in routes
        if f"{route.path}/".startswith(f"{located}/{{id}}/")
    }


def _problem_responses(schema: dict[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    content = {MEDIA_TYPE: {"schema": schema}}
    yield "Problem", {"description": "Any other error.", "content": content}
    for status in sorted({kind.status for kind in KINDS}):
        kinds = [kind for kind in KINDS if kind.status == status]
        described = " ".join(f"{kind.title}: {kind.remedy}" for kind in kinds)
        headers = {
            401: {"WWW-Authenticate": {"description": "`Bearer`", "schema": {"type": "string"}}},
            429: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
            503: {"Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}},
        }.get(status)
        response: dict[str, Any] = {"description": described or HTTPStatus(status).phrase, "content": content}
        if headers:
            response["headers"] = headers
        yield f"Problem{status}", response
