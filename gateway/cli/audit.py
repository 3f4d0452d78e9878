"""edge. `gateway audit`: what the file lets through that may not be meant."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

import click

from gateway.cli.loading import read
from gateway.cli.options import config_option
from gateway.cli.terminal import console

if TYPE_CHECKING:
    from gateway.audit import Audit, AuditFinding
    from gateway.config import Finding
    from gateway.settings import Problem, Settings

AuditFormat = Literal["text", "json", "sarif", "github"]
_FORMATS: Final = ("text", "json", "sarif", "github")
_UNUSABLE: Final = 2
"""The exit code for a command line or a file that can't be used."""
_STYLES: Final = {"high": "red", "medium": "yellow", "low": "cyan"}
_ANNOTATIONS: Final = {"high": "error", "medium": "warning", "low": "notice"}
_MAX_BASELINE_BYTES: Final = 64 * 1024**2


@click.command()
@config_option
@click.option(
    "--format",
    "form",
    type=click.Choice(_FORMATS),
    default="text",
    show_default=True,
    help="How findings are printed: as lines; as JSON; as SARIF, for code hosts and"
    " editors; or as annotations of GitHub Actions.",
)
@click.option(
    "--fail-on",
    type=click.Choice(["high", "medium", "low", "never"]),
    default="high",
    show_default=True,
    help="The least severity of a finding that makes the exit code 1.",
)
@click.option(
    "--baseline",
    type=click.Path(dir_okay=False, path_type=Path),
    help="What this command printed before, as JSON or SARIF: only other findings are"
    " reported.",
)
def audit(
    config_paths: tuple[Path, ...],
    form: AuditFormat,
    fail_on: str,
    baseline: Path | None,
) -> None:
    """Report what the route table lets through, and may not be meant to.

    docs/tools.md has the rules. The file can accept findings (`audit.accept`), each
    with a reason and an end. Exits with 0 if no finding is as grave as --fail-on, with
    1 if one is, and with 2 if the file or the command line can't be used.
    """
    known = frozenset[str]() if baseline is None else _fingerprints(baseline)
    settings = _settings(config_paths)
    from gateway.audit import AuditSeverity

    found = audit_of(settings, today(), known)
    match form:
        case "text":
            _print(found)
        case "json":
            click.echo(json.dumps(_json(found), indent=2, ensure_ascii=False))
        case "sarif":
            from gateway.audit import sarif

            shown = sarif(_relative(found.findings))
            click.echo(json.dumps(shown, indent=2, ensure_ascii=False))
        case "github":
            for one in _relative(found.findings):
                click.echo(_annotation(one))
    if found.fails(None if fail_on == "never" else AuditSeverity(fail_on)):
        sys.exit(1)


def today() -> str:
    """Return the day in UTC, such as `2027-01-31`."""
    return time.strftime("%Y-%m-%d", time.gmtime())


def audit_of(
    settings: Settings, day: str, baseline: frozenset[str] = frozenset()
) -> Audit:
    """Return the audit of *settings* on *day*, in UTC."""
    from gateway.audit import Audited
    from gateway.audit import audit as audited
    from gateway.supertokens import sites

    def locate(finding: Finding) -> Problem:
        (problem,) = settings.problems([finding])
        return problem

    return audited(
        Audited(
            config=settings.config,
            table=settings.table,
            is_written=settings.is_written,
            site=sites.registrable_domain,
        ),
        locate,
        day,
        baseline,
    )


def _settings(paths: Sequence[Path]) -> Settings:
    """Return the settings, or print what is wrong with them and exit with 2."""
    from gateway.settings import ConfigError

    try:
        return read(paths)
    except ConfigError as error:
        for problem in error.problems:
            console(stderr=True).print(str(problem), markup=False, style="red")
        sys.exit(_UNUSABLE)


def _fingerprints(file: Path) -> frozenset[str]:
    """Return the fingerprints in an earlier audit, or exit with 2."""
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MAX_BASELINE_BYTES + 1)
    except OSError as error:
        _refuse(f"{file}: the baseline can't be read: {error.strerror}")
    if len(raw) > _MAX_BASELINE_BYTES:
        _refuse(f"{file}: the baseline is larger than 64 MiB")
    from gateway.audit.baseline import BadBaseline, fingerprints

    try:
        return fingerprints(raw)
    except BadBaseline as error:
        _refuse(f"{file}: {error}")


def _refuse(text: str) -> NoReturn:
    console(stderr=True).print(text, markup=False, style="red")
    sys.exit(_UNUSABLE)


# --- formats ------------------------------------------------------------------


def _print(found: Audit) -> None:
    out = console()
    for one in found.findings:
        place = f"{one.file}:{one.line}:{one.column}:"
        about = f" {one.route}:" if one.route else ""
        see = f" (see {one.see})" if one.see else ""
        out.print(f"{place} ", end="", markup=False)
        out.print(
            f"{one.severity} {one.rule}",
            end="",
            markup=False,
            style=_STYLES[one.severity],
        )
        out.print(f"{about} {one.message}{see}. {one.remedy}", markup=False)
    out.print(_summary(found), markup=False)


def _summary(found: Audit) -> str:
    count = len(found.findings)
    words = [f"{count} finding{'s' if count != 1 else ''}"]
    of_each = [
        f"{number} {severity}"
        for severity in _STYLES
        if (number := sum(one.severity == severity for one in found.findings))
    ]
    if of_each:
        words[0] += f": {', '.join(of_each)}"
    if found.accepted:
        words.append(f"{len(found.accepted)} accepted")
    if found.in_baseline:
        words.append(f"{found.in_baseline} in the baseline")
    return "; ".join(words)


def _json(found: Audit) -> dict[str, Any]:
    return {
        "findings": [asdict(one) for one in found.findings],
        "accepted": [
            {**asdict(one.finding), "why": one.why, "until": one.until}
            for one in found.accepted
        ],
        "in_baseline": found.in_baseline,
    }


def _relative(findings: Sequence[AuditFinding]) -> list[AuditFinding]:
    """Return *findings* with files relative to this folder, where they are in it."""
    from dataclasses import replace

    here = Path.cwd()
    relative = []
    for one in findings:
        file = Path(one.file)
        if file.is_absolute() and file.is_relative_to(here):
            file = file.relative_to(here)
        relative.append(replace(one, file=file.as_posix()))
    return relative


def _annotation(finding: AuditFinding) -> str:
    from gateway.cli.reporting import annotation
    from gateway.settings import Problem

    about = f"{finding.rule} {finding.route}".strip()
    return annotation(
        Problem(
            file=finding.file,
            line=finding.line,
            column=finding.column,
            path=about,
            message=finding.message,
            hint=finding.remedy,
            see=finding.see,
        ),
        _ANNOTATIONS[finding.severity],
    )
