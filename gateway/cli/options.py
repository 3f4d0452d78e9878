"""edge. Options that several commands take."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

_DEFAULT_CONFIG: Final = "config/routes.yaml"

config_option = click.option(
    "-c",
    "--config",
    "config_path",
    type=click.Path(dir_okay=False, path_type=Path),
    default=_DEFAULT_CONFIG,
    show_default=True,
    envvar="GATEWAY_CONFIG",
    show_envvar=True,
    help="File with the route table.",
)
log_option = click.option(
    "--log-format",
    type=click.Choice(["text", "json", "none"]),
    default="text",
    show_default=True,
    envvar="GATEWAY_LOG_FORMAT",
    show_envvar=True,
    help="Format of the access log on standard output.",
)
