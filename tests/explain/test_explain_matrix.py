"""Each mark of the matrix is what is explained for a session of its column."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, reject
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sessions_under_test import RULES

from gateway import config, routes
from gateway.config import InvalidConfig, PersonConfig
from gateway.explain.given import Given, GivenSession
from gateway.explain.matrix import NOBODY, SOMEBODY, Column, Mark, column, mark
from gateway.explain.people import payload
from gateway.identity import Allowed
from gateway.routes import Route
from gateway.session.refusals import Refusals
from gateway.verify import Engine

NAMES = ("a", "b")
LISTS = st.lists(st.sampled_from(NAMES), max_size=2, unique=True)
ANY_ALL = st.fixed_dictionaries({}, optional={"any": LISTS, "all": LISTS})
CONDITIONS = st.fixed_dictionaries(
    {},
    optional={
        "roles": ANY_ALL,
        "permissions": ANY_ALL,
        "email_verified": st.booleans(),
        "tenants": LISTS,
        "claims": st.just([{"path": "plan", "equals": "pro"}]),
    },
)
REQUIRES = st.tuples(CONDITIONS, st.lists(CONDITIONS, max_size=2)).map(
    lambda parts: {**parts[0], **({"any": parts[1]} if parts[1] else {})}
)
PEOPLE = st.builds(
    PersonConfig,
    roles=st.none() | LISTS.map(tuple),
    permissions=st.none() | LISTS.map(tuple),
    email_verified=st.none() | st.booleans(),
    tenant=st.sampled_from(["public", *NAMES]),
    claims=st.sampled_from([{}, {"plan": "pro"}]),
)


def route_with(require: Any, protected: Any) -> Route:
    recipes: dict[str, Any] = {
        "emailpassword": {},
        "userroles": {},
        "emailverification": {},
    }
    parsed = config.parse(
        {
            "version": 1,
            "supertokens": {"recipes": recipes},
            "services": {"up": {"targets": ["http://up"]}},
            "routes": [
                {"path": "/", "service": "up", "protected": protected}
                | ({"require": require} if require else {})
            ],
        }
    )
    (route,) = routes.compile(parsed).routes
    return route


def is_allowed(route: Route, given_session: Given) -> bool:
    """Return what `gateway explain` finds: the same engine judges the session."""
    session = GivenSession(RULES, given_session, 0.0)
    engine = Engine((session,), unauthorised=Refusals(RULES).unauthorised)
    nothing: Any = None  # a session that is given isn't read from a request
    return isinstance(engine.verify_now(nothing, route.session), Allowed)


def columns_of(person: PersonConfig) -> list[Column]:
    """Return the columns that are about this person."""
    found = [SOMEBODY, column("tenant", person.tenant)]
    if person.roles is not None and len(person.roles) == 1:
        found.append(column("role", person.roles[0]))
    if person.permissions is not None and len(person.permissions) == 1:
        found.append(column("permission", person.permissions[0]))
    return found


LETS_THROUGH = {Mark.MET, Mark.ANY, Mark.PUBLIC}


@hypothesis_settings(max_examples=200, deadline=None)
@given(
    require=REQUIRES,
    protected=st.sampled_from([True, True, True, "optional"]),
    people=st.lists(PEOPLE, min_size=1, max_size=10),
)
def test_each_mark_is_what_is_explained(
    require: Any, protected: Any, people: list[PersonConfig]
) -> None:
    """Whatever else a session says. Only ? says nothing."""
    try:
        route = route_with(require, protected)
    except InvalidConfig:
        reject()
    assert (mark(route, RULES, NOBODY) in LETS_THROUGH) == is_allowed(route, None)
    for person in people:
        allowed = is_allowed(route, payload(person, 0.0))
        for one in columns_of(person):
            found = mark(route, RULES, one)
            assert found is Mark.UNKNOWN or (found in LETS_THROUGH) == allowed


ROLE_A = {"roles": {"any": ["a"]}}


@pytest.mark.parametrize(
    ("require", "expected"),
    [
        ({}, Mark.ANY),
        (ROLE_A, Mark.MET),
        ({"roles": {"any": ["b"]}}, Mark.REFUSED),
        ({"roles": {"all": ["a", "b"]}}, Mark.REFUSED),
        ({**ROLE_A, "email_verified": True}, Mark.UNKNOWN),
        ({"roles": {"any": ["b"]}, "email_verified": True}, Mark.REFUSED),
        ({"any": [ROLE_A, {"email_verified": True}]}, Mark.MET),
        ({"any": [{"roles": {"any": ["b"]}}, {"tenants": ["t"]}]}, Mark.UNKNOWN),
        ({"permissions": {"any": ["p"]}}, Mark.UNKNOWN),
    ],
)
def test_marks_of_a_role(require: Any, expected: Mark) -> None:
    """? only where something else decides."""
    assert mark(route_with(require, True), RULES, column("role", "a")) is expected
