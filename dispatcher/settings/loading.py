"""How the settings are read: from arguments, the environment and `.env`, with all that is wrong told at once."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, unquote_plus

from pydantic import ValidationError

from dispatcher.errors import InvalidSettings
from dispatcher.redaction import keep_out
from dispatcher.settings.declared import Settings

_PASSWORD = re.compile(r"[^/]*://[^/@:]*:(?P<password>[^@]*)@")


def environment_name(field: str) -> str:
    """The environment variable of a field of `Settings`."""
    return f"DISPATCHER_{field.rstrip('_').upper()}"


def load(env_file: Path | None = None, **given: Any) -> Settings:
    """The settings from arguments, the environment and `.env`, in this order of precedence.

    Raises `InvalidSettings` that names every wrong setting at once.
    """
    if "schema" in given:
        # Pydantic keeps the plain name for itself.
        given["schema_"] = given.pop("schema")
    unknown = sorted(given.keys() - Settings.model_fields.keys())
    if unknown:
        raise InvalidSettings(f"no such setting: {', '.join(unknown)}; `dispatcher settings` prints them all")
    try:
        settings = Settings(**given) if env_file is None else Settings(_env_file=env_file, **given)
    except ValidationError as error:
        wrong = []
        for problem in error.errors(include_url=False, include_context=False, include_input=False):
            said = problem["msg"].removeprefix("Value error, ")
            if not problem["loc"]:
                # About several, which it names.
                wrong.append(said)
                continue
            name = str(problem["loc"][0])
            name = name if name.startswith("DISPATCHER_") else environment_name(name)
            wrong.append(f"{name}: {said}")
        raise InvalidSettings("; ".join(wrong)) from None
    keep_out(_secrets_of(settings))
    return settings


def _secrets_of(settings: Settings) -> Iterator[str | None]:
    """What of the settings must not stand in any text."""
    for secret in (settings.admin_key, settings.secret_key_command):
        if secret is not None:
            yield secret.get_secret_value()
    if settings.secret_key is not None:
        yield from settings.secret_key.get_secret_value().replace(",", " ").split()
    yield from _passwords_of(settings.database_url)
    if settings.proxy is not None:
        yield from _passwords_of(settings.proxy.get_secret_value())


def _passwords_of(url: str) -> Iterator[str]:
    """As they are written, too: what is percent-encoded can be in several ways."""
    found = _PASSWORD.match(url)
    if found is not None:
        yield from (found["password"], unquote(found["password"]))
    # A database's may be a parameter.
    for parameter in url.partition("?")[2].split("&"):
        name, _, value = parameter.partition("=")
        if "password" in unquote_plus(name).lower():
            yield from (value, unquote_plus(value))
