"""Assertions: what they say, and how long they are used."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jwt
import pytest

from gateway import config, routes
from gateway.assertions import Assertions, generate
from gateway.headers import IdentityTooLarge, policy
from gateway.identity import SessionIdentity

NAME = b"x-identity-assertion"
ISSUER = "https://api.example.com"
POLICY = policy({})
TABLE = routes.compile(config.parse({"version": 1}))


def session(
    claims: Mapping[str, Any] = MappingProxyType({}), *, expires_at: float = 4000.0
) -> SessionIdentity:
    return SessionIdentity(
        user_id="ann",
        recipe_user_id="r",
        session_handle="handle",
        tenant_id="public",
        claims=claims,
        expires_at=expires_at,
    )


class Signer:
    """Assertions with a clock that the test moves."""

    def __init__(self, folder: Path, lifetime_s: float = 60.0) -> None:
        self.now = 1000.25
        self.key = generate(folder / "signer.pem")
        self.assertions = Assertions(
            [self.key],
            issuer=ISSUER,
            lifetime_s=lifetime_s,
            table=TABLE,
            clock=lambda: self.now,
        )

    def field(self, who: SessionIdentity, audience: str = "orders") -> bytes:
        return self.assertions.field(who, POLICY, audience)


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


def token_of(field: bytes) -> str:
    """Return the JWT in a field, as it is sent."""
    name, _, value = field.partition(b": ")
    assert name.lower() == NAME
    assert value.endswith(b"\r\n")
    return value.removesuffix(b"\r\n").decode("ascii")


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any], bytes]:
    """Return header, claims and signature, unverified."""
    head, body, signature = (
        urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split(".")
    )
    return json.loads(head), json.loads(body), signature


def test_what_an_assertion_says(signer: Signer) -> None:
    """Who, for whom, by whom and how long: and nothing of the request."""
    who = session(
        {
            "st-role": {"v": ["user", "admin"], "t": 1},
            "st-perm": {"v": ["write"], "t": 1},
            "secret": "not for services",
        }
    )
    token = token_of(signer.field(who))
    header, claims, signature = parts(token)
    assert header == {
        "alg": "ES256",
        "typ": "gateway-identity+jwt",
        "kid": signer.key.kid,
    }
    assert claims == {
        "iss": ISSUER,
        "aud": "orders",
        "sub": "ann",
        "iat": 1000,
        "exp": 1060,
        "sid": "handle",
        "tid": "public",
        "roles": ["admin", "user"],
        "permissions": ["write"],
    }
    assert len(signature) == 64  # r and s, not DER (RFC 7518 §3.4)
    jwt.decode(
        token,
        signer.key.private.public_key(),
        algorithms=["ES256"],
        audience="orders",
        issuer=ISSUER,
        options={"verify_exp": False, "verify_iat": False},
    )


def test_roles_are_left_out_if_the_session_has_none(signer: Signer) -> None:
    """As the fields X-User-Roles and X-User-Permissions are; an empty list isn't."""
    _, claims, _ = parts(token_of(signer.field(session())))
    assert not {"roles", "permissions"} & claims.keys()
    _, claims, _ = parts(token_of(signer.field(session({"st-role": {"v": []}}))))
    assert claims["roles"] == []


def test_any_user_id_is_ascii_in_the_field(signer: Signer) -> None:
    """No claim can end the field or begin another one."""
    claim = {"v": ["a\r\nX-Admin: 1", "ü", "\ud800"]}
    token = token_of(signer.field(session({"st-role": claim})))
    assert set(token) <= {
        *"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.",
    }
    assert parts(token)[1]["roles"] == sorted(claim["v"])


def test_it_is_used_again_for_half_of_its_life(signer: Signer) -> None:
    """By the same session for the same service; then there is a new one."""
    who = session()
    first = signer.field(who)
    assert signer.field(who, "billing") != first
    signer.now += 29.9
    assert signer.field(who) is first
    signer.now += 0.2
    second = signer.field(who)
    assert parts(token_of(second))[1]["exp"] == 1090
    assert signer.field(session()) is not second  # another verified token


def test_it_ends_with_the_access_token(signer: Signer) -> None:
    """However long assertions live."""
    who = session(expires_at=1010.9)
    assert parts(token_of(signer.field(who)))[1]["exp"] == 1010
    signer.now = 1029.0
    assert parts(token_of(signer.field(who)))[1]["exp"] == 1010


def test_what_a_session_holds_is_bounded(signer: Signer) -> None:
    """The oldest goes first; those that aren't used any more go with the next one."""
    who = session()
    fields = [signer.field(who, f"service-{number}") for number in range(9)]
    assert len(who.assertions) == 8
    assert signer.field(who, "service-8") is fields[8]
    assert signer.field(who, "service-0") is not fields[0]
    signer.now += 31
    signer.field(who, "service-3")
    assert list(who.assertions) == ["service-3"]


def test_it_counts_as_an_identity_field(signer: Signer) -> None:
    """Together with the others it has at most 8 KiB, remembered or not."""
    too_large = session({"st-role": {"v": ["r" * 7000]}})
    for _ in range(2):
        with pytest.raises(IdentityTooLarge):
            signer.field(too_large)
    assert not too_large.assertions
    who = session({"plan": "p" * 7900})
    signer.field(who)
    with pytest.raises(IdentityTooLarge):  # on another route to the same service
        signer.assertions.field(who, policy({"X-Plan": "{claims.plan}"}), "orders")
