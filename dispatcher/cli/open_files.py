"""Each connection is an open file, and many hosts allow a process a thousand of them unless it asks for more."""

import resource

from dispatcher.logs import logger

log = logger("dispatcher.open_files")

#: What a process has open beside its connections: the database's, logs, pipes, and those of 200 test events and as many
#: challenges.
_OTHERS = 600


def allow(connections: int) -> None:
    """Raises this process's soft limit so that it may have so many connections, as far as the hard one lets it.

    Without room for a socket every attempt would fail, and use up its retries.
    """
    wanted = connections + _OTHERS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if most > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    if most < wanted:
        log.warning("open_files.too_few", limit=most, wanted=wanted)
