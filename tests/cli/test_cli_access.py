"""`gateway access`: who may reach what, as text, CSV, JSON and a page."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest
import sdk_reset
from click.testing import CliRunner, Result

from gateway.cli import main

ROUTES = """\
version: 1
supertokens:
  connection_uri: http://127.0.0.1:9
  recipes: {emailpassword: {}, userroles: {}, emailverification: {mode: OPTIONAL}}
services: {up: {targets: ["http://up"]}}
routes:
  - {name: web, path: /, service: up, protected: false}
  - {name: orders, path: /orders, service: up}
  - {name: hello, path: /hello, service: up, protected: optional}
  - name: refund
    match: {path: {template: "/orders/{id}/refund"}, methods: [POST]}
    service: up
    require: {roles: {any: [admin, "=<b>x"]}}
  - name: mail
    path: /mail
    service: up
    require: {roles: {any: ["=<b>x"]}, email_verified: true}
  - name: shop
    path: /shop
    service: up
    require: {any: [{roles: {all: [admin]}}, {tenants: [t1]}]}
  - {name: gone, path: /gone, respond: {status: 410}, protected: false}
"""
EXPECTED = {
    "web": "○○○○",
    "orders": "·✔✔✔",
    "hello": "○○○○",
    "refund": "·?✓✓",
    "mail": "·?·?",
    "shop": "·?✓?",
    "gone": "····",
}
"""Route → the marks of nobody, somebody, admin and =<b>x. ✔ stands for (✓)."""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    sdk_reset.reset()
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES)
    yield lambda *args: CliRunner().invoke(main, ["access", "-c", str(file), *args])
    sdk_reset.reset()


def marks(text: str) -> dict[str, str]:
    header, *rows = csv.reader(io.StringIO(text))
    assert header[5:] == ["no session", "a session", "admin", "'=<b>x"]
    return {row[1]: "".join(row[5:]).replace("(✓)", "✔") for row in rows}


def test_marks_by_role(run: Run) -> None:
    """A mark is certain, or says that it isn't. No cell of the CSV is a formula."""
    done = run("--format", "csv")
    assert done.exit_code == 0
    assert marks(done.output) == EXPECTED


def test_other_columns(run: Run) -> None:
    """By tenant: who is of it alone meets an alternative. Nobody asks permissions."""
    shown = json.loads(run("--by", "tenant", "--format", "json").output)
    assert shown["columns"] == ["no session", "a session", "t1"]
    by_name = {one["name"]: one["marks"] for one in shown["routes"]}
    assert by_name["shop"] == ["refused", "unknown", "met"]
    assert by_name["refund"] == ["refused", "unknown", "unknown"]
    shown = json.loads(run("--by", "permission", "--format", "json").output)
    assert shown["columns"] == ["no session", "a session"]


def test_one_request(run: Run) -> None:
    """Only the route that decides it; none is an error with the reason."""
    done = run("--who", "POST", "/orders/8/refund", "--format", "csv")
    assert marks(done.output) == {"refund": EXPECTED["refund"]}
    done = run("--who", "PUT", "/orders/8/refund")
    assert done.exit_code == 1
    assert "no route decides it: 405" in done.output
    done = run("--who", "GET", "/auth/signin")
    assert "the gateway answers it itself" in done.output
    assert run("--who", "GET", "orders").exit_code == 2


def test_the_text_explains_its_marks(run: Run) -> None:
    """The table, then what each mark means."""
    output = run().output
    assert "(template)" in output
    assert "?   can't be known" in output


class Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_a_page_to_print(run: Run) -> None:
    """No script, no source elsewhere, names escaped, and what it can't know."""
    page = Page()
    page.feed(run("--format", "html").output)
    assert {"script", "link", "img", "b"}.isdisjoint(page.tags)
    assert "=<b>x" in page.text
    assert "What this can't know" in page.text
    assert page.tags.count("tr") == 1 + len(EXPECTED)
