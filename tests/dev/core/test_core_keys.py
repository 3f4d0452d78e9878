"""The published keys, and plain JWTs signed with them."""

from __future__ import annotations

import re
from typing import Any

import jwt
import pytest
from dev.core.core_client import CoreClient, access, decode

_JWKS = "/.well-known/jwks.json"


def _check(token: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Verify a token with PyJWT and the published keys, and return its claims."""
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(keys)[kid]
    claims: dict[str, Any] = jwt.decode(
        token, key, algorithms=["RS256"], options={"verify_aud": False}
    )
    return claims


async def test_jwks_form(core: CoreClient) -> None:
    """Dynamic RSA-2048 keys come first, then the static one; `max-age` is sent."""
    response = await core.call("GET", _JWKS, headers={})
    keys = response.json["keys"]
    assert "status" not in response.json
    assert [key["kid"][:2] for key in keys] == ["d-"] * (len(keys) - 1) + ["s-"]
    for key in keys:
        assert key.keys() == {"kty", "kid", "n", "e", "alg", "use"}
        assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")
        assert key["e"] == "AQAB"
        assert len(key["n"]) == 342
        assert "=" not in key["n"]
    age = re.fullmatch(
        r"max-age=(\d+), must-revalidate", response.headers["cache-control"]
    )
    assert age is not None
    assert 0 < int(age[1]) <= 168 * 3600 - 60


async def test_jwks_of_the_jwt_recipe_has_the_same_keys(core: CoreClient) -> None:
    """The response has a `status` and no `Cache-Control`."""
    response = await core.call("GET", "/recipe/jwt/jwks")
    assert response.json["status"] == "OK"
    assert "cache-control" not in response.headers
    assert response.json["keys"] == (await core.call("GET", _JWKS)).json["keys"]


@pytest.mark.parametrize("dynamic", [True, False])
async def test_session_tokens_verify_with_the_published_keys(
    core: CoreClient, dynamic: bool
) -> None:
    """An access token verifies with the published keys, as any JWT does."""
    created = await core.create("u", dynamic=dynamic)
    keys = (await core.call("GET", _JWKS)).json
    assert _check(access(created), keys)["sub"] == "u"


@pytest.mark.parametrize(("static", "prefix"), [(True, "s-"), (False, "d-")])
async def test_jwt_is_signed(core: CoreClient, static: bool, prefix: str) -> None:
    """A plain JWT has an issuer, a lifetime, and no `version` in its header."""
    response = await core.post(
        "/recipe/jwt",
        {
            "payload": {"a": 1},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "https://api",
            "useStaticSigningKey": static,
        },
    )
    header, body = decode(response["jwt"])
    assert header.keys() == {"alg", "typ", "kid"}
    assert header["kid"].startswith(prefix)
    assert (body["iss"], body["a"]) == ("https://api", 1)
    assert body["exp"] - body["iat"] == 60
    keys = (await core.call("GET", _JWKS)).json
    assert _check(response["jwt"], keys)["a"] == 1


async def test_jwt_payload_overrides_the_issuer(core: CoreClient) -> None:
    """An `iss` in the payload is kept. The static key is the default."""
    response = await core.post(
        "/recipe/jwt",
        {
            "payload": {"iss": "mine"},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "https://api",
        },
    )
    header, body = decode(response["jwt"])
    assert body["iss"] == "mine"
    assert header["kid"].startswith("s-")


async def test_jwt_with_a_bad_algorithm_or_validity(core: CoreClient) -> None:
    """An unsupported algorithm is an error status; a bad validity is 400."""
    body: dict[str, Any] = {
        "payload": {},
        "validity": 60,
        "algorithm": "HS256",
        "jwksDomain": "x",
    }
    response = await core.post("/recipe/jwt", body)
    assert response == {"status": "UNSUPPORTED_ALGORITHM_ERROR"}
    for validity in (0, -1, None):
        body = {**body, "algorithm": "RS256", "validity": validity}
        assert (await core.call("POST", "/recipe/jwt", body)).status == 400


@pytest.mark.embedded
@pytest.mark.parametrize("validity", ["60", 1.5, True])
async def test_jwt_validity_is_a_whole_number(
    core: CoreClient, validity: object
) -> None:
    """A validity of another JSON type is 400; a real core converts it."""
    body = {
        "payload": {},
        "validity": validity,
        "algorithm": "RS256",
        "jwksDomain": "x",
    }
    assert (await core.call("POST", "/recipe/jwt", body)).status == 400


async def test_plain_jwt_is_not_an_access_token(core: CoreClient) -> None:
    """A JWT without the claims of a session fails, although its signature is good."""
    response = await core.post(
        "/recipe/jwt",
        {
            "payload": {"sub": "u"},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "x",
            "useStaticSigningKey": False,
        },
    )
    assert (await core.verify(response["jwt"]))["status"] == "TRY_REFRESH_TOKEN"


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_other_algorithms_are_refused(core: CoreClient, algorithm: str) -> None:
    """An access token must be signed with RS256."""
    created = await core.create()
    header, body = decode(access(created))
    key = "secret-of-sufficient-length-for-hs256" if algorithm == "HS256" else ""
    forged = jwt.encode(
        body, key, algorithm=algorithm, headers={**header, "alg": algorithm}
    )
    assert (await core.verify(forged))["status"] == "TRY_REFRESH_TOKEN"


async def test_unknown_kid_is_try_refresh(core: CoreClient) -> None:
    """A token whose `kid` names no key of this core fails."""
    created = await core.create()
    _, body = decode(access(created))
    forged = jwt.encode(
        body,
        "secret-of-sufficient-length-for-hs256",
        headers={"kid": "d-1", "version": "5"},
    )
    assert (await core.verify(forged))["status"] == "TRY_REFRESH_TOKEN"
