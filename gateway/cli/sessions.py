"""edge. `gateway sessions`: ends sessions through the admin listener."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from gateway.cli.admin_client import address, post
from gateway.cli.options import config_option
from gateway.cli.terminal import fail


@click.group()
def sessions() -> None:
    """Act on the sessions of a running gateway."""


@sessions.command()
@config_option
@click.option("--session", "handle", metavar="HANDLE", help="End this session.")
@click.option("--user", "user_id", metavar="ID", help="End all sessions of this user.")
@click.option("--tenant", metavar="ID", help="With --user: only those in this tenant.")
@click.option(
    "--admin",
    "url",
    metavar="URL",
    envvar="GATEWAY_ADMIN",
    show_envvar=True,
    help="The admin listener: http://host:port or unix:/path. Default:"
    " GATEWAY_ADMIN_LISTEN, or gateway.admin.listen in the file.",
)
@click.option(
    "--admin-listen", envvar="GATEWAY_ADMIN_LISTEN", hidden=True, default=None
)
@click.option(
    "--token-file",
    type=click.Path(dir_okay=False),
    help="File with its token. Default: gateway.admin.token_file in the file.",
)
def revoke(
    config_paths: tuple[Path, ...],
    handle: str | None,
    user_id: str | None,
    tenant: str | None,
    url: str | None,
    admin_listen: str | None,
    token_file: str | None,
) -> None:
    """Sign a session or a user out at once.

    All workers refuse the access tokens, and close the WebSockets and streams. The core
    ends the sessions, so that they can't be refreshed. It exits with 0 if both worked,
    and with 1 otherwise.
    """
    if (handle is None) == (user_id is None):
        raise click.UsageError("use --session or --user")
    if tenant is not None and user_id is None:
        raise click.UsageError("--tenant needs --user")
    body = {"session": handle, "user": user_id, "tenant": tenant}
    where = address(config_paths, url, token_file, listen=admin_listen)
    status, answer = post(
        where,
        "/sessions/revoke",
        {name: value for name, value in body.items() if value is not None},
    )
    match answer:
        case {"gateway": dict() as gateway, "core": dict() as core}:
            _print("gateway", gateway, "all workers refuse it")
            _print("core", core, f"{core.get('sessions')} session(s) ended")
            sys.exit(status != 200)
        case {"error": str(reason)}:
            fail(f"refused with {status}: {_printable(reason)}")
        case _:
            fail(f"status {status}, and not the answer of a gateway")


def _print(name: str, part: dict[str, Any], good: str) -> None:
    line = good if part.get("ended") is True else f"failed: {part.get('error')}"
    click.echo(f"{name}: {_printable(line)}", err=part.get("ended") is not True)


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)
