"""Which release this is."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("outbox-dispatcher")
except PackageNotFoundError:
    # A source tree on the path that was never installed.
    VERSION = "0+source"

USER_AGENT = f"dispatcher/{VERSION}"
