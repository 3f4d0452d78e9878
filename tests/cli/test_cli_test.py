"""`gateway test`: runs the tests in the file, with real rules and header policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree as ET

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
  - {name: fixed, path: /fixed, respond: {status: 204}, protected: false}
  - name: refund
    match: {path: {template: "/orders/{id}/refund"}, methods: [POST]}
    service: orders
    require: {roles: {any: [admin, support]}}
    rewrite: {strip_prefix: /orders}
tests:
  people:
    ann: {roles: [customer]}
    sue: {id: "7d1e", roles: [support]}
"""

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """Return a function that runs the tests in *text*, which follows `tests.people`."""
    sdk_reset.reset()

    def run_text(text: str, *args: str) -> Result:
        file = tmp_path / "routes.yaml"
        file.write_text(ROUTES + text)
        return CliRunner().invoke(main, ["test", "-c", str(file), *args])

    yield run_text
    sdk_reset.reset()


PASSES = """\
  public: [web, fixed]
  cases:
    - POST /orders/8/refund: {none: 401, expired: 401, ann: 403 st-role, sue: refund}
    - GET /orders/8/refund: {sue: 405}
    - GET /orders/..%2fx: {none: 400}
    - GET /fixed: {none: 204, ann: fixed}
    - GET http://other.example/: {none: web}
    - request: POST /orders/8/refund?a=b
      headers: {X-User-Id: "1", Authorization: Bearer x, Accept: text/plain}
      client: 203.0.113.7
      expect:
        sue:
          route: refund
          upstream: POST /8/refund?a=b
          headers: {x-user-id: "7d1e", Accept: text/plain, X-Forwarded-For: 203.0.113.7}
          absent: [Authorization, Cookie]
"""


def test_all_that_can_be_expected(run: Run) -> None:
    """Each of these holds; what no test reaches is named."""
    done = run(PASSES)
    assert (done.exit_code, done.output) == (
        0,
        "no test for: orders\n11 tests, 0 failed\n",
    )
    assert run(PASSES, "--complete").exit_code == 1
    complete = PASSES + "    - GET /orders: {ann: orders}\n"
    assert run(complete, "--complete").output == "12 tests, 0 failed\n"


FAILS = {
    "another route": (
        "- GET /orders: {ann: web}",
        "expected to be let through by web, got orders (local)",
    ),
    "a refusal by the route": (
        "- GET /orders: {none: orders}",
        "expected to be let through by orders, got 401 (unauthorised)",
    ),
    "no refusal": ("- GET /: {none: 401}", "expected 401, got web (public)"),
    "another status": (
        "- POST /orders/8/refund: {ann: 401}",
        "expected 401, got 403 (invalid_claim)",
    ),
    "another claim": (
        "- POST /orders/8/refund: {ann: 403 st-perm}",
        "expected that st-perm isn't met; not met: st-role",
    ),
    "another upstream path": (
        "- GET /orders/1: {ann: {upstream: GET /1}}",
        "expected GET /1 to be sent, got GET /orders/1",
    ),
    "no upstream": (
        "- GET /orders/1: {none: {upstream: GET /orders/1}}",
        "expected that a service gets it, got 401 (unauthorised)",
    ),
    "another value": (
        "- GET /orders/1: {sue: {headers: {X-User-Id: sue}}}",
        "expected X-User-Id: sue, got 7d1e",
    ),
    "no field": (
        "- GET /: {none: {headers: {X-User-Id: sue}}}",
        "expected X-User-Id: sue, got none",
    ),
    "a field": (
        "- GET /orders: {sue: {absent: [x-user-roles]}}",
        "expected no x-user-roles, got support",
    ),
    "no request": (
        "- GET orders: {none: 401}",
        "expected a path that begins with /, or a whole URL",
    ),
}


@pytest.mark.parametrize(("case", "reason"), FAILS.values(), ids=FAILS)
def test_what_does_not_hold(run: Run, case: str, reason: str) -> None:
    """Exit code 1; the line of the case, who it is about, and what is so instead."""
    done = run(f"  cases:\n    {case}\n")
    assert done.exit_code == 1
    first, second, *_ = done.output.splitlines()
    assert first.partition(": ")[0].endswith(f"routes.yaml:{ROUTES.count(chr(10)) + 2}")
    assert second.strip() == reason
    assert done.output.endswith("1 test, 1 failed\n")


def test_public_routes_are_listed(run: Run) -> None:
    """One that isn't meant to be public is found, and so is a name that is stale."""
    done = run("  public: [web, orders]\n")
    assert done.exit_code == 1
    assert "fixed needs no session, and isn't listed" in done.output
    assert "orders is listed, and is no route without a session" in done.output


def test_properties(run: Run) -> None:
    """A property that is broken is a failed test, with its line and a request."""
    done = run(
        """\
  always:
    - public: {only: [web, fixed]}
    - {below: /orders, needs: {roles: {any: [support]}}, except: [orders]}
"""
    )
    assert done.exit_code == 1
    first, second, *_ = done.output.splitlines()
    assert first.endswith(
        f"routes.yaml:{ROUTES.count(chr(10)) + 3}: always: below /orders needs roles"
        " any of support"
    )
    assert second == "  POST /orders/x/refund: refund needs roles any of admin support"


