"""`gateway explain` foretells what a running gateway does."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from any_core import new_email
from faults import FaultUpstream
from stack import Gateway, Start, User
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)

from gateway import app, settings
from gateway.dev.core import ThreadedCore
from gateway.explain.answering import Explainer
from gateway.explain.given import Expired, Given
from gateway.explain.people import payload, person
from gateway.explain.questions import Explained, Question
from gateway.explain.words import as_json, lines, outcome_of
from gateway.supertokens import session_check
from gateway.supertokens.api import Auth

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0", user_access: true}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}, userroles: {}, usermetadata: {}}
services:
  echo: {targets: ["${UPSTREAM}"]}
routes:
  - {name: public, path: /public, service: echo, protected: false}
  - {name: private, path: /private, service: echo}
  - {name: optional, path: /optional, service: echo, protected: optional}
  - {name: admin, path: /admin, service: echo, require: {roles: {any: [explain-admin]}}}
  - {name: far, path: /far, service: echo, clients: {allow: [192.0.2.0/24]}}
  - {name: fixed, path: /fixed, respond: {status: 418, body: here}, protected: false}
  - {name: v1, path: /v1, service: echo, rewrite: {strip_prefix: /v1}}
  - name: refund
    match: {path: {template: "/orders/{id}/refund"}, methods: [POST]}
    service: echo
    require: {roles: {any: [explain-admin]}}
"""

REQUESTS = [
    ("GET", "/public"),
    ("GET", "/private/a?b=c"),
    ("DELETE", "/private"),
    ("GET", "/optional"),
    ("GET", "/admin"),
    ("PUT", "/admin/users"),
    ("GET", "/Admin"),
    ("GET", "/private/../admin"),
    ("GET", "/private/..%2fadmin"),
    ("GET", "/far"),
    ("GET", "/fixed"),
    ("GET", "/v1/things?n=1"),
    ("POST", "/orders/8/refund"),
    ("GET", "/orders/8/refund"),
    ("GET", "/nowhere"),
    ("PUT", "/user"),
    ("GET", "/user/access"),
    ("BREW", "/public"),
]
FIELDS = (
    ("X-User-Id", "1"),
    ("x_user_roles", "admin"),
    ("Accept", "text/plain"),
    ("Cookie", "theme=dark"),
    ("TE", "trailers"),
    ("X-Request-Id", "chosen"),
)


def explainer(gateway: Gateway, path: Path, environ: dict[str, str]) -> Explainer:
    """Return what explains the file at *path*, with the SDK of *gateway*."""
    loaded = settings.load(path, environ)
    reader, _ = app.readers(loaded.table, loaded.config.gateway)
    sdk = gateway.app.sdk
    return Explainer(
        loaded.config,
        loaded.table,
        auth=Auth(sdk),
        rules=session_check.rules(sdk),
        reader=reader,
        forwarded=app.forwarded_cache(loaded.config.gateway),
        traces=app.traces(loaded.config),
        sdk_headers=sdk.cors_headers(),
    )


async def foretold(
    explaining: Explainer, method: str, target: str, given: Given
) -> Explained:
    return await explaining.answer(
        Question(
            method=method,
            target=target,
            host="localhost",
            is_secure=False,
            fields=FIELDS,
            client="127.0.0.1",
            given=given,
        )
    )


@pytest.fixture
def explaining_file(
    tmp_path: Path, upstream: FaultUpstream, st_core: ThreadedCore
) -> tuple[Path, dict[str, str]]:
    path = tmp_path / "explained.yaml"
    path.write_text(ROUTES)
    return path, {"CORE": st_core.url, "UPSTREAM": upstream.url}


async def test_it_foretells_what_the_gateway_does(
    start: Start,
    upstream: FaultUpstream,
    explaining_file: tuple[Path, dict[str, str]],
) -> None:
    """Status, reason and route of each request, and all that the service receives."""
    gateway = await start(ROUTES, guard=False)
    explaining = explainer(gateway, *explaining_file)
    await create_new_role_or_add_permissions("explain-admin", [])
    admin = User(gateway, new_email("admin"))
    await admin.enter("signup")
    await add_role_to_user("public", admin.id, "explain-admin")
    await admin.enter("signin")
    ann = await gateway.sign_up()
    for user, roles in ((None, ""), (ann, "[]"), (admin, '["explain-admin"]')):
        given: Given = None
        if user is not None:
            words = f'{{"id": "{user.id}", "roles": {roles}, "permissions": []}}'
            given = payload(person(words), time.time())
        bearer = () if user is None else (user.bearer,)
        for method, target in REQUESTS:
            seen = len(upstream.requests)
            answer = await foretold(explaining, method, target, given)
            assert len(upstream.requests) == seen
            reply = await gateway.ask(method, target, *FIELDS, *bearer)
            if answer.sent is None:
                assert len(upstream.requests) == seen, (method, target)
                assert answer.status == reply.status, (method, target)
            else:
                assert reply.status == 200, (method, target)
                head = upstream.requests[-1]
                line = f"{answer.sent.method} {answer.sent.path} HTTP/1.1"
                assert head.line == line.encode()
                assert sorted(shown(answer)) == sorted(received(head.head))
            record = await gateway.records.of(reply.one("X-Request-Id") or "")
            gateway.records.all.clear()
            mine = answer.record
            assert (mine.route, mine.decision) == (record.route, record.decision)
            if mine.decision != "allowed":
                assert mine.reason == record.reason
            assert as_json(answer)["reason"] == mine.reason
            assert "\n".join(lines(answer))


_OWN = (b"host:", b"traceparent:", b"content-length:", b"x-session-handle:")
"""Of each hop, or of a session that is only given."""


def shown(answer: Explained) -> list[bytes]:
    assert answer.sent is not None
    both = (*answer.sent.kept, *answer.sent.added)
    return [one for one in both if not one.lower().startswith(_OWN)]


def received(head: bytes) -> list[bytes]:
    fields = head.split(b"\r\n")[1:]
    return [one for one in fields if one and not one.lower().startswith(_OWN)]


async def test_an_expired_session_is_to_be_refreshed(
    start: Start, explaining_file: tuple[Path, dict[str, str]]
) -> None:
    """As the frontends expect it, and on optional routes, too."""
    gateway = await start(ROUTES, guard=False)
    explaining = explainer(gateway, *explaining_file)
    for path in ("/private", "/optional"):
        answer = await foretold(explaining, "GET", path, Expired())
        assert answer.body == b'{"message":"try refresh token"}'
        assert outcome_of(answer) == "401"
    answer = await foretold(explaining, "GET", "/public", Expired())
    assert outcome_of(answer) == "public"
