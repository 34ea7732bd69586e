"""Database URLs as people write them, made into what each driver takes."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from dispatcher.errors import InvalidSettings

_SEVERAL_HOSTS = re.compile(r"^(?P<head>[^/]+://(?:[^@/]*@)?)(?P<hosts>[^/?@]*,[^/?@]*)(?P<tail>[/?].*)?$")
#: A host as the driver takes it; an IPv6 address with a port has brackets.
_SERVER = re.compile(r"(\[[^\]]*\]|[^:\[\]]+)(?::([0-9]+))?")
#: Parameters of libpq that the driver takes in another way, or that go without saying.
_OURS = frozenset({"sslmode", "application_name", "target_session_attrs"})


@dataclass(frozen=True, slots=True)
class DatabaseUrl:
    """A database that can hold the outbox."""

    url: URL
    dialect: str
    connect_args: dict[str, Any]

    @property
    def shown(self) -> str:
        """Without its password, which may also be a parameter."""
        hidden = {name: "***" for name in self.url.query if "password" in name}
        # Not encoded, as where it stands before the host.
        return self.url.update_query_dict(hidden).render_as_string(hide_password=True).replace("%2A%2A%2A", "***")

    @property
    def several_hosts(self) -> bool:
        """Whether it names several hosts, of which one takes writes."""
        return isinstance(self.url.query.get("host"), tuple)

    @property
    def servers(self) -> list[tuple[str, int]]:
        """Host (lower case) and port of each server that it names; none for a file or a socket of this machine."""
        if self.dialect == "sqlite":
            return []
        named, port = self.url.query.get("host") or self.url.host or (), self.url.query.get("port")
        usual = int(port) if isinstance(port, str) and port.isdecimal() else self.url.port or 5432
        found = []
        for each in (named,) if isinstance(named, str) else named:
            if not each.startswith("/"):
                parts = _SERVER.fullmatch(each)
                # What is not split is an IPv6 address.
                name, its_port = (each, None) if parts is None else (parts[1], parts[2])
                found.append((name.strip("[]").lower(), int(its_port or usual)))
        return found

    @property
    def file(self) -> Path | None:
        """The file of a SQLite database."""
        if self.dialect != "sqlite" or not self.url.database:
            return None
        return Path(self.url.database)


def parse_database_url(text: str) -> DatabaseUrl:
    """Reads `sqlite:///…` and `postgresql://…`, with or without a driver, with one host or several.

    Raises `InvalidSettings` for anything else; the message never shows the URL, which may hold a password.
    """
    several = _SEVERAL_HOSTS.match(text)
    hosts = several["hosts"] if several else None
    try:
        url = make_url(f"{several['head']}localhost{several['tail'] or ''}" if several else text)
    except (ArgumentError, ValueError) as error:
        raise InvalidSettings(
            "DISPATCHER_DATABASE_URL is no URL: write sqlite:///dispatcher.db or postgresql://user@host/name"
        ) from error
    match url.get_backend_name():
        case "sqlite":
            if url.database in (None, "", ":memory:") or str(url.database).startswith("file:"):
                raise InvalidSettings(
                    "DISPATCHER_DATABASE_URL: a SQLite outbox is a file, so that producers share it:"
                    " write sqlite:///dispatcher.db"
                )
            return DatabaseUrl(url.set(drivername="sqlite+aiosqlite"), "sqlite", {})
        case "postgresql" | "postgres":
            query = {key: value for key, value in url.query.items() if key not in _OURS}
            arguments: dict[str, Any] = {}
            if "sslmode" in url.query:
                arguments["ssl"] = url.query["sslmode"]
            if "application_name" in url.query:
                arguments["server_settings"] = {"application_name": url.query["application_name"]}
            if hosts:
                query["host"] = tuple(host if ":" in host else f"{host}:5432" for host in hosts.split(","))
                url = url.set(host=None, port=None)
            return DatabaseUrl(url.set(drivername="postgresql+asyncpg", query=query), "postgresql", arguments)
        case other:
            raise InvalidSettings(
                f"DISPATCHER_DATABASE_URL names {other}: the outbox runs on SQLite and PostgreSQL only"
            )
