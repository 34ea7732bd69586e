"""What settings may be: how a value is read from its text, what is refused, and how it is written again."""

import base64
import binascii
import json
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, SecretStr
from pydantic_settings import NoDecode

from dispatcher.units import (
    format_duration,
    format_ports,
    format_size,
    parse_duration_s,
    parse_ports,
    parse_size,
)

ValueT = TypeVar("ValueT")


def _duration(value: object) -> timedelta:
    if isinstance(value, timedelta):
        return value
    if isinstance(value, str | int | float):
        return timedelta(seconds=parse_duration_s(value))
    raise ValueError("write a duration like 200ms, 5s, 5m, 2h or 30d")


def read_schedule(value: object) -> tuple[float, ...]:
    """Delays in seconds, as durations in one text or several. Raises `ValueError`."""
    if isinstance(value, str):
        parts = [part for part in value.split(",") if part.strip()]
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        raise ValueError("write delays separated by commas, like 5s,5m,30m")
    if len(parts) > 50:
        raise ValueError("at most 50 retries")
    return tuple(parse_duration_s(part) for part in parts)


def _comma_separated(value: object) -> object:
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _json_object(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        parsed = json.loads(value)
    except ValueError as error:
        raise ValueError(f"is no JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError('is no JSON object; write it like {"profile": "flat"}')
    return parsed


def _positive(value: timedelta) -> timedelta:
    if value < timedelta(milliseconds=1):
        raise ValueError("must be at least 1ms")
    return value


def _of_a_kind_we_know(url: str) -> str:
    kind, separator, _ = url.partition("://")
    # What has no scheme may be anything, a password too, and is not shown.
    if not separator:
        raise ValueError("is no URL: write sqlite:///dispatcher.db or postgresql://user@host/name")
    if kind.partition("+")[0] not in ("sqlite", "postgresql", "postgres"):
        raise ValueError(f"names {kind}: the outbox runs on SQLite and PostgreSQL only")
    return url


def _translating(networks: tuple[IPv4Network | IPv6Network, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    for network in networks:
        if network.version != 6 or network.prefixlen not in (32, 40, 48, 56, 64, 96):
            raise ValueError(f"{network} is no IPv6 prefix of 32, 40, 48, 56, 64 or 96 bits")
    return networks


def parse_keys(text: str) -> tuple[bytes, ...]:
    """Base64 32-byte keys, separated by commas or white space. Raises `ValueError`, which never repeats them."""
    keys = []
    for part in text.replace(",", " ").split():
        try:
            key = base64.b64decode(part, validate=True)
        except binascii.Error:
            key = b""
        if len(key) != 32:
            raise ValueError("is not base64 of 32 bytes; make a key with: openssl rand -base64 32")
        keys.append(key)
    if not keys:
        raise ValueError("holds no key; make one with: openssl rand -base64 32")
    return tuple(keys)


def _holding_keys(value: SecretStr) -> SecretStr:
    parse_keys(value.get_secret_value())
    return value


Duration = Annotated[
    timedelta, BeforeValidator(_duration), PlainSerializer(lambda value: format_duration(value.total_seconds()))
]
PositiveDuration = Annotated[Duration, AfterValidator(_positive)]
Size = Annotated[
    int,
    BeforeValidator(lambda value: parse_size(value) if isinstance(value, str) else value),
    PlainSerializer(format_size),
]
Schedule = Annotated[
    tuple[float, ...],
    NoDecode,
    BeforeValidator(read_schedule),
    PlainSerializer(lambda value: ",".join(format_duration(delay) for delay in value)),
]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    NoDecode,
    BeforeValidator(_comma_separated),
    PlainSerializer(lambda value: ",".join(str(network) for network in value)),
]
TranslationPrefixes = Annotated[Networks, AfterValidator(_translating)]
Ports = Annotated[
    tuple[tuple[int, int], ...],
    NoDecode,
    BeforeValidator(lambda value: parse_ports(value) if isinstance(value, str) else value),
    PlainSerializer(format_ports),
]
Texts = Annotated[
    tuple[str, ...], NoDecode, BeforeValidator(_comma_separated), PlainSerializer(lambda value: ",".join(value))
]
DatabaseUrl = Annotated[str, AfterValidator(_of_a_kind_we_know)]
SecretKeys = Annotated[SecretStr, AfterValidator(_holding_keys)]
#: An object in JSON; its values are checked as `JsonObject[…]` says.
JsonObject = Annotated[dict[str, ValueT], NoDecode, BeforeValidator(_json_object)]
