"""JSON schemas as people read them: a table of fields, and a type in words."""

import re
from html import escape
from typing import Any


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """The schema that a reference stands for."""
    while "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rsplit("/", 1)[1]]
    return schema


def fields_table(document: dict[str, Any], schema: dict[str, Any]) -> str:
    """The fields of an object as an HTML table; of anything else, its type in words."""
    target = resolve(document, schema)
    properties: dict[str, Any] = target.get("properties", {})
    if not properties:
        return f"<p class='about'>{type_text(target)}</p>"
    required = required_names(target)
    # In an answer every field is there, and saying so of each says nothing.
    marked = () if len(required) == len(properties) else required
    rows = []
    for name in sorted(properties, key=lambda name: (name not in required, properties[name].get("deprecated", False))):
        field = properties[name]
        must = "<span class='must'>required</span>" if name in marked else ""
        about = re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(_description(field), quote=False))
        rows.append(f"<tr><td><code>{escape(name)}</code>{must}</td><td>{type_text(field)}</td><td>{about}</td></tr>")
    return f"<div class='scroll'><table>{''.join(rows)}</table></div>"


def required_names(schema: dict[str, Any]) -> list[str]:
    """The fields that must be sent; of several ways to satisfy the schema, the first."""
    return [*schema.get("required", ()), *schema.get("oneOf", [{}])[0].get("required", ())]


def _description(field: dict[str, Any]) -> str:
    for described in (field, *field.get("anyOf", ())):
        if "description" in described:
            return str(described["description"])
    return ""


def type_text(schema: dict[str, Any]) -> str:
    """A schema's type in words, as HTML with links to the schemas it names."""
    text = _type(schema)
    default = schema.get("default")
    if default not in (None, "", {}):
        text += f", default <code>{escape(_written(default))}</code>"
    return text


def _written(value: Any) -> str:
    match value:
        case bool():
            return str(value).lower()
        case list():
            return f"[{', '.join(_written(one) for one in value)}]"
        case float() if value.is_integer():
            return str(int(value))
        case _:
            return str(value)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"<a href='#schema-{escape(name)}'>{escape(name)}</a>"
    for union in ("anyOf", "oneOf", "allOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(_type(option) for option in schema[union]))
    if "const" in schema:
        return f"<code>{escape(str(schema['const']))}</code>"
    if "enum" in schema:
        return " · ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    match schema.get("type"):
        case "array":
            return f"list of {_type(schema.get('items', {}))}"
        case "object" if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {_type(schema['additionalProperties'])}"
        case "integer" | "number":
            return f"{schema['type']}{_range(schema)}"
        case "string" if schema.get("format") == "date-time":
            return "time"
        case "string" if "maxLength" in schema:
            return f"string, at most {schema['maxLength']}"
        case None:
            return "any JSON"
        case other:
            return str(other)


def _range(schema: dict[str, Any]) -> str:
    match schema:
        case {"exclusiveMinimum": above, "maximum": most}:
            return f" above {_written(above)}, at most {_written(most)}"
        case {"minimum": least, "maximum": most}:
            return f" {_written(least)}–{_written(most)}"
        case {"minimum": least}:
            return f" from {_written(least)}"
        case _:
            return ""
