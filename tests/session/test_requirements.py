"""Claim requirements, compared with the SDK's own claim validators."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import Response
from hypothesis import given, settings
from hypothesis import strategies as st
from supertokens_python.framework.fastapi.fastapi_response import FastApiResponse
from supertokens_python.recipe.emailverification import EmailVerificationClaim
from supertokens_python.recipe.emailverification import recipe as emailverification
from supertokens_python.recipe.multifactorauth.multi_factor_auth_claim import (
    MultiFactorAuthClaim,
)
from supertokens_python.recipe.session.claim_base_classes import (
    primitive_array_claim,
    primitive_claim,
)
from supertokens_python.recipe.session.exceptions import ClaimValidationError
from supertokens_python.recipe.session.interfaces import SessionClaimValidator
from supertokens_python.recipe.session.utils import validate_claims_in_payload
from supertokens_python.recipe.userroles import PermissionClaim, UserRoleClaim
from supertokens_python.utils import send_non_200_response

from gateway.identity import ClaimRule, Requirements
from gateway.session import requirements
from gateway.session.requirements import checks, is_stale, refusal_body, refusals

NOW = 1_800_000_000.0


@pytest.fixture(autouse=True, scope="module")
def _sdk_clock() -> Iterator[None]:
    """Freeze the SDK's clock at NOW: claims must not age on a slow machine."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (primitive_array_claim, primitive_claim, emailverification):
            patch.setattr(module, "get_timestamp_ms", lambda: int(NOW * 1000))
        yield


def made(value: object, *, age_s: float = 0) -> dict[str, Any]:
    """Return a claim as the SDK writes it, *age_s* seconds old."""
    return {"v": value, "t": int((NOW - age_s) * 1000)}


def failed(required: Requirements, payload: dict[str, Any]) -> list[dict[str, Any]]:
    return refusals(checks(required, globally_verified=False), payload)


# --- the same as the SDK -----------------------------------------------------------

NAMES = st.lists(st.sampled_from(["admin", "editor", "user", ""]), max_size=3)
EXPECTED = st.lists(
    st.sampled_from(["admin", "editor", "user"]), min_size=1, max_size=2
).map(tuple)
AGES = st.sampled_from([0, 5, 9.999, 10, 10.001, 20, 20.001, 600, 601])
MAX_AGES = st.sampled_from([None, 5.0, 20.0, 600.0])


@st.composite
def claim(draw: st.DrawFn, values: st.SearchStrategy[Any]) -> dict[str, Any] | None:
    """Draw a claim of any age, without a value, or None."""
    match draw(st.integers(0, 3)):
        case 0:
            return None
        case 1:
            return {}
        case _:
            return made(draw(values), age_s=draw(AGES))


@st.composite
def sessions(draw: st.DrawFn) -> dict[str, Any]:
    payload = {
        "st-role": draw(claim(NAMES)),
        "st-perm": draw(claim(NAMES)),
        "st-ev": draw(claim(st.booleans())),
        "st-mfa": draw(
            st.sampled_from([None, {"c": {}, "v": False}, {"c": {}, "v": True}])
        ),
    }
    return {name: value for name, value in payload.items() if value is not None}


REQUIREMENTS = st.builds(
    Requirements,
    roles_any=st.just(()) | EXPECTED,
    roles_all=st.just(()) | EXPECTED,
    permissions_any=st.just(()) | EXPECTED,
    permissions_all=st.just(()) | EXPECTED,
    email_verified=st.booleans(),
    max_age_s=MAX_AGES,
)


def sdk_validators(required: Requirements) -> list[SessionClaimValidator]:
    """Return the SDK validators for the same requirements."""
    roles, permissions = UserRoleClaim.validators, PermissionClaim.validators
    age: Any = required.max_age_s
    found = []
    if required.roles_any:
        found.append(roles.includes_any([*required.roles_any], age))
    if required.roles_all:
        found.append(roles.includes_all([*required.roles_all], age))
    if required.permissions_any:
        found.append(permissions.includes_any([*required.permissions_any], age))
    if required.permissions_all:
        found.append(permissions.includes_all([*required.permissions_all], age))
    if required.email_verified:
        found.append(
            EmailVerificationClaim.validators.is_verified(  # type: ignore[attr-defined] # annotated as another class
                max_age_in_seconds=age
            )
        )
    return found


