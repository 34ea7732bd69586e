"""`dispatcher keys rotate-encryption` as people see it: a progress bar, and what can be done next."""

import sys

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dispatcher.cli.failures import FAILED, note
from dispatcher.cli.printing import print_answer, print_attributes
from dispatcher.cli.session import on_deployment
from dispatcher.service.encryption import rotate_encryption
from dispatcher.service.models import EncryptionRotation
from dispatcher.store.deployment import Deployment


def rotate_and_print(*, as_json: bool) -> int:
    """Rotates and tells what came of it; 1 when values remain under another key."""
    rotation = on_deployment(_rotated)
    print_answer(rotation, as_json, lambda: print_attributes(rotation))
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
