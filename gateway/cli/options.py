"""edge. Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

_DEFAULT_CONFIG: Final = "config/routes.yaml"

config_option = click.option(
    "-c",
    "--config",
    "config_paths",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    multiple=True,
    default=(_DEFAULT_CONFIG,),
    show_default=True,
    envvar="GATEWAY_CONFIG",
    show_envvar=True,
    help="File with the route table; - is standard input. Repeatable: later files"
    " override earlier ones.",
)
log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json", "none"]),
    envvar="GATEWAY_LOG_FORMAT",
    show_envvar=True,
    help="Form of the access log on standard output, and of messages on standard error."
    " Overrides log.format; the default is text.",
)
