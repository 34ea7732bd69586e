"""Every setting with its default, unit and help: as a table, as JSON, and as the documentation's page."""

import json
import sys
from typing import Any, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from dispatcher.cli.printing import print_json, print_table
from dispatcher.errors import ConfigurationError
from dispatcher.redaction import REDACTED
from dispatcher.settings import Settings, environment_name, load
from dispatcher.store.urls import parse_database_url

#: What a value is measured in, by the name of its type or of the setting.
_UNITS = {
    "timedelta": "duration",
    "max_payload": "size",
    "retry_schedule": "durations",
    "retry_jitter": "share",
    "max_in_flight": "attempts",
    "max_in_flight_per_endpoint": "attempts",
    "max_in_flight_per_destination": "attempts",
    "max_in_flight_per_unverified_destination": "attempts",
    "unverified_rate": "attempts/s",
    "max_readers": "readers",
    "max_connections": "connections",
    "tls_cert": "file",
    "tls_key": "file",
    "trusted_proxies": "CIDRs",
    "tenant_max_endpoints": "endpoints",
    "tenant_events_per_s": "events/s",
    "allow_networks": "CIDRs",
    "deny_networks": "CIDRs",
    "nat64_prefixes": "CIDRs",
    "allow_hosts": "hosts",
    "allow_ports": "ports",
    "deny_ports": "ports",
    "proxy": "URL",
    "no_proxy": "hosts",
    "egress_addresses": "addresses",
    "endpoint_defaults": "JSON",
    "event_kinds": "JSON",
    "secret_key": "base64",
    "secret_key_command": "command",
    "host": "address",
    "port": "port",
    "work_port": "port",
    "database_url": "URL",
    "bool": "true, false",
}


def print_settings(*, as_json: bool) -> None:
    """Prints them all, with the values in force here. Raises `ConfigurationError` after that when one is wrong."""
    wrong: ConfigurationError | None = None
    try:
        current: Settings | None = load()
    except ConfigurationError as error:
        current, wrong = None, error
    rows = [_described(name, field, current) for name, field in Settings.model_fields.items()]
    if as_json:
        print_json(json.dumps(rows, ensure_ascii=False, indent=2 if sys.stdout.isatty() else None))
    else:
        print_table(
            rows,
            (
                ("SETTING", lambda row: row["name"]),
                ("VALUE", lambda row: row["value"]),
                ("DEFAULT", lambda row: row["default"]),
                ("UNIT", lambda row: row["unit"]),
                ("", lambda row: row["help"]),
            ),
        )
    if wrong is not None:
        raise wrong


def markdown() -> str:
    """The documentation's page of settings."""
    lines = [
        "# Settings",
        "",
        "Each is an environment variable, or a line in a file `.env` in the working directory; the environment wins.",
        "`dispatcher settings` prints them with the values in force. Durations are written `200ms`, `5s`, `5m`, `2h`,",
        "`30d`, sizes `256KiB` or `1MB`. A wrong setting stops the start; all that are wrong are told at once.",
        "",
        "| setting | default | unit | meaning |",
        "| --- | --- | --- | --- |",
    ]
    for name, field in Settings.model_fields.items():
        row = _described(name, field, None)
        default = f"`{row['default']}`" if row["default"] is not None else "unset"
        cells = (f"`{row['name']}`", default, row["unit"], row["help"])
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    lines += ["", "This page is generated: `dispatcher settings --markdown > docs/settings.md`."]
    return "\n".join(lines)


def _described(name: str, field: FieldInfo, current: Settings | None) -> dict[str, Any]:
    default = _written(Settings.model_construct(), name)
    return {
        "name": environment_name(name),
        "default": default,
        "value": _written(current, name) if current is not None else None,
        "unit": _unit(name, field),
        "help": field.description,
    }


def _written(settings: Settings, name: str) -> str | None:
    """A value as one writes it into the environment; a secret only as set or not."""
    value = getattr(settings, name)
    if isinstance(value, SecretStr):
        return REDACTED
    if value is None or value == () or value == {} or value == "":
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        headers = value.get("headers")
        shown = {**value, "headers": dict.fromkeys(headers, REDACTED)} if isinstance(headers, dict) else value
        return json.dumps(shown, ensure_ascii=False)
    if name == "database_url":
        return _without_password(value)
    return str(settings.model_dump(include={name})[name])


def _without_password(url: str) -> str:
    try:
        return parse_database_url(url).shown
    except ConfigurationError:
        # What cannot be read cannot be shown in part; `doctor` says what is wrong with it.
        return REDACTED


def _unit(name: str, field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    return _UNITS.get(name) or _UNITS.get(getattr(field.annotation, "__name__", ""), "text")
