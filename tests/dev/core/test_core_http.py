"""The protocol's HTTP conventions: paths, versions, inputs, error forms."""

from __future__ import annotations

import pytest
from dev.core.core_client import VERSION, CoreClient

_TEXT = "text/html; charset=UTF-8"


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
async def test_one_api_has_several_paths(core: CoreClient, path: str) -> None:
    """Default app and tenant may be spelled out; case and a last slash are free."""
    assert (await core.get(path))["status"] == "OK"


@pytest.mark.parametrize(
    ("path", "status", "text"),
    [
        ("/nope", 404, "Not found"),
        ("/recipe/recipe/roles", 404, "Not found"),
        ("/config/recipe/roles", 404, "Not found"),
        ("/users/recipe/roles", 404, "Not found"),
        ("/hello/recipe/roles", 404, "Not found"),
        ("/a/b/recipe/roles", 404, "Not found"),
        ("/under_score/recipe/roles", 404, "Not found"),
        ("/appid-nope/recipe/roles", 400, "AppId or tenantId not found => "),
        ("/nope/recipe/user/roles", 400, "AppId or tenantId not found => "),
        ("/recipe/role/permissions", 400, "Field name 'role' is missing in GET"),
    ],
)
async def test_wrong_paths_are_plain_sentences(
    core: CoreClient, path: str, status: int, text: str
) -> None:
    """What isn't an expected failure is a 4xx with a sentence, not JSON."""
    answer = await core.call("GET", path)
    assert answer.status == status
    assert answer.headers["content-type"] == _TEXT
    assert answer.text.startswith(text)
    assert answer.text.endswith("\n")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["/hello", "/public/hello", "/"])
async def test_hello(core: CoreClient, method: str, path: str) -> None:
    """The core says hello to every method."""
    answer = await core.call(method, path)
    assert (answer.status, answer.text) == (200, "Hello\n")
    assert answer.headers["content-type"] == _TEXT


@pytest.mark.parametrize("path", ["/hello", "/apiversion", "/.well-known/jwks.json"])
async def test_some_calls_need_no_version(core: CoreClient, path: str) -> None:
    """They answer before a version is agreed on, and whatever one is sent."""
    for headers in ({}, {"cdi-version": "99.0"}):
        assert (await core.call("GET", path, headers=headers)).status == 200


async def test_api_version_lists_what_the_sdk_needs(core: CoreClient) -> None:
    """The list has 5.4 and stands there without a status."""
    answer = await core.ask(
        "GET",
        "/apiversion",
        query={"apiDomain": "http://a", "websiteDomain": "http://b"},
        headers={},
    )
    assert "status" not in answer
    assert "5.4" in answer["versions"]


@pytest.mark.parametrize("version", ["99.0", "5.99"])
async def test_unknown_version_is_400(core: CoreClient, version: str) -> None:
    """A version this core doesn't speak is refused."""
    answer = await core.call("GET", "/recipe/roles", headers={"cdi-version": version})
    assert answer.status == 400
    assert version in answer.text


async def test_missing_version_is_taken_as_the_newest(core: CoreClient) -> None:
    """A call without a version is answered."""
    assert (await core.call("GET", "/recipe/roles", headers={})).status == 200


async def test_wrong_method_is_405(core: CoreClient) -> None:
    """A path that exists says so."""
    answer = await core.call("DELETE", "/recipe/roles")
    assert (answer.status, answer.headers["content-type"]) == (405, _TEXT)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"x"',
        b"[" * 100_000,
        b'{"userId": NaN}',
        b"\xff\xfe",
    ],
    ids=["empty", "cut", "list", "null", "text", "deep", "nan", "bytes"],
)
async def test_body_must_be_a_json_object(core: CoreClient, raw: bytes) -> None:
    """Everything else is 400."""
    answer = await core.call("POST", "/public/recipe/session", raw=raw, headers=VERSION)
    assert (answer.status, answer.text) == (400, "Invalid Json Input\n")


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
        ("userId", "\ud800"),
        ("userDataInJWT", []),
        ("userDataInJWT", "x"),
        ("enableAntiCsrf", "false"),
        ("enableAntiCsrf", 0),
        ("useDynamicSigningKey", None),
        ("useDynamicSigningKey", "true"),
    ],
)
async def test_wrong_types_are_400(core: CoreClient, field: str, value: object) -> None:
    """Strings must be strings, booleans bare, and optional isn't nullable."""
    answer = await core.call("POST", "/public/recipe/session", {**_GOOD, field: value})
    assert answer.status == 400
    assert answer.text == f"Field name '{field}' is invalid in JSON input\n"


@pytest.mark.parametrize("field", ["userId", "userDataInJWT", "enableAntiCsrf"])
async def test_missing_fields_are_400(core: CoreClient, field: str) -> None:
    """A required field must be there."""
    body = {name: value for name, value in _GOOD.items() if name != field}
    assert (await core.call("POST", "/public/recipe/session", body)).status == 400


async def test_optional_and_unknown_fields_are_free(core: CoreClient) -> None:
    """Optional may be absent, and what's unknown is ignored."""
    body = {**_GOOD, "unknown": {"a": [None]}}
    del body["useDynamicSigningKey"]
    assert (await core.post("/public/recipe/session", body))["status"] == "OK"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/user/id"),
        ("PUT", "/recipe/role"),
        ("POST", "/recipe/session/verify"),
        ("GET", "/recipe/user/metadata"),
        ("GET", "/recipe/multitenancy/tenant/list/v2"),
    ],
)
async def test_unknown_tenant_is_told_before_anything_else(
    core: CoreClient, method: str, path: str
) -> None:
    """A tenant segment that names nothing is 400, on every API."""
    answer = await core.call(method, f"/no-such-tenant{path}", {})
    assert answer.status == 400
    assert answer.text.startswith("AppId or tenantId not found => ")
