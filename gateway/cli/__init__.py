"""edge. The `gateway` command, with a file for each subcommand.

Slow imports (the SDK's takes half a second) are in the functions that need them, so
that `gateway --help` answers at once.
Exit codes: 0 success, 1 a problem with a message, 2 a wrong command line.
`reload`, `status`, `stop` and `upgrade` also exit with 3: no gateway runs. `audit`
exits with 1 for findings, and with 2 for a file with problems.
"""

from __future__ import annotations

import click

from gateway import __version__
from gateway.cli import (
    access,
    audit,
    aws,
    check,
    core,
    dev,
    diff,
    doctor,
    explain,
    front,
    health,
    keygen,
    openapi,
    reload,
    routes,
    schema,
    serve,
    sessions,
    status,
    stop,
    test,
    upgrade,
)
from gateway.cli.terminal import open_closed_streams

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A reverse proxy that verifies SuperTokens sessions.

    It reads a route table, checks the session on protected routes, and forwards
    requests with the user's identity in header fields. `gateway dev` runs a
    demonstration on this machine; `gateway serve` is for production.
    """
    open_closed_streams()


for _command in (
    access.access,
    audit.audit,
    aws.aws,
    check.check,
    core.core,
    dev.dev,
    diff.diff,
    doctor.doctor,
    explain.explain,
    front.front,
    health.health,
    keygen.keygen,
    openapi.openapi,
    reload.reload,
    routes.routes,
    schema.schema,
    serve.serve,
    sessions.sessions,
    status.status,
    stop.stop,
    test.test,
    upgrade.upgrade,
):
    main.add_command(_command)
