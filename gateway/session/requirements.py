"""PURE. What a route requires of a session's claims, and SuperTokens' refusal of it.

A requirement is compiled once into checks. A check answers like the SDK's claim
validator of that kind: first whether the claim must be fetched again before it is
judged, then what is wrong with it. The frontends read these reasons.

Source: supertokens-python 0.31.4 `recipe/session/claim_base_classes`,
`recipe/userroles`, `recipe/emailverification`, `recipe/multifactorauth`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gateway.identity import ClaimRule, Requirements

ROLES = "st-role"
PERMISSIONS = "st-perm"
EMAIL_VERIFIED = "st-ev"
MFA = "st-mfa"
TENANT = "tId"

REFETCH_FALSE_S = 10.0
"""An e-mail address that isn't verified is asked about again after this long, so that
a user who has just followed the link gets in. The SDK's default."""

Reason = dict[str, Any]
Payload = Mapping[str, Any]


class Check(Protocol):
    """One requirement, for any number of sessions."""

    @property
    def id(self) -> str:
        """The claim's name in a refusal."""
        ...

    def is_stale(self, payload: Payload, now: float) -> bool:
        """Tell whether the claim must be fetched again first; *now* in seconds."""
        ...

    def reason(self, payload: Payload) -> Reason | None:
        """Return what is wrong with the claim, or None when it is met."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Includes:
    """A list claim has every one, or at least one, of *expected*.

    Source: SDK `PrimitiveArrayClaim.validators.includes_all`, `.includes_any`.
    """

    id: str
    expected: tuple[str, ...]
    is_any: bool
    max_age_s: float | None = None

    def is_stale(self, payload: Payload, now: float) -> bool:
        return _is_stale(payload, self.id, self.max_age_s, now)

    def reason(self, payload: Payload) -> Reason | None:
        value = _value(payload, self.id)
        word = "expectedToIncludeAtLeastOneOf" if self.is_any else "expectedToInclude"
        if isinstance(value, list) and _has(value, self.expected, self.is_any):
            return None
        return _reason(word, list(self.expected), value)


@dataclass(frozen=True, slots=True, kw_only=True)
class EmailVerified:
    """The session's e-mail address is verified.

    Source: SDK `EmailVerificationClaim.validators.is_verified`.
    """

    max_age_s: float | None = None
    id: str = EMAIL_VERIFIED

    def is_stale(self, payload: Payload, now: float) -> bool:
        max_age_s = self.max_age_s
        if _value(payload, self.id) is False:
            max_age_s = min(max_age_s or REFETCH_FALSE_S, REFETCH_FALSE_S)
        return _is_stale(payload, self.id, max_age_s, now)

    def reason(self, payload: Payload) -> Reason | None:
        value = _value(payload, self.id)
        return None if _is_same(value, True) else _reason("expectedValue", True, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class MfaCompleted:
    """The session has completed the factors that its user and tenant require.

    Source: SDK `MultiFactorAuthClaim.validators.has_completed_mfa_requirements_…`.
    """

    id: str = MFA

    def is_stale(self, payload: Payload, now: float) -> bool:
        claim = payload.get(self.id)
        return not isinstance(claim, dict) or not claim

    def reason(self, payload: Payload) -> Reason | None:
        if _value(payload, self.id) is True:
            return None
        return {"message": "MFA requirement for auth is not satisfied"}


@dataclass(frozen=True, slots=True, kw_only=True)
class TenantIn:
    """The session belongs to one of *tenants*. The SDK has no validator for it."""

    tenants: tuple[str, ...]
    id: str = TENANT

    def is_stale(self, payload: Payload, now: float) -> bool:
        return False

    def reason(self, payload: Payload) -> Reason | None:
        value = payload.get(TENANT, "public")  # tokens before version 4 have none
        if value in self.tenants:
            return None
        return _reason("expectedToIncludeAtLeastOneOf", list(self.tenants), value)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimIs:
    """Any claim of the payload meets the conditions of *rule*.

    Values are equal as JSON has it: `true` isn't 1. A claim that isn't there, or is
    null, meets no condition.
    """

    id: str
    rule: ClaimRule

    def is_stale(self, payload: Payload, now: float) -> bool:
        return False

    def reason(self, payload: Payload) -> Reason | None:
        rule = self.rule
        value: Any = payload
        for name in rule.path:
            value = value.get(name) if isinstance(value, Mapping) else None
        elements = value if isinstance(value, list) else [value]
        if rule.any_of and not _is_any_of(elements, rule.any_of):
            return _reason("expectedToIncludeAtLeastOneOf", list(rule.any_of), value)
        if rule.has_equals and not _is_any_of([value], (rule.equals,)):
            return _reason("expectedValue", rule.equals, value)
        if rule.has_contains and not (
            isinstance(value, list) and _is_any_of(value, (rule.contains,))
        ):
            return _reason("expectedToInclude", rule.contains, value)
        if rule.mail_domains and _mail_domain(value) not in rule.mail_domains:
            return _reason(
                "expectedToIncludeAtLeastOneOf", list(rule.mail_domains), value
            )
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Alternative:
    """One check of *groups*: all checks of at least one group must be met.

    Each check refuses with its own reason, but only if no group is met.
    """

    check: Check
    groups: tuple[tuple[Check, ...], ...]

    @property
    def id(self) -> str:
        return self.check.id

    def is_stale(self, payload: Payload, now: float) -> bool:
        return self.check.is_stale(payload, now)

    def reason(self, payload: Payload) -> Reason | None:
        for group in self.groups:
            if all(check.reason(payload) is None for check in group):
                return None
        return self.check.reason(payload)


def checks(required: Requirements, *, globally_verified: bool) -> tuple[Check, ...]:
    """Return the checks of a route in the order in which refusals list them.

    *globally_verified* adds what the SDK demands of every session when its e-mail
    verification recipe is `REQUIRED`; it comes first, as in the SDK.
    """
    max_age_s = required.max_age_s
    result: list[Check] = []
    if globally_verified:
        result.append(EmailVerified())
    for claim, some, every in (
        (ROLES, required.roles_any, required.roles_all),
        (PERMISSIONS, required.permissions_any, required.permissions_all),
    ):
        for expected, is_any in ((some, True), (every, False)):
            if expected:
                result.append(
                    Includes(
                        id=claim,
                        expected=expected,
                        is_any=is_any,
                        max_age_s=max_age_s,
                    )
                )
    if required.email_verified and not (globally_verified and max_age_s is None):
        result.append(EmailVerified(max_age_s=max_age_s))
    if required.mfa:
        result.append(MfaCompleted())
    if required.tenants:
        result.append(TenantIn(tenants=required.tenants))
    result.extend(
        ClaimIs(id=".".join(rule.path), rule=rule) for rule in required.claims
    )
    for items in required.alternatives:
        groups = tuple(checks(item, globally_verified=False) for item in items)
        result.extend(
            Alternative(check=check, groups=groups)
            for group in groups
            for check in group
        )
    return tuple(result)


def is_stale(checks: Sequence[Check], payload: Payload, now: float) -> bool:
    """Tell whether any claim must be fetched again; *now* in seconds."""
    for check in checks:  # noqa: SIM110 - on every request; a generator costs more
        if check.is_stale(payload, now):
            return True
    return False


def refusals(checks: Sequence[Check], payload: Payload) -> list[dict[str, Any]]:
    """Return every requirement that *payload* doesn't meet, as the SDK writes it."""
    return [
        {"id": check.id, "reason": reason}
        for check in checks
        if (reason := check.reason(payload)) is not None
    ]


