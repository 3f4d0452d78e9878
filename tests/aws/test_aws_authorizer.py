"""The authorizer in AWS' real runtime, with a core. No service is ever asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lambda_events import event
from runtime_api import Function, InvocationFailed, deployed
from test_aws_function import ROUTES, ask, bearer, sign_up
from test_aws_function import running as function_running  # noqa: F401 - a fixture

from gateway.aws.events import EventKind
from gateway.dev.core import ThreadedCore

pytest.importorskip("awslambdaric", reason="AWS' runtime is built for Linux only")

KINDS = (EventKind.REST, EventKind.HTTP_1, EventKind.HTTP_2)
ARN = "arn:aws:execute-api:eu-west-1:1:abc/prod/GET/orders"
MORE = """
  - path: /team
    service: orders
    identity: {headers: {X-Team: "{claims.team}"}}
  - {path: /fixed, protected: false, respond: {status: 200, body: "fixed"}}
"""


@pytest.fixture(scope="module")
def authorizer(
    shared_core: ThreadedCore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    with deployed(
        tmp_path_factory.mktemp("authorizer"),
        ROUTES + MORE,
        shared_core.url,
        handler="gateway.aws.authorizer",
    ) as running_function:
        yield running_function
        assert not running_function.service.requests


@pytest.fixture(scope="module")
def token(function_running: Function) -> tuple[str, str]:  # noqa: F811 - the fixture
    """Return the field with a new user's access token, from the other function."""
    return bearer(function_running)


def question(kind: EventKind, *args: Any, **options: Any) -> dict[str, Any]:
    asked = event(kind, *args, **options)
    del asked["body"], asked["isBase64Encoded"]
    arn = "routeArn" if kind is EventKind.HTTP_2 else "methodArn"
    return {**asked, "type": "REQUEST", arn: ARN}


def effect(answer: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """Return what API Gateway does, and the context."""
    if "isAuthorized" in answer:
        return ("Allow" if answer["isAuthorized"] else "Deny"), answer["context"]
    (statement,) = answer["policyDocument"]["Statement"]
    assert statement["Resource"] == ARN
    return statement["Effect"], answer["context"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_session(
    authorizer: Function, token: tuple[str, str], kind: EventKind
) -> None:
    """It is allowed, with the identity in the context, and nothing of the client's."""
    answer = authorizer.invoke(
        question(kind, "GET", "/orders/7", [token, ("X-Tenant-Id", "evil")])
    )
    verdict, context = effect(answer)
    assert verdict == "Allow"
    assert context["x_auth_status"] == "authenticated"
    assert context["x_tenant_id"] == "public"
    assert context["x_user_id"]
    assert context["x_team"] == context["x_identity_assertion"] == ""
    if kind is not EventKind.HTTP_2:
        assert answer["principalId"] == context["x_user_id"]
    assert all(type(value) is str for value in context.values())


def test_a_refreshed_session(
    authorizer: Function,
    function_running: Function,  # noqa: F811 - the fixture
) -> None:
    """Its new tokens can't be delivered, and it is allowed nevertheless."""
    entered = sign_up(function_running, EventKind.REST, "header")
    refreshed = ask(
        function_running,
        EventKind.REST,
        "POST",
        "/auth/session/refresh",
        [("Authorization", f"Bearer {entered.one('st-refresh-token')}")],
    )
    assert refreshed.status == 200
    token = ("Authorization", f"Bearer {refreshed.one('st-access-token')}")
    for _ in range(3):
        asked = question(EventKind.REST, "GET", "/orders", [token])
        assert effect(authorizer.invoke(asked))[0] == "Allow"


@pytest.mark.parametrize("kind", KINDS)
def test_a_public_route(authorizer: Function, kind: EventKind) -> None:
    """It is allowed as anonymous; every other identity key is empty."""
    forged = [("X-User-Id", "eve")]
    verdict, context = effect(
        authorizer.invoke(question(kind, "GET", "/public", forged))
    )
    assert verdict == "Allow"
    assert {key for key, value in context.items() if value} == {"x_auth_status"}
    assert context["x_auth_status"] == "anonymous"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "fields",
    [
        [],
        [("Authorization", "Bearer a.b.c")],
        [("Cookie", "sAccessToken=broken")],
        [("Cookie", "sAccessToken=")],
    ],
)
def test_without_a_session(
    authorizer: Function, kind: EventKind, fields: list[tuple[str, str]]
) -> None:
    """API Gateway answers 401 for this error, and 500 for all others."""
    with pytest.raises(InvocationFailed) as raised:
        authorizer.invoke(question(kind, "GET", "/orders", fields))
    assert str(raised.value) == "Exception: Unauthorized"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/admin", 403),
        ("GET", "/elsewhere", 404),
        ("GET", "/user", 403),
        ("GET", "/auth/jwt/jwks.json", 403),
        ("GET", "/fixed", 403),
        ("GET", "/public/../public/x", 400),
        ("GET", "/public/%2561", 400),
        ("GET", "/public/..%2fadmin", None),
        ("GET", "/../x", 400),
        ("GET", "/ADMIN", 404),
        ("TRACE", "/orders", 400),
    ],
)
def test_refusals(
    authorizer: Function,
    token: tuple[str, str],
    kind: EventKind,
    method: str,
    target: str,
    status: int | None,
) -> None:
    """They are denied, with the gateway's own answer in the context."""
    if kind is EventKind.REST and "%2561" in target:
        pytest.skip("a REST API doesn't decode paths")
    answer = authorizer.invoke(question(kind, method, target, [token]))
    verdict, context = effect(answer)
    assert verdict == "Deny"
    if status is not None:
        assert context["status"] == str(status)
    json.loads(context["body"])


def test_a_preflight_is_denied(authorizer: Function) -> None:
    """API Gateway answers preflights itself, before it asks."""
    fields = [("Origin", "https://www.example.com")]
    fields.append(("Access-Control-Request-Method", "GET"))
    asked = question(EventKind.REST, "OPTIONS", "/orders", fields)
    assert effect(authorizer.invoke(asked))[0] == "Deny"


def test_a_large_body_is_denied(authorizer: Function) -> None:
    """By its declared length, as by the proxy."""
    asked = question(
        EventKind.REST, "POST", "/public", [("Content-Length", "999999999")]
    )
    verdict, context = effect(authorizer.invoke(asked))
    assert (verdict, context["status"]) == ("Deny", "413")


@pytest.mark.parametrize(
    "change",
    [
        {"type": "TOKEN"},
        {"methodArn": "*"},
        {"methodArn": None},
        {"requestContext": {"elb": {}}},
    ],
)
def test_other_questions_are_errors(
    authorizer: Function, change: dict[str, Any]
) -> None:
    """API Gateway answers 500."""
    asked = question(EventKind.REST, "GET", "/public") | change
    with pytest.raises(InvocationFailed, match="BadEvent"):
        authorizer.invoke(asked)


def test_an_outage_is_no_yes_and_no_401(
    token: tuple[str, str], tmp_path: Path, closed_port: int
) -> None:
    """A 401 would sign users out."""
    core = f"http://127.0.0.1:{closed_port}"
    with deployed(tmp_path, ROUTES, core, handler="gateway.aws.authorizer") as function:
        with pytest.raises(InvocationFailed, match="NotDecided"):
            function.invoke(question(EventKind.REST, "GET", "/orders", [token]))
        public = function.invoke(question(EventKind.REST, "GET", "/public"))
        assert effect(public)[0] == "Allow"
