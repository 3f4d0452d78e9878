"""`gateway explain`: its command line, its text and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import sdk_reset
from click.testing import CliRunner, Result

from gateway.cli import main

ROUTES = """\
version: 1
supertokens:
  connection_uri: http://127.0.0.1:9
  recipes: {emailpassword: {}, userroles: {}}
services:
  orders: {targets: ["http://orders-1:8080"]}
  web: {targets: ["http://web:80"]}
routes:
  - {name: web, path: /, service: web, protected: false}
  - {name: orders, path: /orders, service: orders}
  - name: refund
    match: {path: {template: "/orders/{id}/refund"}, methods: [POST]}
    service: orders
    require: {roles: {any: [admin, support]}, max_age: 60s}
"""


@pytest.fixture
def ask(tmp_path: Path) -> object:
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)
    sdk_reset.reset()

    def run(*args: str) -> Result:
        return CliRunner().invoke(main, ["explain", *args, "-c", str(file)])

    yield run
    sdk_reset.reset()


def test_the_answer_says_all(ask: object) -> None:
    """The routes with their reasons, the checks, and what the service would get."""
    assert callable(ask)
    done = ask(
        *("POST", "https://api.shop.example/orders/8/refund", "--all"),
        *("--as", '{"id": "7d1e", "roles": ["support"]}', "-H", "X-User-Id: 1"),
        *("-H", "Authorization: Bearer x", "--client", "203.0.113.7"),
    )
    assert done.exit_code == 0, done.output
    text = " ".join(done.output.split())
    for part in (
        "target /orders/8/refund",
        "routes * 1 refund decides",
        "2 orders lost: a {name} comes before a prefix that ends there",
        "session st-role: met",
        "-> allowed as 7d1e (local), sent to orders as POST /orders/8/refund",
        "- X-User-Id: 1",
        "- Authorization: Bearer x",
        "+ X-User-Id: 7d1e",
        "+ X-Forwarded-For: 203.0.113.7",
        "+ X-Forwarded-Proto: https",
        "+ X-Forwarded-Host: api.shop.example",
    ):
        assert part in text, part


@pytest.mark.parametrize(
    ("args", "outcome", "part"),
    [
        (("POST", "/orders/8/refund"), "401", '{"message":"unauthorised"}'),
        (("GET", "/orders/8/refund"), "405", "another method, and its place decides"),
        (("GET", "/orders/8"), "401", "-> 401 unauthorised"),
        (("GET", "/"), "web", "-> anonymous (public), sent to web"),
        (("GET", "/Orders"), "web", "sent to web as GET /Orders"),
        (("GET", "/orders/..%2fx"), "400", "-> 400 bad_target ("),
        (("GET", "/user"), "401", "/user: the gateway answers it itself"),
        (("POST", "/auth/signin"), "/auth", "answered by SuperTokens' API"),
        (
            ("POST", "/orders/8/refund", "--as", '{"roles": ["x"], "age": "5m"}'),
            "403",
            "too old: fetched from the core",
        ),
        (("GET", "/orders", "--as", "expired"), "401", "try refresh token"),
        (("GET", "http://h.example?a=b"), "web", "sent to web as GET /?a=b"),
    ],
)
def test_outcomes(ask: object, args: tuple[str, ...], outcome: str, part: str) -> None:
    """`--expect` is met by the status of a refusal, or else by the route's name."""
    assert callable(ask)
    done = ask(*args, "--expect", outcome)
    assert done.exit_code == 0, done.output
    assert part in done.output
    other = ask(*args, "--expect", "999")
    assert other.exit_code == 1
    assert f"expected 999, got {outcome}" in other.output


def test_the_answer_as_json(ask: object, tmp_path: Path) -> None:
    """All routes are in it, and a person may come from a file."""
    assert callable(ask)
    someone = tmp_path / "person.json"
    someone.write_text('{"roles": ["customer"]}')
    done = ask("POST", "/orders/8/refund", "--as", f"@{someone}", "--json")
    answer = json.loads(done.output)
    assert (answer["status"], answer["route"]) == (403, "refund")
    assert [one["name"] for one in answer["candidates"]] == ["refund", "orders", "web"]
    (check,) = answer["checks"]
    assert (check["id"], check["is_met"]) == ("st-role", False)
    assert answer["upstream"] is None


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (("GET", "orders"), "expected a path that begins with /"),
        (("GET", "ftp://h/"), "expected http:// or https://"),
        (("GET", "/", "-H", "X-User-Id"), "expected NAME:VALUE"),
        (("GET", "/", "--as", "admin"), "expected JSON such as"),
        (("GET", "/", "--as", '{"role": 1}'), "a person has id, roles"),
        (("GET", "/", "--as", "@nowhere"), "No such file"),
    ],
)
def test_a_wrong_command_line(ask: object, args: tuple[str, ...], reason: str) -> None:
    """Exit code 2, with the reason and no traceback."""
    assert callable(ask)
    done = ask(*args)
    assert (done.exit_code, done.exception.__class__) == (2, SystemExit)
    assert reason in " ".join(done.output.split())