@given(REQUIREMENTS, sessions())
@settings(max_examples=300, deadline=None)
def test_claims_are_fetched_again_when_the_sdk_would(
    required: Requirements, payload: dict[str, Any]
) -> None:
    """A claim is fetched when the SDK would: missing, too old or unverified."""
    ours = is_stale(checks(required, globally_verified=False), payload, NOW)
    assert ours is any(
        validator.should_refetch(payload, {}) for validator in sdk_validators(required)
    )


@pytest.mark.parametrize(
    ("is_verified", "max_age_s", "age_s", "is_fetched"),
    [
        (False, None, 10, False),
        (False, None, 10.001, True),
        (False, 5.0, 5, False),
        (False, 5.0, 5.001, True),
        (False, 600.0, 10, False),
        (False, 600.0, 10.001, True),
        (True, None, 10.001, False),
        (True, 600.0, 600, False),
        (True, 600.0, 600.001, True),
    ],
    ids=[
        "no, 10 s",
        "no, over 10 s",
        "no, at a shorter max_age",
        "no, over a shorter max_age",
        "no, 10 s within a longer max_age",
        "no, over 10 s within a longer max_age",
        "yes, without max_age",
        "yes, at max_age",
        "yes, over max_age",
    ],
)
def test_an_unverified_address_is_asked_about_at_the_earlier_of_two_ages(
    is_verified: bool, max_age_s: float | None, age_s: float, is_fetched: bool
) -> None:
    """An unverified address is fetched after 10 s, or `max_age` if that is less.

    A verified one is fetched after `max_age`.
    """
    required = Requirements(email_verified=True, max_age_s=max_age_s)
    payload = {"st-ev": made(is_verified, age_s=age_s)}
    assert is_stale(checks(required, globally_verified=False), payload, NOW) is (
        is_fetched
    )
    (sdk,) = sdk_validators(required)
    assert sdk.should_refetch(payload, {}) is is_fetched


@given(REQUIREMENTS, sessions())
@settings(max_examples=300, deadline=None)
def test_refusals_are_the_sdks(required: Requirements, payload: dict[str, Any]) -> None:
    """Every failed requirement is reported, in the SDK's order and words."""
    validators = sdk_validators(required)
    if any(validator.should_refetch(payload, {}) for validator in validators):
        payload = {name: made(value["v"]) for name, value in payload.items() if value}
    errors = asyncio.run(validate_claims_in_payload(validators, payload, {}))
    ours = failed(required, payload)
    assert ours == [error.to_json() for error in errors]
    assert [[*refusal["reason"]] for refusal in ours] == [
        [*error.reason] for error in errors
    ]


@pytest.mark.parametrize(
    "claim_value",
    [{"c": {}, "v": True}, {"c": {}, "v": False}],
    ids=["completed", "not completed"],
)
async def test_mfa_is_the_sdks(claim_value: dict[str, Any]) -> None:
    """Multi-factor authentication is judged by the claim's own summary."""
    payload = {"st-mfa": claim_value}
    validator = (
        MultiFactorAuthClaim.validators.has_completed_mfa_requirements_for_auth()
    )
    errors = await validate_claims_in_payload([validator], payload, {})
    assert failed(Requirements(mfa=True), payload) == [e.to_json() for e in errors]


@pytest.mark.parametrize(
    "payload",
    [{}, {"st-mfa": None}, {"st-mfa": {}}, {"st-mfa": {"c": {}, "v": False}}],
    ids=["absent", "null", "empty", "present"],
)
def test_mfa_is_fetched_when_the_sdk_would(payload: dict[str, Any]) -> None:
    validator = (
        MultiFactorAuthClaim.validators.has_completed_mfa_requirements_for_auth()
    )
    compiled = checks(Requirements(mfa=True), globally_verified=False)
    assert is_stale(compiled, payload, NOW) is validator.should_refetch(payload, {})


def test_the_body_is_the_sdks_to_the_byte() -> None:
    """The body equals that of the SDK's FastAPI binding: no spaces, plain UTF-8."""
    reason = {"message": "wrong value", "expectedValue": "grün", "actualValue": 1.5}
    reply = FastApiResponse(Response())
    send_non_200_response(
        {
            "message": "invalid claim",
            "claimValidationErrors": [
                ClaimValidationError("a", reason).to_json(),  # type: ignore[no-untyped-call] # the SDK's
                ClaimValidationError("b", {"message": "x"}).to_json(),  # type: ignore[no-untyped-call] # the SDK's
            ],
        },
        403,
        reply,
    )
    assert reply.response.body == refusal_body(
        [{"id": "a", "reason": reason}, {"id": "b", "reason": {"message": "x"}}]
    )


