"""How commands report settings that only the SDK or the machine refuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.cli import main

WRONG = """\
version: 1
supertokens:
  recipes:
    emailpassword: {}
    emailverification: {mode: SOMETIMES}
    passwordless:
      contact_method: EMAIL
      flow_typ: MAGIC_LINK
"""
PASSWORDLESS = "supertokens.recipes.passwordless"
COMMAND = "from gateway.cli import main; main()"
DID_YOU_MEAN = "unknown key 'flow_typ'. Did you mean 'flow_type'?"


def run(command: str, text: str, tmp_path: Path) -> Result:
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    return CliRunner().invoke(main, [command, "-c", str(file)])


@pytest.mark.parametrize("command", ["check", "routes", "serve"])
def test_every_wrong_setting_is_reported_with_its_place(
    command: str, tmp_path: Path
) -> None:
    """Every wrong setting is reported with its place before the start; exit code 1."""
    result = run(command, WRONG, tmp_path)
    assert result.exit_code == 1
    lines = result.stderr.replace(f"{tmp_path}/", "").splitlines()
    assert lines[0].startswith(
        "routes.yaml:5:31: supertokens.recipes.emailverification.mode: expected"
    )
    assert lines[1:] == [
        (
            f"routes.yaml:7:7: {PASSWORDLESS}: the key 'flow_type' is missing."
            " Write flow_type: USER_INPUT_CODE, MAGIC_LINK or"
            " USER_INPUT_CODE_AND_MAGIC_LINK"
        ),
        f"routes.yaml:8:7: {PASSWORDLESS}.flow_typ: {DID_YOU_MEAN}",
        "3 problems in routes.yaml",
    ]


@pytest.mark.parametrize("command", ["check", "serve"])
@pytest.mark.parametrize("key", ["api_domain", "website_domain"])
@pytest.mark.parametrize("url", ["http://app", "https://co.uk"])
def test_a_domain_without_a_site_is_refused(
    command: str, key: str, url: str, tmp_path: Path
) -> None:
    """A domain that the SDK can't compare with others is exit code 1, no traceback."""
    text = f"""\
version: 1
gateway: {{listen: "127.0.0.1:0"}}
supertokens: {{{key}: "{url}"}}
"""
    file = tmp_path / "routes.yaml"
    file.write_text(text)
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, command, "-c", str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"supertokens.{key}: the SuperTokens SDK finds no site for {url}" in (
        done.stderr
    )
    assert "Traceback" not in done.stderr


def test_right_settings_are_no_problem(tmp_path: Path) -> None:
    """A recipe without settings has its defaults."""
    text = "version: 1\nsupertokens: {recipes: {emailpassword: , userroles: {}}}\n"
    result = run("check", text, tmp_path)
    assert result.exit_code == 0, result.stderr


def test_a_ca_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    """A missing `ca_file` is one line of `serve` at start; `check` doesn't read it."""
    missing = tmp_path / "ca.pem"
    text = f"""\
version: 1
gateway: {{listen: "127.0.0.1:0"}}
supertokens: {{}}
services: {{a: {{targets: ["https://a.invalid"], tls: {{ca_file: {missing}}}}}}}
routes: [{{path: /a, service: a}}]
"""
    assert run("check", text, tmp_path).exit_code == 0
    file = tmp_path / "routes.yaml"
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, "serve", "-c", str(file)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr[len("2026-11-27T13:27:37.273Z ") :] == (
        f"ERROR services.a.tls.ca_file: {missing}: no readable PEM bundle:"
        " [Errno 2] No such file or directory\n"
    )
