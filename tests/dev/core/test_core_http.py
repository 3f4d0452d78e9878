"""HTTP conventions of the protocol: paths, versions, inputs, error responses."""

from __future__ import annotations

import pytest
from dev.core.core_client import VERSION, CoreClient, Json

from gateway.dev.mark import EMBEDDED_CORE

_TEXT = "text/html;charset=UTF-8"
_EMBEDDED = pytest.mark.embedded


@pytest.mark.parametrize(
    "path",
    [
        "/recipe/roles",
        "/recipe/roles/",
        "/RECIPE/Roles",
        "/public/recipe/roles",
        "/appid-public/recipe/roles",
        "/appid-public/public/recipe/roles",
    ],
)
async def test_equivalent_paths_of_one_api(core: CoreClient, path: str) -> None:
    """A path may name the default app and tenant, in any case, with a final slash."""
    assert (await core.get(path))["status"] == "OK"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/nope", 404, "Not found"),
        *(
            pytest.param(path, 404, "Not found", marks=_EMBEDDED)
            for path in (
                "//recipe/roles",
                "/recipe/recipe/roles",
                "/config/recipe/roles",
                "/users/recipe/roles",
                "/hello/recipe/roles",
                "/a/b/recipe/roles",
                "/under_score/recipe/roles",
            )
        ),
        ("/appid-nope/recipe/roles", 400, "AppId or tenantId not found => "),
        ("/nope/recipe/user/roles?userId=u", 400, "AppId or tenantId not found => "),
        ("/nope/recipe/user/roles", 400, "Field name 'userId' is missing in GET"),
        ("/recipe/role/permissions", 400, "Field name 'role' is missing in GET"),
    ],
)
async def test_wrong_paths_are_4xx_in_plain_text(
    core: CoreClient, path: str, status: int, text: str
) -> None:
    """A request that is wrong in itself gets a 4xx with plain text instead of JSON."""
    response = await core.call("GET", path)
    assert response.status == status
    assert response.headers["content-type"] == _TEXT
    assert response.text.startswith(text)
    assert response.text.endswith("\n")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/hello", "/public/hello", "/"])
async def test_hello(core: CoreClient, method: str, path: str) -> None:
    """The core answers `/hello` and `/` with 200 to every method."""
    response = await core.call(method, path)
    assert (response.status, response.text) == (200, "Hello\n")
    assert response.headers["content-type"] == _TEXT


_NO_VERSION = ["/hello", "/", "/apiversion", "/.well-known/jwks.json", "/recipe/roles"]


@pytest.mark.parametrize("path", _NO_VERSION)
async def test_missing_version_is_accepted(core: CoreClient, path: str) -> None:
    """A request without a version gets 200."""
    assert (await core.call("GET", path, headers={})).status == 200


async def test_api_version_lists_the_version_of_the_sdk(core: CoreClient) -> None:
    """The response lists version 5.4 and has no `status`."""
    response = await core.ask(
        "GET",
        "/apiversion",
        query={"apiDomain": "http://a", "websiteDomain": "http://b"},
        headers={},
    )
    assert "status" not in response
    assert "5.4" in response["versions"]


@pytest.mark.parametrize("version", ["99.0", "5.99"])
@pytest.mark.parametrize("path", _NO_VERSION)
async def test_unknown_version_is_400(
    core: CoreClient, path: str, version: str
) -> None:
    """A version that the core doesn't support is 400 everywhere; the text names it."""
    response = await core.call("GET", path, headers={"cdi-version": version})
    assert response.status == 400
    assert version in response.text


async def test_wrong_method_is_405(core: CoreClient) -> None:
    """A known path with the wrong method is 405, not 404."""
    response = await core.call("DELETE", "/recipe/roles")
    assert (response.status, response.headers["content-type"]) == (405, _TEXT)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"null", id="null"),
        pytest.param(b'"x"', id="text"),
        pytest.param(b"[" * 100_000, id="deep", marks=_EMBEDDED),
        pytest.param(b'{"userId": NaN}', id="nan", marks=_EMBEDDED),
        pytest.param(b"{'userId': 'u'}", id="single quotes", marks=_EMBEDDED),
        pytest.param(b"\xff\xfe", id="bytes", marks=_EMBEDDED),
    ],
)
async def test_body_must_be_a_json_object(core: CoreClient, raw: bytes) -> None:
    """A body that is anything but a JSON object is 400."""
    response = await core.call(
        "POST", "/public/recipe/session", raw=raw, headers=VERSION
    )
    assert (response.status, response.text) == (400, "Invalid Json Input\n")


