"""edge. Endpoints about the core itself: hello, versions, keys, plain JWTs.

Source: core protocol CDI 5.4, core-level and JWT endpoints.
"""

from __future__ import annotations

from typing import Final

from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, failed, ok
from gateway.dev.core.faults import JWKS_PATH
from gateway.dev.core.http import Refusal, Reply, json_reply, text_reply
from gateway.dev.core.jws import JsonObject, sign

CDI_VERSION: Final = "5.4"
"""The only version of the core protocol here. The SDK 0.31 requests it."""


async def hello(call: Call) -> Reply:
    """Return `Hello` after a query of the database has succeeded."""
    call.app.store.one("SELECT 1")
    return text_reply(200, "Hello")


async def api_version(_: Call) -> Reply:
    """List the CDI versions. The SDK's `apiDomain` and `websiteDomain` are ignored."""
    return json_reply({"versions": [CDI_VERSION]})


async def public_jwks(call: Call) -> Reply:
    """Return the JWKS; `max-age` is the time until it gets its next key."""
    max_age_s = call.app.keys.max_age_s()
    return json_reply(
        {"keys": call.app.keys.jwks()},
        Cache_Control=f"max-age={max_age_s}, must-revalidate",
    )


async def jwks(call: Call) -> JsonObject:
    """List the public keys, for the JWT recipe."""
    return ok(keys=call.app.keys.jwks())


async def create_jwt(call: Call) -> JsonObject:
    """Sign a payload. Its claims replace the default `iss`, `iat` and `exp`."""
    payload = call.body.object("payload")
    validity_s = call.body.integer("validity")
    algorithm = call.body.text("algorithm")
    issuer = call.body.text("jwksDomain")
    static = call.body.flag_or("useStaticSigningKey", True)
    if validity_s <= 0:
        raise Refusal(400, "validity must be greater than 0")
    if algorithm != "RS256":
        return failed("UNSUPPORTED_ALGORITHM_ERROR")
    issued_s = call.app.now_ms() // 1000
    claims: JsonObject = {
        "iss": issuer,
        "iat": issued_s,
        "exp": issued_s + validity_s,
        **payload,
    }
    key = call.app.keys.signer(static=static)
    return ok(jwt=sign(claims, key=key.private, kid=key.kid))


ENDPOINTS: Final = (
    *(
        Endpoint(
            method=method,
            path=path,
            handler=hello,
            scope=Scope.OPEN,
            needs_key=False,
        )
        for path in ("/hello", "/")
        for method in ("GET", "POST", "PUT", "DELETE")
    ),
    Endpoint(
        method="GET",
        path="/apiversion",
        handler=api_version,
        scope=Scope.APP,
        needs_key=True,
    ),
    Endpoint(
        method="GET",
        path=JWKS_PATH,
        handler=public_jwks,
        scope=Scope.OPEN,
        needs_key=False,
    ),
    Endpoint(method="GET", path="/recipe/jwt/jwks", handler=jwks, scope=Scope.APP),
    Endpoint(method="POST", path="/recipe/jwt", handler=create_jwt, scope=Scope.APP),
)
