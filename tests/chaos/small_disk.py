"""A file system of its own with 64 MiB, for what fills a disk. Only root can mount one, and not in every container."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class MayNotMount(Exception):
    """There is no small disk here; the message says why."""


@contextmanager
def small_disk(directory: Path) -> Iterator[None]:
    """Mounts one on a directory that is there, gone at the end with all that is on it. Raises `MayNotMount`."""
    if os.geteuid() != 0:
        raise MayNotMount("only root can mount a file system")
    mounting = ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(directory)]
    if subprocess.run(mounting, check=False, capture_output=True).returncode != 0:
        raise MayNotMount("this container may not mount a file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", directory], check=True)


def why_not() -> str | None:
    """Why there is no small disk here; null: there can be one."""
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        try:
            with small_disk(Path(directory)):
                return None
        except MayNotMount as error:
            return str(error)
