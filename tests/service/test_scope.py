"""What a caller sees is decided in `service/scope.py` alone: no statement of the service goes round it."""

import ast
from pathlib import Path

import pytest

from dispatcher import service
from dispatcher.errors import InvalidField
from dispatcher.service.scope import tenant_name, within
from dispatcher.store.tables import tables

MODULES = [path for path in Path(service.__path__[0]).glob("*.py") if path.name != "scope.py"]
COLUMN = tables().events.c.tenant


def named_tenant(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and node.attr == "tenant"


def test_no_statement_compares_a_tenant_by_itself() -> None:
    compared, scoped = [], 0
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            # Whether there is one at all (`is None`) is no matter of whose it is.
            if isinstance(node, ast.Compare) and not isinstance(node.ops[0], ast.Is | ast.IsNot):
                compared += [f"{module.name}:{node.lineno}"] * any(map(named_tenant, [node.left, *node.comparators]))
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "within":
                scoped += 1
    assert compared == []
    assert scoped > 20


def test_a_tenant_sees_its_own_rows_and_the_admin_all() -> None:
    own = within("acme", COLUMN).compile(compile_kwargs={"literal_binds": True})
    assert str(own) == "events.tenant = 'acme'"
    assert str(within(None, COLUMN)) == "true"


@pytest.mark.parametrize("text", ["", "x" * 129, "a\x00b", "\ud800"])
def test_a_path_that_names_no_tenant_is_refused(text: str) -> None:
    with pytest.raises(InvalidField, match="tenant"):
        tenant_name(text)
