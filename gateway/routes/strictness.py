"""PURE. Whether one route requires something that another one doesn't."""

from __future__ import annotations

from gateway.identity import (
    SAFE_METHODS,
    CheckDatabase,
    Protection,
    Requirements,
    SessionPolicy,
)

_ORDER = (Protection.PUBLIC, Protection.OPTIONAL, Protection.REQUIRED)
ONE_OF_EACH = ("GET", "POST")
"""A safe method and a writing one: policies distinguish only these two kinds."""

_NEVER_S = float("inf")


def is_stricter(one: SessionPolicy, other: SessionPolicy, method: str) -> bool:
    """Return whether *one* requires something of *method* that *other* doesn't.

    Both may require something that the other doesn't: a role and a tenant. In doubt the
    result is true: conditions on claims are compared literally.
    """
    if one.protection is Protection.PUBLIC:
        return False
    return (
        _ORDER.index(one.protection) > _ORDER.index(other.protection)
        or not is_implied(one.requirements, other.requirements)
        or _core_age_s(one, method) < _core_age_s(other, method)
    )


def is_implied(one: Requirements, other: Requirements) -> bool:
    """Return whether every session that meets *other* meets *one*."""
    if not one:
        return True
    return (
        _any_is_implied(one.roles_any, other.roles_any, other.roles_all)
        and _all_is_implied(one.roles_all, other.roles_any, other.roles_all)
        and _any_is_implied(
            one.permissions_any, other.permissions_any, other.permissions_all
        )
        and _all_is_implied(
            one.permissions_all, other.permissions_any, other.permissions_all
        )
        and one.email_verified <= other.email_verified
        and one.mfa <= other.mfa
        and _any_is_implied(one.tenants, other.tenants, ())
        and all(rule in other.claims for rule in one.claims)
        and set(one.validators) <= set(other.validators)
        and _age_s(one) >= _age_s(other)
        and all(_is_met(group, other) for group in one.alternatives)
    )


def _is_met(group: tuple[Requirements, ...], other: Requirements) -> bool:
    """Return whether every session that meets *other* meets an item of *group*."""
    if any(is_implied(item, other) for item in group):
        return True
    # Whichever alternative of the other is met, an item of the group is.
    return any(
        all(any(is_implied(item, alternative) for item in group) for alternative in one)
        for one in other.alternatives
    )


def _any_is_implied(
    one: tuple[str, ...], other_any: tuple[str, ...], other_all: tuple[str, ...]
) -> bool:
    """Return whether the other's two conditions imply at least one name of *one*."""
    return (
        not one
        or (bool(other_any) and set(other_any) <= set(one))
        or not set(one).isdisjoint(other_all)
    )


def _all_is_implied(
    one: tuple[str, ...], other_any: tuple[str, ...], other_all: tuple[str, ...]
) -> bool:
    return all(item in other_all or other_any == (item,) for item in one)


def _age_s(needs: Requirements) -> float:
    """Return the highest age of a claim, in seconds."""
    return _NEVER_S if needs.max_age_s is None else needs.max_age_s


def _core_age_s(policy: SessionPolicy, method: str) -> float:
    """Return the highest age of the core's answer on the session, in seconds."""
    match policy.check_database:
        case CheckDatabase.ALWAYS:
            return 0
        case CheckDatabase.CACHED:
            return policy.max_age_s
        case CheckDatabase.ON_WRITE if method not in SAFE_METHODS:
            return 0
        case _:
            return _NEVER_S