def test_what_json_cannot_say_is_an_error() -> None:
    """NaN in a claim is an error: JSON can't express it."""
    with pytest.raises(ValueError, match="JSON"):
        refusal_body([{"id": "a", "reason": {"actualValue": float("nan")}}])


# --- malformed claims ---------------------------------------------------------------


@pytest.mark.parametrize(
    "payload",
    [
        {"st-role": None},
        {"st-role": "admin"},
        {"st-role": ["admin"]},
        {"st-role": made("admin")},
        {"st-role": made({"admin": 1})},
        {"st-role": made([["admin"], {"admin": 1}, None])},
    ],
    ids=["null", "text", "bare list", "text value", "object value", "odd elements"],
)
def test_odd_role_claims_meet_nothing(payload: dict[str, Any]) -> None:
    """A role claim of another shape than the SDK's grants no role."""
    assert len(failed(Requirements(roles_any=("admin",)), payload)) == 1


@pytest.mark.parametrize(
    "stamp", [None, "0", float("nan")], ids=["null", "text", "NaN"]
)
def test_a_claim_without_an_age_is_too_old(stamp: object) -> None:
    required = Requirements(roles_any=("admin",), max_age_s=60.0)
    payload = {"st-role": {"v": ["admin"], "t": stamp}}
    assert is_stale(checks(required, globally_verified=False), payload, NOW)


def test_one_is_not_true() -> None:
    """An address is verified by JSON's true only, not by 1."""
    assert failed(Requirements(email_verified=True), {"st-ev": made(1)})


# --- requirements without an SDK validator -------------------------------------------


def test_tenants() -> None:
    """The session's tenant must be listed; a token without one has `public`."""
    required = Requirements(tenants=("t1", "public"))
    assert not failed(required, {"tId": "t1"})
    assert not failed(required, {})
    assert failed(required, {"tId": "t2"}) == [
        {
            "id": "tId",
            "reason": {
                "message": "wrong value",
                "expectedToIncludeAtLeastOneOf": ["t1", "public"],
                "actualValue": "t2",
            },
        }
    ]
    assert not is_stale(checks(required, globally_verified=False), {}, NOW)


PLAN = ("org", "plan")


@pytest.mark.parametrize(
    ("rule", "payload", "reason"),
    [
        (ClaimRule(path=PLAN, any_of=("pro", "team")), {"org": {"plan": "pro"}}, None),
        (ClaimRule(path=PLAN, any_of=("pro",)), {"org": {"plan": ["x", "pro"]}}, None),
        (
            ClaimRule(path=PLAN, any_of=("pro",)),
            {"org": {"plan": "free"}},
            {
                "message": "wrong value",
                "expectedToIncludeAtLeastOneOf": ["pro"],
                "actualValue": "free",
            },
        ),
        (
            ClaimRule(path=PLAN, any_of=(None,)),
            {"org": {}},
            {
                "message": "value does not exist",
                "expectedToIncludeAtLeastOneOf": [None],
                "actualValue": None,
            },
        ),
        (ClaimRule(path=PLAN, equals=1, has_equals=True), {"org": {"plan": 1}}, None),
        (
            ClaimRule(path=PLAN, equals=1, has_equals=True),
            {"org": {"plan": True}},
            {"message": "wrong value", "expectedValue": 1, "actualValue": True},
        ),
        (
            ClaimRule(path=PLAN, equals="x", has_equals=True),
            {"org": "x"},
            {
                "message": "value does not exist",
                "expectedValue": "x",
                "actualValue": None,
            },
        ),
        (
            ClaimRule(path=PLAN, equals=None, has_equals=True),
            {},
            {
                "message": "value does not exist",
                "expectedValue": None,
                "actualValue": None,
            },
        ),
        (
            ClaimRule(path=PLAN, contains="a", has_contains=True),
            {"org": {"plan": ["b", "a"]}},
            None,
        ),
        (
            ClaimRule(path=PLAN, contains="a", has_contains=True),
            {"org": {"plan": "abc"}},
            {
                "message": "wrong value",
                "expectedToInclude": "a",
                "actualValue": "abc",
            },
        ),
        (
            ClaimRule(path=PLAN, contains="a", has_contains=True),
            {"org": {"plan": ["b"]}},
            {
                "message": "wrong value",
                "expectedToInclude": "a",
                "actualValue": ["b"],
            },
        ),
    ],
    ids=[
        "in",
        "in, one of a list",
        "not in",
        "null is in nothing",
        "equals",
        "true isn't 1",
        "a path through a text",
        "nothing equals null",
        "contains",
        "a text contains nothing",
        "contains not",
    ],
)
def test_claims(
    rule: ClaimRule, payload: dict[str, Any], reason: dict[str, Any] | None
) -> None:
    """A rule can check any claim; the refusal's id is the claim's path."""
    required = Requirements(claims=(rule,))
    expected = [] if reason is None else [{"id": "org.plan", "reason": reason}]
    assert failed(required, payload) == expected
    assert not is_stale(checks(required, globally_verified=False), payload, NOW)


