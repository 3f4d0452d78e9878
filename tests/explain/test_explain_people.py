"""A person in a few words: what the session of one says."""

from __future__ import annotations

import pytest

from gateway.explain.people import BadPerson, payload, person
from gateway.session.tokens import identity_of

NOW = 1_000_000.0


def test_only_what_is_said_becomes_a_claim() -> None:
    """A claim that isn't named is missing from the session, as in a real one."""
    claims = payload(person("{}"), NOW)
    assert claims.keys() == {"sub", "rsub", "sessionHandle", "tId", "iat", "exp"}
    assert identity_of(claims, 5).user_id == "someone"


def test_claims_have_their_age() -> None:
    """In milliseconds, as the SDK writes them; other claims are taken as they are."""
    text = """{"id": "ann", "roles": ["admin"], "permissions": [], "mfa": true,
               "email_verified": false, "tenant": "shop", "age": "30s",
               "claims": {"plan": "gold"}}"""
    claims = payload(person(text), NOW)
    at = int((NOW - 30) * 1000)
    assert claims["st-role"] == {"v": ["admin"], "t": at}
    assert claims["st-perm"] == {"v": [], "t": at}
    assert claims["st-ev"] == {"v": False, "t": at}
    assert claims["st-mfa"] == {"v": True, "t": at}
    assert claims["plan"] == "gold"
    found = identity_of(claims, 5)
    assert (found.user_id, found.tenant_id) == ("ann", "shop")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("admin", "expected JSON"),
        ('{"role": ["admin"]}', "role: "),
        ('{"roles": "admin"}', "roles: "),
        ('{"roles": [1]}', "roles"),
        ('{"age": "old"}', "age: "),
        ("[]", "a person: "),
        ("[" * 100_000, "expected JSON"),
    ],
)
def test_other_words_are_refused(text: str, reason: str) -> None:
    """With the place, and what a person has."""
    if text == '{"roles": [1]}':
        assert person(text).roles == ("1",)  # text that looks like a number is valid
        return
    with pytest.raises(BadPerson) as error:
        person(text)
    assert str(error.value).startswith(reason)