def test_results_as_json(run: Run) -> None:
    """With the line and the route of each test."""
    done = run("  cases:\n    - GET /: {none: web, ann: 401}\n", "--json")
    result = json.loads(done.output)
    assert [(one["title"], one["passed"], one["route"]) for one in result["tests"]] == [
        ("GET / as none", True, "web"),
        ("GET / as ann", False, "web"),
    ]
    assert result["untested"] == ["refund", "orders", "fixed"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("  cases: [{GET /: {bob: 401}}]\n", "nobody is called 'bob'"),
        ("  cases: [{GET /: {an: 401}}]\n", "Did you mean 'ann'?"),
        ("  cases: [{GET /: {none: 99}}]\n", "must be at least 100"),
        ("  cases: [{GET /: {none: {}}}]\n", "nothing is expected"),
        ("  cases: [{GET /: {none: {statsu: 1}}}]\n", "unknown key 'statsu'"),
        ("  cases: [{GET /: {}}]\n", "tests.cases[0]"),
        ("  cases: [{request: GET, expect: {none: 1}}]\n", "tests.cases[0]"),
        ("  cases: [{request: GET /}]\n", "expect"),
        ("    none: {roles: []}\n", "this name has a meaning of its own"),
        ("    old: {age: old}\n", "tests.people.old.age"),
        ("  always: [{}]\n", "expected exactly one of public, needs, reaches_only"),
        ("  always: [{needs: session, near_misses: safe}]\n", "exactly one of"),
        ("  always: [{near_misses: safe, below: /a}]\n", "goes with needs only"),
        ("  always: [{near_misses: safe, except: [a]}]\n", "tests.always[0].except"),
        ("  always: [{reaches_only: [web]}]\n", "Say which role the session has"),
        ("  always: [{needs: nothing}]\n", "tests.always[0].needs"),
        ("  always: [{needs: {role: a}}]\n", "unknown key 'role'"),
        ("  always: [{needs: session, methods: []}]\n", "tests.always[0].methods"),
        ("  always: [{needs: session, below: a}]\n", "tests.always[0].below"),
    ],
)
def test_bad_tests_are_refused(run: Run, text: str, reason: str) -> None:
    """With place and remedy, by `check` and `serve`, too: the section is validated."""
    done = run(text)
    assert done.exit_code == 1
    assert reason in done.output
    assert "problem" in done.output


def test_a_file_without_tests(tmp_path: Path) -> None:
    """A check that runs nothing must not pass."""
    file = tmp_path / "routes.yaml"
    file.write_text(ROUTES.partition("tests:")[0])
    done = CliRunner().invoke(main, ["test", "-c", str(file)])
    assert done.exit_code == 1
    assert "has no tests" in done.output


SOME = """\
  cases:
    - POST /orders/8/refund: {none: 401, ann: web}
    - GET /: {none: web}
"""


def test_results_as_tap(run: Run) -> None:
    """A failure has its place and its reasons in comments, and so have routes without a
    test. A # in a title isn't a directive."""
    done = run(SOME + '    - "GET /a#SKIP": {none: web}\n', "--format", "tap")
    assert done.exit_code == 1
    lines = done.output.splitlines()
    assert lines[:4] == [
        "TAP version 13",
        "1..4",
        "ok 1 - POST /orders/8/refund as none",
        "not ok 2 - POST /orders/8/refund as ann",
    ]
    assert lines[4].endswith(f"routes.yaml:{ROUTES.count(chr(10)) + 2}")
    assert lines[5] == (
        "#   expected to be let through by web, got 403 (invalid_claim)"
    )
    assert "ok 4 - GET /a\\#SKIP as none" in lines
    assert lines[-1] == "# no test for: orders, fixed"


def test_results_as_junit(run: Run) -> None:
    """One case for each test, with its line; a failure says why."""
    done = run(SOME, "--format", "junit")
    assert done.exit_code == 1
    suite = ET.fromstring(done.output)[0]
    assert (suite.get("tests"), suite.get("failures")) == ("3", "1")
    cases = suite.findall("testcase")
    assert [one.get("name") for one in cases] == [
        "POST /orders/8/refund as none",
        "POST /orders/8/refund as ann",
        "GET / as none",
    ]
    failures = [one.find("failure") for one in cases]
    assert [one is not None for one in failures] == [False, True, False]
    assert cases[1].get("line") == str(ROUTES.count("\n") + 2)
    assert "no test for: orders, fixed" in suite.findtext("system-out", "")


def test_some_of_the_tests(run: Run) -> None:
    """By a glob on their titles. One that matches nothing isn't a success."""
    done = run(SOME, "--only", "GET *")
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "1 test, 0 failed")
    done = run(SOME, "--only", "PUT *")
    assert done.exit_code == 1
    assert "no test has a title like PUT *" in done.output


def test_coverage(run: Run) -> None:
    """What no test looks at has a name: requirements met and unmet, methods, …"""
    text = SOME.replace("ann: web", "ann: 403 st-role")
    done = run(text, "--coverage", "--fail-under", "30")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "no test for: orders, fixed",
        "coverage: 4 of 12 (33.3 %)",
        "  refund: no test for reached, expired, st-role met, rewrite",
        "  orders: no test for reached, no session, expired",
        "  fixed: no test for reached",
        "3 tests, 0 failed",
    ]
    done = run(text, "--fail-under", "50")
    assert done.exit_code == 1
    assert "coverage 33.3 % is below 50 %" in done.output


def test_missing_cases(run: Run) -> None:
    """They hold when they are pasted, and ask about what is public."""
    printed = run(SOME, "--write-missing").output
    assert (
        "    - GET /orders: {none: 401, expired: 401, ann: orders, sue: orders}\n"
        in (printed)
    )
    assert (
        "    - POST /orders/x/refund: {none: 401, expired: 401, ann: 403 st-role,"
        " sue: refund}\n"
    ) in printed
    assert "    - GET /fixed: " in printed
    assert printed.count("# is this meant?") == 1
    done = run("  cases:\n" + printed + "    - GET /: {none: web}\n", "--complete")
    assert (done.exit_code, done.output) == (0, "13 tests, 0 failed\n")
