"""edge. `gateway health`: asks a running gateway how it is."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from gateway.cli.asking import CannotAsk, ask, local
from gateway.cli.loading import load
from gateway.cli.options import config_option
from gateway.cli.terminal import fail


@click.command()
@config_option
@click.option(
    "--ready",
    "path",
    flag_value="/readyz",
    help="Ask whether it is ready for new requests, not only whether it lives.",
)
@click.option(
    "--startup", "path", flag_value="/startupz", help="Ask whether it has started."
)
@click.option(
    "--url",
    metavar="URL",
    help="Where it answers probes, such as http://127.0.0.1:9902. Default:"
    " GATEWAY_PROBES_LISTEN, or gateway.probes.listen in the file.",
)
@click.option(
    "--probes-listen", envvar="GATEWAY_PROBES_LISTEN", hidden=True, default=None
)
def health(
    config_paths: tuple[Path, ...],
    path: str | None,
    url: str | None,
    probes_listen: str | None,
) -> None:
    """Ask a running gateway how it is, for images without curl.

    It prints one line: ok, degraded or failing, and why. It exits with 1 if the gateway
    is failing or doesn't answer, and with 0 otherwise.
    """
    address = url or local(probes_listen or _listen(config_paths))
    try:
        answer = ask(address, path or "/livez")
    except CannotAsk as error:
        fail(str(error))
    click.echo(answer.line)
    sys.exit(not answer.is_good)


def _listen(paths: tuple[Path, ...]) -> str:
    listen = load(paths).config.gateway.probes.listen
    if listen is None:
        fail("the file has no gateway.probes.listen: set it, or use --url")
    return listen
