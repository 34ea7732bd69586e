"""`dispatcher keys rotate-encryption` as people see it: a progress bar, and what can be done next."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.cli.asking import ask
from dispatcher.cli.failures import FAILED, note
from dispatcher.service.encryption import rotate_encryption
from dispatcher.service.models import EncryptionRotation
from dispatcher.store.deployment import Deployment


def rotate_and_print(*, as_json: bool) -> int:
    """Rotates and tells what came of it; 1 when values remain under another key."""
    rotation = ask(_rotated, as_json)
    if rotation.unreadable:
        note(f"{rotation.unreadable} values are under keys that are not in DISPATCHER_SECRET_KEY: put these in.")
    elif rotation.remaining:
        note(
            "A process goes on to encrypt with an older key (restart it with the new one in front), or a value is"
            " damaged; run this again."
        )
    elif not as_json:
        note("Older keys can be taken out of DISPATCHER_SECRET_KEY.")
    return FAILED if rotation.remaining else 0


async def _rotated(deployment: Deployment) -> EncryptionRotation:
    with Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        task = progress.add_task("Re-encrypting", total=None)
        return await rotate_encryption(deployment, lambda done, of: progress.update(task, completed=done, total=of))
