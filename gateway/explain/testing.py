"""edge. Runs the tests of a route table (`tests`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gateway.config import Config, ExpectedConfig, Loc, RouteTestsConfig
from gateway.explain import coverage
from gateway.explain.answering import Explainer
from gateway.explain.given import Expired, Given
from gateway.explain.people import payload
from gateway.explain.questions import Explained, NotAsked, asked
from gateway.explain.words import outcome_of
from gateway.identity import Protection
from gateway.routes import RouteTable
from gateway.routes.always import decided


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult:
    """The result of one test."""

    __test__ = False  # not one of pytest's

    title: str
    """Such as `GET /orders as ann`."""
    loc: Loc
    """Its place in the file."""
    failures: tuple[str, ...]
    """Why it failed; empty: it passed."""
    route: str | None = None
    """The route that decided."""
    covered: frozenset[str] = frozenset()
    """What it looks at, of `coverage.goals`."""


def _all(_: str) -> bool:
    return True


async def results(
    explainer: Explainer,
    tests: RouteTestsConfig,
    now: float,
    is_chosen: Callable[[str], bool] = _all,
) -> list[TestResult]:
    """Return the result of each case, for each of its people; *now* in seconds.

    Only those are run whose title *is_chosen*.
    """
    found: list[TestResult] = []
    for number, case in enumerate(tests.cases):
        for name, expected in case.expect.items():
            given = given_as(tests, name, now)
            loc: Loc = ("tests", "cases", number, "expect", name)
            title = f"{case.request} as {name}"
            if not is_chosen(title):
                continue
            method, _, url = case.request.partition(" ")
            try:
                question = asked(
                    method, url, [*case.headers.items()], given, case.client
                )
            except NotAsked as error:
                found.append(TestResult(title=title, loc=loc, failures=(str(error),)))
                continue
            answer = await explainer.answer(question)
            found.append(
                TestResult(
                    title=title,
                    loc=loc,
                    failures=tuple(failures(expected, answer)),
                    route=answer.record.route,
                    covered=frozenset(_covered(method, name, expected, answer)),
                )
            )
    return found


def _is_let_through(answer: Explained) -> bool:
    return answer.record.decision in ("allowed", "anonymous", "auth")


def _covered(
    method: str, who: str, expected: ExpectedConfig, answer: Explained
) -> Iterator[str]:
    """Yield what a test looks at, of `coverage.goals`."""
    yield method
    if who == "none":
        yield coverage.NO_SESSION
    if who == "expired":
        yield coverage.EXPIRED
    if _is_let_through(answer):
        yield coverage.REACHED
    if expected.upstream is not None:
        yield coverage.REWRITE
    for one in answer.session.judged:
        yield coverage.met(one.id, is_met=one.reason is None)


def given_as(tests: RouteTestsConfig, name: str, now: float) -> Given:
    """Return the session of somebody whom a case names; *now* in seconds."""
    if name == "none":
        return None
    if name == "expired":
        return Expired()
    return payload(tests.people[name], now)


def failures(expected: ExpectedConfig, answer: Explained) -> Iterator[str]:
    """Yield in words what differs from *expected*."""
    got = outcome_of(answer)
    if answer.record.reason:
        got = f"{got} ({answer.record.reason})"
    if expected.route is not None and (
        answer.record.route != expected.route or not _is_let_through(answer)
    ):
        yield f"expected to be let through by {expected.route}, got {got}"
    if expected.status is not None and answer.status != expected.status:
        yield f"expected {expected.status}, got {got}"
    if expected.claim is not None:
        unmet = [one.id for one in answer.session.judged if one.reason is not None]
        if expected.claim not in unmet:
            yield (
                f"expected that {expected.claim} isn't met;"
                f" not met: {', '.join(unmet) or 'none'}"
            )
    if not (expected.upstream or expected.headers or expected.absent):
        return
    if answer.sent is None:
        yield f"expected that a service gets it, got {got}"
        return
    sent = f"{answer.sent.method} {answer.sent.path}"
    if expected.upstream is not None and sent != expected.upstream:
        yield f"expected {expected.upstream} to be sent, got {sent}"
    fields = _fields(answer.sent.kept + answer.sent.added)
    for name, value in expected.headers.items():
        values = fields.get(name.lower(), [])
        if values != [value]:
            yield f"expected {name}: {value}, got {', '.join(values) or 'none'}"
    for name in expected.absent:
        if name.lower() in fields:
            yield f"expected no {name}, got {', '.join(fields[name.lower()])}"


def _fields(lines: tuple[bytes, ...]) -> Mapping[str, list[str]]:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.decode("latin-1").partition(":")
        fields.setdefault(name.lower(), []).append(value.strip())
    return fields


def public_routes(config: Config, table: RouteTable) -> Iterator[TestResult]:
    """Yield the result for `tests.public`: who needs no session is listed there."""
    tests = config.tests
    if tests is None or tests.public is None:
        return
    loc: Loc = ("tests", "public")
    open_routes = [
        route.name
        for route in table.routes
        if route.session.protection is not Protection.REQUIRED
    ]
    missing = dict.fromkeys(name for name in open_routes if name not in tests.public)
    gone = [name for name in tests.public if name not in open_routes]
    reasons = [f"{name} needs no session, and isn't listed" for name in missing]
    reasons += [f"{name} is listed, and is no route without a session" for name in gone]
    yield TestResult(title="public routes", loc=loc, failures=tuple(reasons))


def properties(config: Config, table: RouteTable) -> Iterator[TestResult]:
    """Yield the result for each item of `tests.always`."""
    for one in decided(config, table):
        loc: Loc = ("tests", "always", one.number)
        yield TestResult(title=one.title, loc=loc, failures=one.reasons)
