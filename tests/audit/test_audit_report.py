"""What the file accepts, what a baseline hides, and fingerprints."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from gateway import settings
from gateway.audit import Audit, AuditSeverity, sarif
from gateway.audit.baseline import BadBaseline, fingerprints
from gateway.cli.audit import audit_of
from gateway.routes.labels import label
from gateway.settings import ConfigError

TODAY = "2026-11-28"
ROUTES = """\
version: 1
gateway: {limits: {max_fields: 50}}
supertokens: {connection_uri: http://core:3567}
defaults: {session: {check_database: on_write}}
services:
  app: {targets: ["https://app-1"], paths: exact}
  old: {targets: ["https://app-2"]}
routes:
  - {name: web, path: /, service: app, protected: false}
  - {path: /api, service: app}
  - {path: /api/open, methods: [PUT, GET], service: app, protected: false}
"""
"""GW001 of an unnamed route, GW005 of both public ones, and GW006."""
FOUND = {
    ("GW001", "GET,PUT /api/open", "/api"),
    ("GW005", "GET,PUT /api/open", ""),
    ("GW005", "web", ""),
    ("GW006", "", "old"),
}

Run = Callable[..., Audit]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Return a function that audits the table, followed by acceptances."""

    def run_with(*accepts: str, today: str = TODAY, text: str = ROUTES) -> Audit:
        file = tmp_path / "routes.yaml"
        lines = "".join(f"    - {one}\n" for one in accepts)
        file.write_text(f"{text}audit:\n  accept:\n{lines}" if accepts else text)
        return audit_of(settings.load(file, {}), today)

    return run_with


def keys(found: Audit) -> set[tuple[str, str, str]]:
    return {(one.rule, one.route, one.counterpart) for one in found.findings}


def test_findings_have_places(run: Run) -> None:
    """The gravest first; each with line and column of its route or service."""
    found = run().findings
    assert {(one.rule, one.route, one.counterpart) for one in found} == FOUND
    assert [one.severity for one in found] == ["medium"] * 3 + ["low"]
    places = {(one.rule, one.route): (one.line, one.column) for one in found}
    assert places["GW001", "GET,PUT /api/open"] == (11, 5)
    assert places["GW006", ""] == (7, 8)
    (guarded,) = (one for one in found if one.rule == "GW001")
    assert guarded.see == "routes[1], line 10"


def test_what_is_accepted_is_not_reported(run: Run) -> None:
    """By rule and route, until the day that is written, this day included."""
    found = run(
        '{rule: GW005, route: web, why: "a form", until: 2026-11-28}',
        '{rule: GW001, route: "GET,PUT /api/open", counterpart: /api, why: w,'
        " until: 2027-01-01}",
        "{rule: GW006, why: soon, until: 2027-01-01}",
    )
    assert keys(found) == {("GW005", "GET,PUT /api/open", "")}
    assert [(one.finding.rule, one.why, one.until) for one in found.accepted] == [
        ("GW001", "w", "2027-01-01"),
        ("GW005", "a form", "2026-11-28"),
        ("GW006", "soon", "2027-01-01"),
    ]


def test_an_acceptance_ends(run: Run) -> None:
    """The finding is back on the next day, and the acceptance itself is one."""
    accept = "{rule: GW005, route: web, why: w, until: 2026-11-28}"
    found = run(accept, today="2026-11-29")
    assert keys(found) == FOUND | {("GW025", "", "GW005 web")}
    (ended,) = (one for one in found.findings if one.rule == "GW025")
    assert (ended.line, ended.severity) == (14, AuditSeverity.LOW)
    assert "2026-11-28" in ended.message


@pytest.mark.parametrize(
    "accept",
    [
        "{rule: GW005, route: web, counterpart: x, why: w, until: 2027-01-01}",
        "{rule: GW005, route: wbe, why: w, until: 2027-01-01}",
        "{rule: GW005, why: w, until: 2027-01-01}",
        "{rule: GW004, route: web, why: w, until: 2027-01-01}",
    ],
)
def test_an_acceptance_of_nothing_is_reported(accept: str, run: Run) -> None:
    """Another route, rule or counterpart isn't accepted by the way."""
    found = run(accept)
    assert {one for one in keys(found) if one[0] != "GW025"} == FOUND
    (stale,) = (one for one in found.findings if one.rule == "GW025")
    assert "accepts nothing" in stale.message


@pytest.mark.parametrize(
    ("accept", "reason"),
    [
        ("{rule: GW005, until: 2027-01-01}", "audit.accept[0]: the key 'why'"),
        ("{rule: GW005, why: w}", "the key 'until' is missing"),
        ("{rule: gw005, why: w, until: 2027-01-01}", "Did you mean 'GW005'?"),
        ("{rule: X, why: w, until: 2027-01-01}", "The rules are GW001 to GW024"),
        ("{rule: GW025, why: w, until: 2027-01-01}", "no rule of this name"),
        ("{rule: GW005, why: w, until: soon}", "expected a day such as"),
        ("{rule: GW005, why: w, until: 2027-02-29}", "no such day"),
        ("{rule: GW005, why: w, until: 2027-13-01}", "no such day"),
        ("{rule: GW005, why: w, until: 2027-01-01, rout: web}", "'route'"),
    ],
)
def test_bad_acceptances_are_refused(accept: str, reason: str, run: Run) -> None:
    """At load, with place and remedy."""
    with pytest.raises(ConfigError) as caught:
        run(accept)
    (problem,) = caught.value.problems
    assert reason in str(problem)
    assert problem.line == 14


# --- fingerprints ---------------------------------------------------------------

PATHS = st.lists(
    st.sampled_from(["/x", "/x/y", "/z", "/api/v2", "/zz"]), unique=True, max_size=4
)


@given(paths=PATHS, at=st.integers(0, 3), named=st.booleans())
@hypothesis_settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_fingerprints_stay_when_routes_are_inserted(
    paths: list[str], at: int, named: bool, run: Run
) -> None:
    """An unrelated route changes no fingerprint, whether routes have names or not."""
    lines = ROUTES.splitlines(keepends=True)
    name = "name: new{}, " if named else ""
    lines[8 + at : 8 + at] = [
        f"  - {{{name.format(number)}path: {path}, service: app}}\n"
        for number, path in enumerate(paths)
    ]
    before, after = run().findings, run(text="".join(lines)).findings
    assert {one.fingerprint for one in before} <= {one.fingerprint for one in after}
    assert len({one.fingerprint for one in after}) == len(after)


def test_labels_of_routes_that_differ_in_little(tmp_path: Path) -> None:
    """Host, form and conditions tell routes apart that have the same path."""
    file = tmp_path / "routes.yaml"
    file.write_text(
        ROUTES
        + "  - {match: {path: {exact: /api}}, service: app}\n"
        + '  - {match: {path: /api, headers: {X-A: "1"}}, service: app}\n'
        + "  - {path: /api, hosts: [a.example.com], service: app}\n"
    )
    table = settings.load(file, {}).table
    assert sorted(map(label, table.routes)) == [
        "/api",
        "/api (exact)",
        "/api if x-a",
        "GET,PUT /api/open",
        "a.example.com/api",
        "web",
    ]


# --- baseline -------------------------------------------------------------------


def test_a_baseline_hides_what_it_has(tmp_path: Path, run: Run) -> None:
    """From JSON and from SARIF; what is new is reported."""
    found = run().findings
    as_json = json.dumps({"findings": [{"fingerprint": found[0].fingerprint}]})
    as_sarif = json.dumps(sarif(found[:1]))
    known = fingerprints(as_json.encode())
    assert known == fingerprints(as_sarif.encode()) == {found[0].fingerprint}
    loaded = settings.load(tmp_path / "routes.yaml", {})
    later = audit_of(loaded, TODAY, known)
    assert later.findings == found[1:]
    assert later.in_baseline == 1


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"{}",
        b'{"findings": [1]}',
        b'{"findings": [{"fingerprint": 1}]}',
        b'{"runs": [{}]}',
        b'{"runs": [{"results": [{"partialFingerprints": {}}]}]}',
        b"1",
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_another_file_is_no_baseline(raw: bytes) -> None:
    """It is refused, and doesn't count as an empty one."""
    with pytest.raises(BadBaseline):
        fingerprints(raw)


def test_when_an_audit_fails(run: Run) -> None:
    """From the severity that is asked for."""
    found = run()
    assert not found.fails(None)
    assert not found.fails(AuditSeverity.HIGH)
    assert found.fails(AuditSeverity.MEDIUM)
    assert found.fails(AuditSeverity.LOW)
    low = tuple(one for one in found.findings if one.severity is AuditSeverity.LOW)
    assert not replace(found, findings=low).fails(AuditSeverity.MEDIUM)
