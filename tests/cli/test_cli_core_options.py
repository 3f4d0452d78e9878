"""The options of `gateway core` and `gateway dev` that set the embedded core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
import pytest
from click.testing import CliRunner

from gateway.cli.core import core
from gateway.cli.core_options import core_options
from gateway.cli.dev import dev
from gateway.dev.core import CoreSettings

NAMES = {
    "access_token_validity",
    "access_token_validity_jitter",
    "refresh_token_validity",
    "access_token_dynamic_signing_key_update_interval",
    "password_reset_token_lifetime",
    "email_verification_token_lifetime",
    "passwordless_code_lifetime",
    "passwordless_max_code_input_attempts",
    "real_hashing",
}


def settings_of(*arguments: str) -> CoreSettings:
    """Return the settings that a command with these arguments gets."""
    settings: list[CoreSettings] = []

    @click.command()
    @core_options
    def command(core_settings: Mapping[str, Any]) -> None:
        settings.append(CoreSettings(**core_settings))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert result.exception is None, result.output
    return settings[0]


def test_without_options_the_defaults_are_the_core_s() -> None:
    """The defaults that the help shows are those of the settings."""
    assert settings_of() == CoreSettings()


def test_options_have_the_units_of_the_real_core() -> None:
    """Seconds, minutes, hours and milliseconds, as in the real core's configuration."""
    settings = settings_of(
        *("--access-token-validity", "60"),
        *("--access-token-validity-jitter", "0"),
        *("--refresh-token-validity", "1.5"),
        *("--access-token-dynamic-signing-key-update-interval", "2"),
        *("--password-reset-token-lifetime", "1500"),
        *("--email-verification-token-lifetime", "2500"),
        *("--passwordless-code-lifetime", "3500"),
        *("--passwordless-max-code-input-attempts", "2"),
        "--real-hashing",
    )
    assert settings == CoreSettings(
        access_token_validity_s=60,
        access_token_jitter=0.0,
        refresh_token_validity_s=90,
        signing_key_update_interval_s=7200,
        password_reset_token_lifetime_ms=1500,
        email_verification_token_lifetime_ms=2500,
        passwordless_code_lifetime_ms=3500,
        passwordless_max_code_input_attempts=2,
        real_hashing=True,
    )


@pytest.mark.parametrize("command", [core, dev], ids=["core", "dev"])
def test_both_commands_have_the_options(command: click.Command) -> None:
    """`gateway core` and `gateway dev` have each option, with its unit in the help."""
    assert {str(option.name) for option in command.params} >= NAMES
    text = CliRunner().invoke(command, ["--help"]).output
    for line in (
        "--access-token-validity SECONDS",
        "--refresh-token-validity MINUTES",
        "--password-reset-token-lifetime MILLISECONDS",
    ):
        assert line in text


@pytest.mark.parametrize("command", [core, dev], ids=["core", "dev"])
@pytest.mark.parametrize(
    ("option", "value", "what"),
    [
        ("--access-token-validity", "0", "a whole number of seconds, at least 1"),
        ("--access-token-validity", "1.5", "a whole number of seconds"),
        ("--access-token-validity", "1h", "a whole number of seconds"),
        ("--access-token-validity", "9" * 30, "a whole number of seconds"),
        ("--access-token-validity-jitter", "1", "a fraction, at least 0 and below 1"),
        ("--access-token-validity-jitter", "nan", "a fraction"),
        ("--refresh-token-validity", "0.01", "a number of minutes, at least 0.02"),
        ("--refresh-token-validity", "inf", "a number of minutes"),
        (
            "--access-token-dynamic-signing-key-update-interval",
            "0.033",
            "a number of hours, at least 0.034",
        ),
        ("--passwordless-max-code-input-attempts", "-1", "a whole number, at least 1"),
    ],
)
def test_a_bad_value_names_option_value_and_unit(
    command: click.Command, option: str, value: str, what: str
) -> None:
    """A bad value ends the command with exit code 2 before anything is started."""
    result = CliRunner().invoke(command, [f"{option}={value}"])
    assert result.exit_code == 2
    message = " ".join(result.output.split())
    assert f"Invalid value for '{option}': '{value}' is not {what}" in message


@pytest.mark.parametrize("least", ["0.02", "0.034"])
def test_the_least_values_are_settings(least: str) -> None:
    """What the options accept at least, the core accepts, too."""
    option = (
        "--refresh-token-validity"
        if least == "0.02"
        else "--access-token-dynamic-signing-key-update-interval"
    )
    settings_of(option, least)
