"""edge. The `gateway` command, one file for each command of it.

Heavy imports (the SDK's takes half a second) are within the functions that need them,
so that `gateway --help` answers at once.
Exit codes: 0 success, 1 a problem that is explained, 2 a wrong command line.
"""

from __future__ import annotations

import click

from gateway import __version__
from gateway.cli import check, core, dev, routes, schema, serve
from gateway.cli.terminal import open_closed_streams

__all__ = ["main"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="gateway")
def main() -> None:
    """A reverse proxy that verifies SuperTokens sessions.

    It reads a route table, checks the session on protected routes, and sends
    requests on with the user's identity in headers. `gateway dev` shows it all
    on this machine; `gateway serve` is for production.
    """
    open_closed_streams()


for _command in (
    check.check,
    core.core,
    dev.dev,
    routes.routes,
    schema.schema,
    serve.serve,
):
    main.add_command(_command)
