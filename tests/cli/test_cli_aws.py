"""`gateway aws`: warnings, the mapping of an authorizer, and templates."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from gateway.cli import main

GOOD = """\
version: 1
supertokens: {connection_uri: "${CORE_URI:-http://core}", api_key: "${API_KEY:-x}"}
services: {orders: {targets: ["http://orders"]}}
routes:
  - path: /orders
    service: orders
    identity: {headers: {X-Team: "{claims.team}"}}
    session: {check_database: always}
"""


def run(path: Path, text: str, *args: str) -> Result:
    path.write_text(text, encoding="utf-8")
    return CliRunner().invoke(main, ["aws", *args, "-c", str(path)])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "routes.yaml"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "services:",
            "gateway: {overload: {}}\nservices:",
            "gateway.overload: no effect",
        ),
        (
            "services:",
            "gateway: {listen: 'a:80'}\nservices:",
            "gateway.listen: no effect",
        ),
        ("http://orders", "http://127.0.0.1:80", "the function itself"),
        ("always", "never", "learns of a sign-out"),
        (
            "service: orders",
            "service: orders\n    require: {max_age: 1m, roles: {any: [a]}}",
            "require.max_age",
        ),
    ],
)
def test_what_is_doubtful_on_lambda(path: Path, old: str, new: str, said: str) -> None:
    """It is a warning with its place, and an error for `--strict`."""
    text = GOOD.replace(old, new, 1)
    if "roles" in new:
        text = text.replace("api_key", "recipes: {userroles: {}}, api_key", 1)
    done = run(path, text, "check")
    assert done.exit_code == 0, done.output
    output = " ".join(done.output.split())
    assert said in output
    assert "warning" in output
    assert run(path, text, "check", "--strict").exit_code == 1


def test_a_table_without_doubts(path: Path) -> None:
    """And one that can't be used at all."""
    done = run(path, GOOD, "check")
    assert done.exit_code == 0
    assert "on Lambda" not in done.output
    assert "1 route, no problem" in done.output
    broken = run(path, GOOD.replace("orders:", "others:"), "check")
    assert broken.exit_code == 1
    assert "routes[0].service" in broken.output


def test_the_mapping_has_every_identity_field(path: Path) -> None:
    """Those of routes included; a missing one would let the client's own pass."""
    made = json.loads(run(path, GOOD, "mapping").output)
    assert made["overwrite:header.X-User-Id"] == "$context.authorizer.x_user_id"
    assert made["overwrite:header.X-Team"] == "$context.authorizer.x_team"
    rest = json.loads(run(path, GOOD, "mapping", "--for", "rest-api").output)
    assert (
        rest["integration.request.header.X-Auth-Status"]
        == "context.authorizer.x_auth_status"
    )
    assert len(made) == len(rest)


def test_the_template_for_sam(path: Path) -> None:
    """The variables of the file are parameters, and their values are nowhere."""
    made = yaml.safe_load(run(path, GOOD, "template").output)
    assert made["Parameters"] == {
        "CoreUri": {"Type": "String", "NoEcho": True},
        "ApiKey": {"Type": "String", "NoEcho": True},
    }
    function = made["Resources"]["Gateway"]["Properties"]
    assert function["Handler"] == "gateway.aws.handler"
    assert function["Runtime"] == f"python3.{sys.version_info.minor}"
    variables = function["Environment"]["Variables"]
    assert variables["CORE_URI"] == {"Ref": "CoreUri"}
    assert variables["GATEWAY_CONFIG"] == "routes.yaml"


def test_the_template_for_terraform(path: Path) -> None:
    """The same with Terraform's variables."""
    made = run(path, GOOD, "template", "--form", "terraform").output
    assert 'variable "API_KEY" {' in made
    assert "      API_KEY = var.API_KEY\n" in made
    assert 'handler          = "gateway.aws.handler"' in made
    assert "@" not in made
    assert made.count("{") == made.count("}")
