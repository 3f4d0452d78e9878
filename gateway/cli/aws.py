"""edge. `gateway aws`: what a function of AWS Lambda needs."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from gateway.cli import reporting
from gateway.cli.loading import doubts, load, read
from gateway.cli.options import config_option
from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.aws.templates import MappingForm, TemplateForm


@click.group()
def aws() -> None:
    """Check a route table for AWS Lambda, and print what AWS needs."""


@aws.command()
@config_option
@click.option("--strict", is_flag=True, help="Exit with 1 for a warning, too.")
def check(config_paths: tuple[Path, ...], *, strict: bool) -> None:
    """Validate the route table for a function of AWS Lambda.

    Besides what `gateway check` reports, it warns of settings that have no effect
    there, or another one.
    """
    from gateway.aws import doubts as aws_doubts
    from gateway.settings import ConfigError

    try:
        settings = read(config_paths, is_to_serve=True)
    except ConfigError as error:
        reporting.report(error.problems, (), "text")
        sys.exit(1)
    found = settings.problems(aws_doubts.doubts(settings.config, settings.table))
    warnings = (*doubts(settings), *found)
    reporting.report((), warnings, "text")
    count = len(settings.table.routes)
    name = " ".join(map(str, config_paths))
    console().print(f"{name}: {count} route{'s' if count != 1 else ''}, no problem")
    if strict and warnings:
        sys.exit(1)


@aws.command()
@config_option
@click.option(
    "--for",
    "form",
    type=click.Choice(["http-api", "rest-api"]),
    default="http-api",
    show_default=True,
    help="The kind of API.",
)
def mapping(config_paths: tuple[Path, ...], form: MappingForm) -> None:
    """Print which fields API Gateway sets to what the authorizer says.

    They are request parameters of an integration. All identity fields of the route
    table are among them: a client's own would reach the service otherwise.
    """
    from gateway.aws import policies, templates

    names = policies.identity_names(load(config_paths).table.routes)
    sys.stdout.write(f"{templates.mapping(names, form)}\n")


@aws.command()
@config_option
@click.option(
    "--form",
    type=click.Choice(["sam", "terraform"]),
    default="sam",
    show_default=True,
    help="For AWS SAM, or for Terraform.",
)
def template(config_paths: tuple[Path, ...], form: TemplateForm) -> None:
    """Print a template that deploys the function behind an HTTP API.

    The variables that the route table names become its parameters, without their
    values. `make aws-zip` makes the file that it deploys.
    """
    from gateway.aws import templates

    environ = Noted(os.environ)
    load(config_paths, environ)
    runtime = f"python{sys.version_info.major}.{sys.version_info.minor}"
    sys.stdout.write(templates.template(form, environ.names, runtime))


class Noted(Mapping[str, str]):
    """The environment, which notes the names that are looked up in it."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.names: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.names.append(name)
        return self._environ[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._environ)

    def __len__(self) -> int:
        return len(self._environ)
