"""The document is valid, has every route of the application, and no other."""

import json

from openapi_spec_validator import validate

from dispatcher.api.openapi import problem_statuses
from dispatcher.api.problem_kinds import KINDS, MEDIA_TYPE
from dispatcher.api.table import ROUTES
from dispatcher.service.models import parse_event, parse_event_batch
from tests.api.client import DOCUMENT, Api


async def test_the_served_document_is_valid_openapi_3_1(api: Api) -> None:
    served = (await api.under(None).get("/openapi.json")).json
    validate(served)
    assert served["openapi"].startswith("3.1")
    assert served == json.loads(json.dumps(DOCUMENT))


async def test_the_applications_routes_are_exactly_the_documents(api: Api) -> None:
    served = {
        (route.method, route.resource.canonical)
        for route in api.app.router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    documented = {(method.upper(), path) for path, operations in DOCUMENT["paths"].items() for method in operations}
    assert served == documented
    assert len(ROUTES) == len(documented)


def test_every_documented_problem_has_the_problem_schema() -> None:
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                if status.startswith("2") or (path, status) in (("/readyz", "503"), ("/healthz", "503")):
                    continue
                shared = DOCUMENT["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
                assert shared["content"] == {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}, method


def test_every_status_of_a_problem_is_documented_somewhere() -> None:
    documented = {status for route in ROUTES for status in problem_statuses(route)}
    assert {kind.status for kind in KINDS} - documented == {405, 500}


def test_operations_have_distinct_names() -> None:
    assert len({route.operation for route in ROUTES}) == len(ROUTES)


def test_every_example_is_a_body_that_its_route_takes() -> None:
    for route in ROUTES:
        if route.body is not None:
            assert route.example, route.path
            raw = json.dumps(route.example).encode()
            assert route.read(raw) if route.read else route.body.read(dict(route.example))
    assert {route.read for route in ROUTES} == {None, parse_event, parse_event_batch}


def test_every_operation_names_the_scope_that_its_key_must_have() -> None:
    for route in ROUTES:
        operation = DOCUMENT["paths"][route.path][route.method.lower()]
        by_key: list[dict[str, list[str]]] = [{"key": [str(route.scope)]}]
        by_link: list[dict[str, list[str]]] = [{"link": []}] if route.linked else []
        assert operation["security"] == ([] if route.scope is None else by_key + by_link)
        assert route.scope is None or f"scope `{route.scope}`" in operation["description"]


def test_parameters_have_no_null() -> None:
    for operations in DOCUMENT["paths"].values():
        for operation in operations.values():
            for parameter in operation["parameters"]:
                assert "null" not in json.dumps(parameter["schema"]), parameter