def refusal_body(failed: Sequence[Mapping[str, Any]]) -> bytes:
    """Return the body of a 403, byte for byte as the SDK's FastAPI binding does.

    Raises:
        ValueError: a claim holds what JSON or UTF-8 can't.
    """
    return json.dumps(
        {"message": "invalid claim", "claimValidationErrors": failed},
        ensure_ascii=False,
        allow_nan=False,
        separators=(",", ":"),
    ).encode()


def _value(payload: Payload, key: str) -> Any:
    """Return what a claim made by the SDK, `{"v": value, "t": ms}`, holds, or None."""
    claim = payload.get(key)
    return claim.get("v") if isinstance(claim, dict) else None


def _is_stale(payload: Payload, key: str, max_age_s: float | None, now: float) -> bool:
    if _value(payload, key) is None:
        return True
    if max_age_s is None:
        return False
    fetched_ms = payload[key].get("t")
    if not isinstance(fetched_ms, int | float):
        return True
    return not fetched_ms >= (now - max_age_s) * 1000  # NaN is no age


def _reason(word: str, expected: object, actual: object) -> Reason:
    message = "value does not exist" if actual is None else "wrong value"
    return {"message": message, word: expected, "actualValue": actual}


def _mail_domain(value: object) -> str | None:
    """Return the domain of a mail address in lower case, None if it isn't one."""
    if not isinstance(value, str):
        return None
    local, at, domain = value.partition("@")
    return domain.lower() if local and at else None


def _has(values: list[Any], expected: tuple[str, ...], is_any: bool) -> bool:
    """Tell whether *values* has any, or else all, of *expected*."""
    for one in expected:
        if (one in values) is is_any:
            return is_any
    return not is_any


def _is_any_of(values: Sequence[Any], allowed: Sequence[Any]) -> bool:
    """Tell whether one of *values* is there, and is one of *allowed*."""
    return any(
        value is not None and _is_same(value, one)
        for value in values
        for one in allowed
    )


def _is_same(one: object, other: object) -> bool:
    """Tell whether two JSON values are equal, where true isn't 1."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)
