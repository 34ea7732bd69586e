"""The settings of a deployment: environment or `.env`. Nothing is read at import; `load()` reads."""

from dispatcher.settings.declared import Settings
from dispatcher.settings.loading import environment_name, load
from dispatcher.settings.values import parse_keys

__all__ = ["Settings", "environment_name", "load", "parse_keys"]
