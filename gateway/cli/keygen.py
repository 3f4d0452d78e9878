"""edge. `gateway keygen`: makes a key for assertions."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.cli.terminal import fail


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
def keygen(file: Path) -> None:
    """Make a key that signs assertions (`gateway.assertion`), in FILE.

    The file has mode 0600. An existing one is never overwritten. The command prints
    the key's id, by which services find it among the published keys.
    """
    from gateway.assertions import generate

    try:
        key = generate(file)
    except FileExistsError:
        fail(f"{file} exists, and a key is never overwritten: choose another name")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not the name of a file"
        fail(f"{file} can't be written: {reason}")
    sys.stdout.write(
        f"{file}: a new key for ES256, with mode 0600\n"
        f"kid {key.kid}\n"
        "Next: list the file in gateway.assertion.keys, let the gateway's user own it,"
        " and run gateway check.\n"
        "The first key of the list signs. If there is one already, list the new one"
        " second, reload, and make it the first five minutes later.\n"
    )