_GOOD = {
    "userId": "u",
    "userDataInJWT": {},
    "userDataInDatabase": {},
    "enableAntiCsrf": False,
    "useDynamicSigningKey": True,
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("userId", 1),
        ("userId", None),
        pytest.param("userId", "\ud800", marks=_EMBEDDED),
        ("userDataInJWT", []),
        ("userDataInJWT", "x"),
        ("enableAntiCsrf", "false"),
        pytest.param("enableAntiCsrf", 0, marks=_EMBEDDED),
        ("useDynamicSigningKey", None),
        ("useDynamicSigningKey", "true"),
    ],
)
async def test_wrong_types_are_400(core: CoreClient, field: str, value: object) -> None:
    """A field of the wrong type is 400; so is null in an optional field."""
    response = await core.call(
        "POST", "/public/recipe/session", {**_GOOD, field: value}
    )
    assert response.status == 400
    assert response.text == f"Field name '{field}' is invalid in JSON input\n"


@pytest.mark.parametrize("field", ["userId", "userDataInJWT", "enableAntiCsrf"])
async def test_missing_fields_are_400(core: CoreClient, field: str) -> None:
    """A request without a required field is 400."""
    body = {name: value for name, value in _GOOD.items() if name != field}
    assert (await core.call("POST", "/public/recipe/session", body)).status == 400


async def test_optional_fields_may_be_absent_and_unknown_ones_are_ignored(
    core: CoreClient,
) -> None:
    """Neither a missing optional field nor an unknown field is an error."""
    body = {**_GOOD, "unknown": {"a": [None]}}
    del body["useDynamicSigningKey"]
    assert (await core.post("/public/recipe/session", body))["status"] == "OK"


@pytest.mark.parametrize(
    ("method", "path", "query", "body"),
    [
        ("GET", "/user/id", {"userId": "u"}, {}),
        ("PUT", "/recipe/role", {}, {"role": "r"}),
        ("POST", "/recipe/session/remove", {}, {"sessionHandles": ["h"]}),
        ("GET", "/recipe/user/metadata", {"userId": "u"}, {}),
        ("GET", "/recipe/multitenancy/tenant/list/v2", {}, {}),
        ("GET", "/apiversion", {}, {}),
        ("GET", "/users", {}, {}),
    ],
)
async def test_unknown_tenant_is_400(
    core: CoreClient, method: str, path: str, query: Json, body: Json
) -> None:
    """A path that names an unknown tenant is 400 in every API."""
    response = await core.call(method, f"/no-such-tenant{path}", body, query=query)
    assert response.status == 400
    assert response.text.startswith("AppId or tenantId not found => ")


@pytest.mark.parametrize(
    ("method", "path", "field"),
    [
        ("GET", "/user/id", "userId"),
        ("PUT", "/recipe/role", "role"),
        ("POST", "/recipe/role/remove", "role"),
        ("POST", "/recipe/session", "userId"),
        ("POST", "/recipe/session/verify", "accessToken"),
        ("POST", "/recipe/session/refresh", "refreshToken"),
        ("POST", "/recipe/session/regenerate", "accessToken"),
        ("GET", "/recipe/session", "sessionHandle"),
        ("GET", "/recipe/session/user", "userId"),
        ("PUT", "/recipe/session/data", "sessionHandle"),
        ("PUT", "/recipe/jwt/data", "sessionHandle"),
        ("GET", "/recipe/user/metadata", "userId"),
        ("POST", "/recipe/user/metadata/remove", "userId"),
        ("POST", "/recipe/user/email/verify/remove", "userId"),
        ("POST", "/recipe/user/password/reset/token/consume", "token"),
        ("POST", "/recipe/signup", "email"),
        ("POST", "/recipe/signinup", "thirdPartyId"),
        ("POST", "/recipe/signinup/code/remove", "codeId"),
        ("POST", "/user/remove", "userId"),
    ],
)
async def test_input_is_checked_before_the_tenant(
    core: CoreClient, method: str, path: str, field: str
) -> None:
    """A missing field is reported even if the path names an unknown tenant."""
    response = await core.call(method, f"/no-such-tenant{path}", {})
    assert response.status == 400
    assert f"'{field}'" in response.text


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("path", "feature"),
    [
        ("/recipe/totp/device", "TOTP"),
        ("/public/recipe/webauthn/options/register", "WebAuthn"),
        ("/recipe/accountlinking/user/link", "account linking"),
        ("/recipe/userid/map", "user id mapping"),
        ("/t1/recipe/multitenancy/config/thirdparty", "providers of tenants"),
    ],
)
async def test_what_needs_a_real_core_says_so(
    core: CoreClient, path: str, feature: str
) -> None:
    """An endpoint that only a real core has is 404, with the remedy."""
    response = await core.call("POST", path, {})
    assert response.status == 404
    expected = f"Not found: the embedded core has no {feature}; use a real core\n"
    assert response.text == expected


@pytest.mark.embedded
@pytest.mark.parametrize("path", ["/hello", "/recipe/roles", "/nope"])
async def test_it_says_that_it_is_the_embedded_core(
    core: CoreClient, path: str
) -> None:
    """Every answer has a `Server` field by which the core is known."""
    response = await core.call("GET", path)
    assert response.headers["server"] == EMBEDDED_CORE
