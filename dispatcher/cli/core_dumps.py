"""A process that crashes must not leave its memory, with everybody's signing keys, in a file."""

import resource


def forbid() -> None:
    """No core file is written for this process from now on, nor for those that it starts."""
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, hard))