@pytest.mark.parametrize(
    ("value", "is_met"),
    [
        ("ann@example.com", True),
        ("ann@EXAMPLE.com", True),
        ("ann@other.example", True),
        ("ann@sub.example.com", False),
        ("ann@example.com.evil.test", False),
        ("ann@evil@example.com", False),
        ("@example.com", False),
        ("example.com", False),
        ("", False),
        (None, False),
        (["ann@example.com"], False),
        ({"v": "ann@example.com"}, False),
    ],
)
def test_mail_domains(value: object, is_met: bool) -> None:
    """The claim is text with one @ and exactly such a domain behind it."""
    domains = ("example.com", "other.example")
    rule = ClaimRule(path=("email",), mail_domains=domains)
    refused = failed(Requirements(claims=(rule,)), {"email": value})
    assert (refused == []) is is_met


ADMIN = Requirements(roles_all=("admin",))
STAFF = Requirements(
    claims=(ClaimRule(path=("email",), mail_domains=("example.com",)),),
    tenants=("public",),
)


@pytest.mark.parametrize(
    ("payload", "refused"),
    [
        ({"st-role": made(["admin"])}, []),
        ({"st-role": made([]), "email": "ann@example.com"}, []),
        ({"st-role": made([]), "email": "ann@x.test"}, ["st-role", "email"]),
        (
            {"st-role": made([]), "email": "ann@example.com", "tId": "t1"},
            ["st-role", "tId"],
        ),
        ({}, ["st-role", "email"]),
    ],
)
def test_all_of_one_alternative(payload: dict[str, Any], refused: list[str]) -> None:
    """One alternative must be met whole; else the failed checks of all are listed."""
    required = Requirements(alternatives=((ADMIN, STAFF),))
    assert [one["id"] for one in failed(required, payload)] == refused


def test_claims_of_alternatives_are_fetched_again() -> None:
    """A stale claim is fetched even if it counts in one alternative only."""
    old = Requirements(roles_all=("admin",), max_age_s=60)
    compiled = checks(
        Requirements(alternatives=((STAFF, old),)), globally_verified=False
    )
    fresh = {"st-role": made(["admin"], age_s=59)}
    assert not is_stale(compiled, fresh, NOW)
    assert is_stale(compiled, {"st-role": made(["admin"], age_s=61)}, NOW)
    assert is_stale(compiled, {}, NOW)


# --- combinations ------------------------------------------------------------------


def test_all_that_fails_is_listed() -> None:
    """One answer lists every requirement that failed."""
    required = Requirements(
        roles_any=("admin",),
        roles_all=("a", "b"),
        permissions_any=("read",),
        permissions_all=("write",),
        email_verified=True,
        mfa=True,
        tenants=("t1",),
        claims=(ClaimRule(path=("plan",), equals="pro", has_equals=True),),
    )
    compiled = checks(required, globally_verified=False)
    assert [refusal["id"] for refusal in refusals(compiled, {})] == [
        "st-role",
        "st-role",
        "st-perm",
        "st-perm",
        "st-ev",
        "st-mfa",
        "tId",
        "plan",
    ]
    assert json.loads(refusal_body(refusals(compiled, {})))["message"] == (
        "invalid claim"
    )


@pytest.mark.parametrize(
    ("required", "ids"),
    [
        (Requirements(), ["st-ev"]),
        (Requirements(roles_any=("a",), email_verified=True), ["st-ev", "st-role"]),
        (Requirements(email_verified=True, max_age_s=60.0), ["st-ev", "st-ev"]),
    ],
    ids=["nothing else", "asked for twice", "with an age"],
)
def test_what_the_recipes_demand_comes_first(
    required: Requirements, ids: list[str]
) -> None:
    """Email verification in mode REQUIRED is checked first and once on every route."""
    assert [check.id for check in checks(required, globally_verified=True)] == ids


def test_nothing_is_required_of_nothing() -> None:
    assert checks(Requirements(), globally_verified=False) == ()
    assert not requirements.is_stale((), {}, NOW)
