"""What destroys or sends much is asked for on a terminal, and wants `--yes` elsewhere."""

import sys

import typer

from dispatcher.cli.failures import note, wrong_use


def on_a_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def require_yes_or_terminal(yes: bool, what: str) -> None:
    """Ends the command, before anything is read or done, where nobody can be asked and `--yes` is missing."""
    if not yes and not on_a_terminal():
        raise wrong_use(f"{what} needs a confirmation, and there is no terminal to ask on: add --yes")


def confirm(yes: bool, question: str) -> None:
    """Asks, unless `yes`; ends the command with code 1 on no."""
    require_yes_or_terminal(yes, "this")
    if yes:
        return
    if not typer.confirm(question, err=True):
        note("Nothing was done.")
        raise typer.Exit(1)
