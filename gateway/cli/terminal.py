"""edge. The standard streams, and messages for people on them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

if TYPE_CHECKING:
    from rich.console import Console


def open_closed_streams() -> None:
    """Open the null device for each standard stream that the caller closed (`>&-`).

    Otherwise a socket would get the stream's descriptor: output would go to a client,
    and uvloop aborts when it closes the socket. The order gives each stream its own
    descriptor.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = Path(os.devnull).open(mode, encoding="utf-8")  # noqa: SIM115
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)


def announce(text: str, colour: str | None = None) -> None:
    """Print a line to standard error, best effort.

    It doesn't use rich, which ends the process if the reader has closed the stream.
    """
    try:
        click.secho(text, fg=colour, err=True)
    except OSError:
        # Flushing the old stream at exit would fail, and change the exit code.
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115


def console(*, stderr: bool = False) -> Console:
    """Return a console for tables, with colours if it is a terminal."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def fail(text: str) -> NoReturn:
    """Print *text* to standard error and exit with 1."""
    console(stderr=True).print(text, markup=False, style="red")
    sys.exit(1)
