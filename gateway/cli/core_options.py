"""edge. The options of `gateway core` and `gateway dev` that set the embedded core.

Each has the name and the unit of the real core's setting, with `-` for `_`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import click

_MOST: Final = 100 * 365 * 86_400 * 1000
"""Milliseconds of 100 years: a larger number of any unit is a mistake."""


def _number(
    what: str, *, least: float, below: float = _MOST, whole: bool = True
) -> Callable[[Any], int | float]:
    """Return the type of an option: numbers from *least* to *below*, called *what*."""
    to_number: type[int | float] = int if whole else float

    def convert(value: Any) -> int | float:
        try:
            number = to_number(value)
        except ValueError:
            number = math.nan
        if not least <= number < below:
            raise click.BadParameter(f"{value!r} is not {what}")
        return number

    return convert


@dataclass(frozen=True, slots=True, kw_only=True)
class _Option:
    """One option, and the setting of the embedded core that it sets."""

    name: str
    """The real core's name."""
    field: str
    """The name in `CoreSettings`."""
    unit: str
    """What the help shows in place of a value."""
    type: Callable[[Any], int | float]
    default: int | float
    help: str
    per_unit: int | float = 1
    """The setting's unit in the option's."""


_OPTIONS: Final = (
    _Option(
        name="access_token_validity",
        field="access_token_validity_s",
        unit="SECONDS",
        type=_number("a whole number of seconds, at least 1", least=1),
        default=3600,
        help="How long an access token is valid.",
    ),
    _Option(
        name="access_token_validity_jitter",
        field="access_token_jitter",
        unit="FRACTION",
        type=_number(
            "a fraction, at least 0 and below 1", least=0, below=1, whole=False
        ),
        default=0.05,
        help="Largest part of this time that is subtracted at random.",
    ),
    _Option(
        name="refresh_token_validity",
        field="refresh_token_validity_s",
        unit="MINUTES",
        type=_number(
            "a number of minutes, at least 0.02 (about a second)",
            least=0.02,
            whole=False,
        ),
        default=144_000,
        help="How long a refresh token, and so an unused session, is valid.",
        per_unit=60,
    ),
    _Option(
        name="access_token_dynamic_signing_key_update_interval",
        field="signing_key_update_interval_s",
        unit="HOURS",
        type=_number(
            "a number of hours, at least 0.034 (about two minutes)",
            least=0.034,
            whole=False,
        ),
        default=168,
        help="How long a dynamic key signs access tokens.",
        per_unit=3600,
    ),
    _Option(
        name="password_reset_token_lifetime",
        field="password_reset_token_lifetime_ms",
        unit="MILLISECONDS",
        type=_number("a whole number of milliseconds, at least 1", least=1),
        default=3_600_000,
        help="How long a link that resets a password works.",
    ),
    _Option(
        name="email_verification_token_lifetime",
        field="email_verification_token_lifetime_ms",
        unit="MILLISECONDS",
        type=_number("a whole number of milliseconds, at least 1", least=1),
        default=86_400_000,
        help="How long a link that verifies an address works.",
    ),
    _Option(
        name="passwordless_code_lifetime",
        field="passwordless_code_lifetime_ms",
        unit="MILLISECONDS",
        type=_number("a whole number of milliseconds, at least 1", least=1),
        default=900_000,
        help="How long a code or link of the passwordless recipe works.",
    ),
    _Option(
        name="passwordless_max_code_input_attempts",
        field="passwordless_max_code_input_attempts",
        unit="NUMBER",
        type=_number("a whole number, at least 1", least=1),
        default=5,
        help="How many wrong codes end a sign-in.",
    ),
)


def core_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command.

    The command gets them as `core_settings`, the keyword arguments for `CoreSettings`.
    """

    @functools.wraps(command)
    def with_settings(**values: Any) -> None:
        settings = {
            option.field: _in_units_of_the_field(option, values.pop(option.name))
            for option in _OPTIONS
        }
        settings["real_hashing"] = values.pop("real_hashing")
        command(core_settings=settings, **values)

    # The decorator that is applied last is the first in the help.
    decorated = click.option(
        "--real-hashing",
        is_flag=True,
        help="Let a password's hash take as long as in the real core: 0.1 s, not 10"
        " ms.",
    )(with_settings)
    for option in reversed(_OPTIONS):
        decorated = click.option(
            "--" + option.name.replace("_", "-"),
            metavar=option.unit,
            type=option.type,
            default=option.default,
            show_default=True,
            help=option.help,
        )(decorated)
    return decorated


def _in_units_of_the_field(option: _Option, value: float) -> int | float:
    if option.per_unit == 1:
        return value
    return round(value * option.per_unit)
