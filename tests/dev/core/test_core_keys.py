"""Keys as published, and plain JWTs signed with them."""

from __future__ import annotations

import re
from typing import Any

import jwt
import pytest
from dev.core.core_client import CoreClient, access, decode

_JWKS = "/.well-known/jwks.json"


def _check(token: str, keys: dict[str, Any]) -> dict[str, Any]:
    """Verify a token as a stranger would, with PyJWT and the published keys."""
    kid = jwt.get_unverified_header(token)["kid"]
    key = jwt.PyJWKSet.from_dict(keys)[kid]
    claims: dict[str, Any] = jwt.decode(
        token, key, algorithms=["RS256"], options={"verify_aud": False}
    )
    return claims


async def test_jwks_form(core: CoreClient) -> None:
    """Dynamic keys first, then the static one; RSA-2048, with how long to keep it."""
    answer = await core.call("GET", _JWKS, headers={})
    keys = answer.json["keys"]
    assert "status" not in answer.json
    assert [key["kid"][:2] for key in keys] == ["d-"] * (len(keys) - 1) + ["s-"]
    for key in keys:
        assert key.keys() == {"kty", "kid", "n", "e", "alg", "use"}
        assert (key["kty"], key["alg"], key["use"]) == ("RSA", "RS256", "sig")
        assert key["e"] == "AQAB"
        assert len(key["n"]) == 342
        assert "=" not in key["n"]
    age = re.fullmatch(
        r"max-age=(\d+), must-revalidate", answer.headers["cache-control"]
    )
    assert age is not None
    assert 0 < int(age[1]) <= 168 * 3600 - 60


async def test_jwks_of_the_jwt_recipe_is_the_same(core: CoreClient) -> None:
    """It has a status and no cache time."""
    answer = await core.call("GET", "/recipe/jwt/jwks")
    assert answer.json["status"] == "OK"
    assert "cache-control" not in answer.headers
    assert answer.json["keys"] == (await core.call("GET", _JWKS)).json["keys"]


@pytest.mark.parametrize("dynamic", [True, False])
async def test_session_tokens_verify_with_the_published_keys(
    core: CoreClient, dynamic: bool
) -> None:
    """Any JWT library can check them."""
    created = await core.create("u", dynamic=dynamic)
    keys = (await core.call("GET", _JWKS)).json
    assert _check(access(created), keys)["sub"] == "u"


@pytest.mark.parametrize(("static", "prefix"), [(True, "s-"), (False, "d-")])
async def test_jwt_is_signed(core: CoreClient, static: bool, prefix: str) -> None:
    """A plain JWT has an issuer, a life, and no version in its header."""
    answer = await core.post(
        "/recipe/jwt",
        {
            "payload": {"a": 1},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "https://api",
            "useStaticSigningKey": static,
        },
    )
    header, body = decode(answer["jwt"])
    assert header.keys() == {"alg", "typ", "kid"}
    assert header["kid"].startswith(prefix)
    assert (body["iss"], body["a"]) == ("https://api", 1)
    assert body["exp"] - body["iat"] == 60
    keys = (await core.call("GET", _JWKS)).json
    assert _check(answer["jwt"], keys)["a"] == 1


async def test_jwt_payload_wins(core: CoreClient) -> None:
    """A payload with its own issuer keeps it; the static key is the default."""
    answer = await core.post(
        "/recipe/jwt",
        {
            "payload": {"iss": "mine"},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "https://api",
        },
    )
    header, body = decode(answer["jwt"])
    assert body["iss"] == "mine"
    assert header["kid"].startswith("s-")


async def test_jwt_refuses(core: CoreClient) -> None:
    """Another algorithm is an expected failure, no life at all is 400."""
    body: dict[str, Any] = {
        "payload": {},
        "validity": 60,
        "algorithm": "HS256",
        "jwksDomain": "x",
    }
    answer = await core.post("/recipe/jwt", body)
    assert answer == {"status": "UNSUPPORTED_ALGORITHM_ERROR"}
    for validity in (0, -1, "60", 1.5, True, None):
        body = {**body, "algorithm": "RS256", "validity": validity}
        assert (await core.call("POST", "/recipe/jwt", body)).status == 400


async def test_plain_jwt_is_no_session(core: CoreClient) -> None:
    """It's well signed, but the session's own claims are missing."""
    answer = await core.post(
        "/recipe/jwt",
        {
            "payload": {"sub": "u"},
            "validity": 60,
            "algorithm": "RS256",
            "jwksDomain": "x",
            "useStaticSigningKey": False,
        },
    )
    assert (await core.verify(answer["jwt"]))["status"] == "TRY_REFRESH_TOKEN"


@pytest.mark.parametrize("algorithm", ["HS256", "none"])
async def test_other_algorithms_are_refused(core: CoreClient, algorithm: str) -> None:
    """Only RS256 is looked at, whatever the signature is worth."""
    created = await core.create()
    header, body = decode(access(created))
    key = "secret-of-sufficient-length-for-hs256" if algorithm == "HS256" else ""
    forged = jwt.encode(
        body, key, algorithm=algorithm, headers={**header, "alg": algorithm}
    )
    assert (await core.verify(forged))["status"] == "TRY_REFRESH_TOKEN"


async def test_unknown_kid_is_try_refresh(core: CoreClient) -> None:
    """A key that's not ours isn't looked for anywhere else."""
    created = await core.create()
    _, body = decode(access(created))
    forged = jwt.encode(
        body,
        "secret-of-sufficient-length-for-hs256",
        headers={"kid": "d-1", "version": "5"},
    )
    assert (await core.verify(forged))["status"] == "TRY_REFRESH_TOKEN"
