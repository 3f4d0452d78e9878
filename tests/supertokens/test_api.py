"""The SDK's API through our binding, compared with the SDK's own FastAPI binding."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import aiohttp
import pytest
from any_core import core_url, new_email
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from sdk_reset import running
from sdk_responses import SdkResponse, bearer, cookies, normal
from session_request import session_request
from supertokens_python.framework.fastapi import get_middleware
from supertokens_python.recipe.session.framework.fastapi import verify_session

from gateway.config import SuperTokensConfig
from gateway.dev.core import Core, CoreSettings, Faults, serve
from gateway.errors import BadRequest, CoreUnavailable, GatewayError
from gateway.http.fields import Fields
from gateway.identity import Denied, SessionIdentity
from gateway.responses import Response as GatewayResponse
from gateway.supertokens import Sdk
from gateway.supertokens.api import Auth, user
from gateway.supertokens.binding import SdkRequest
from gateway.supertokens.core_exchange import UnknownTenant

JSON = (b"Content-Type", b"application/json")
COOKIE_MODE = (b"st-auth-mode", b"cookie")
HEADER_MODE = (b"st-auth-mode", b"header")
RID = (b"rid", b"session")


# --- one sequence of calls for two bindings ----------------------------------


@dataclass(frozen=True, kw_only=True)
class Call:
    method: str
    path: str
    query: bytes = b""
    fields: Fields = ()
    body: bytes = b""


Ask = Callable[[Call], Awaitable[SdkResponse]]


@dataclass
class Recorder:
    """Makes calls through one binding, and records the responses."""

    ask: Ask
    email: str
    log: list[tuple[str, SdkResponse]] = field(default_factory=list)

    async def __call__(
        self,
        name: str,
        method: str,
        path: str,
        *fields: tuple[bytes, bytes],
        body: object = None,
        query: bytes = b"",
    ) -> SdkResponse:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields = (JSON, *fields)
        response = await self.ask(
            Call(
                method=method,
                path=path,
                query=query,
                fields=fields,
                body=body if isinstance(body, bytes) else b"",
            )
        )
        self.log.append((name, response))
        return response

    def form(self, **values: object) -> dict[str, object]:
        return form(**{"email": self.email, **values})


def form(**values: object) -> dict[str, object]:
    """Return a form for the SDK, without the fields that are None."""
    return {
        "formFields": [
            {"id": name, "value": value}
            for name, value in {"password": "passw0rd", **values}.items()
            if value is not None
        ]
    }


def anti_csrf(response: SdkResponse) -> tuple[tuple[bytes, bytes], ...]:
    return tuple(
        (b"anti-csrf", value.encode()) for value in response.values("anti-csrf")
    )


async def make_calls(call: Recorder, mails: list[str]) -> None:
    """Make every call of a frontend, valid and invalid.

    *mails* has the tokens of the links that were sent.
    """
    form = call.form
    # Forms.
    await call("weak password", "POST", "/auth/signup", body=form(password="x"))
    await call("bad email", "POST", "/auth/signup", body=form(email="nobody"))
    await call("no fields", "POST", "/auth/signup", body={})
    await call("one field", "POST", "/auth/signup", body=form(password=None))
    await call("number", "POST", "/auth/signup", body=form(password=5))
    await call("no list", "POST", "/auth/signup", body={"formFields": "x"})
    await call("broken JSON", "POST", "/auth/signup", JSON, body=b'{"formFields": [')
    await call("not UTF-8", "POST", "/auth/signup", JSON, body=b'{"a":"\xff"}')
    await call("deep JSON", "POST", "/auth/signup", JSON, body=b"[" * 100_000)
    await call("no body", "POST", "/auth/signup")
    # Sign-up and sign-in, in every mode.
    first = await call("sign up", "POST", "/auth/signup", body=form())
    await call("sign up again", "POST", "/auth/signup", body=form())
    await call("old frontend", "POST", "/auth/signin", (b"fdi-version", b"1.17"),
               body=form())  # fmt: skip
    await call("some frontend", "POST", "/auth/signin", (b"FDI-Version", b"2.0,3.1"),
               body=form())  # fmt: skip
    await call("unknown mode", "POST", "/auth/signin", (b"st-auth-mode", b"smoke"),
               body=form())  # fmt: skip
    await call("header mode", "POST", "/auth/signin", HEADER_MODE, body=form())
    await call("wrong password", "POST", "/auth/signin", body=form(password="w0rd5678"))
    await call(
        "unknown user", "POST", "/auth/signin", body=form(email="no@body.example")
    )
    await call("other rid", "POST", "/auth/signin", (b"rid", b"thirdparty"),
               body=form())  # fmt: skip
    await call("anti-csrf rid", "POST", "/auth/signin", (b"rid", b"anti-csrf"),
               body=form())  # fmt: skip
    await call("public tenant", "POST", "/auth/public/signin", body=form())
    signed_in = await call("cookies", "POST", "/auth/signin", COOKIE_MODE, body=form())
    # Whether the address is taken.
    taken = b"email=" + call.email.replace("@", "%40").encode()
    for path in ("/auth/emailpassword/email/exists", "/auth/signup/email/exists"):
        await call("exists", "GET", path, query=taken)
        await call("exists not", "GET", path, query=b"email=no%40body.example")
        await call("no query", "GET", path)
        await call("twice", "GET", path, query=b"email=a&" + taken)
    # Sessions.
    access = signed_in.token("access")
    token = first.token("access")
    await call("header session", "GET", "/protected", bearer(token))
    await call("cookie session", "GET", "/protected", cookies(sAccessToken=access))
    await call("write", "POST", "/protected", cookies(sAccessToken=access))
    await call("write with rid", "POST", "/protected", RID,
               cookies(sAccessToken=access))  # fmt: skip
    await call("write with token", "POST", "/protected", cookies(sAccessToken=access),
               *anti_csrf(signed_in))  # fmt: skip
    await call("no session", "GET", "/protected")
    await call("junk bearer", "GET", "/protected", bearer("junk"))
    await call("tampered", "GET", "/protected", bearer(token[:-8] + "AAAAAAAA"))
    await call("junk bearer, good cookie", "GET", "/protected", bearer("a.b.c"),
               cookies(sAccessToken=access))  # fmt: skip
    await call("two cookies", "GET", "/protected",
               (b"Cookie", f"sAccessToken={access}; sAccessToken={access}".encode()),
               )  # fmt: skip
    await call("legacy cookie", "GET", "/protected", bearer(token),
               cookies(sIdRefreshToken="x"))  # fmt: skip
    # Refresh, theft included.
    await call("refresh nothing", "POST", "/auth/session/refresh")
    await call("refresh junk", "POST", "/auth/session/refresh", bearer("junk"))
    refreshed = await call("refresh", "POST", "/auth/session/refresh", RID,
                           *anti_csrf(first), first.back("refresh"))  # fmt: skip
    await call("promote", "GET", "/protected", refreshed.back("access"))
    await call("theft", "POST", "/auth/session/refresh", RID, *anti_csrf(first),
               first.back("refresh"))  # fmt: skip
    await call("after theft", "GET", "/protected/db", first.back("access"))
    refresh = signed_in.back("refresh")
    two = signed_in.token("refresh")
    await call("two refresh cookies", "POST", "/auth/session/refresh", RID,
               (b"Cookie", f"sRefreshToken={two}; sRefreshToken={two}".encode()),
               )  # fmt: skip
    await call("refresh without rid", "POST", "/auth/session/refresh", refresh)
    await call("refresh with rid", "POST", "/auth/session/refresh", refresh, RID)
    again = await call("refresh with token", "POST", "/auth/session/refresh",
                       refresh, RID, *anti_csrf(signed_in))  # fmt: skip
    session = (again.back("access"), RID, *anti_csrf(again))
    await call("promote again", "GET", "/protected", *session)
    # Mail.
    await call("verified?", "GET", "/auth/user/email/verify", *session)
    await call("verified? nobody", "GET", "/auth/user/email/verify")
    await call("send link", "POST", "/auth/user/email/verify/token", *session)
    link = {"method": "token", "token": "no such token"}
    await call("bad link", "POST", "/auth/user/email/verify", body=link)
    link["token"] = mails[-1]
    await call("link", "POST", "/auth/user/email/verify", *session, body=link)
    await call("used link", "POST", "/auth/user/email/verify", body=link)
    await call("verified!", "GET", "/auth/user/email/verify", *session)
    await call("forgotten", "POST", "/auth/user/password/reset/token",
               body=form(password=None))  # fmt: skip
    await call("unknown", "POST", "/auth/user/password/reset/token",
               body=form(email="no@body.example", password=None))  # fmt: skip
    for name, token, password in (
        ("reset, bad token", "no such token", "passw1rd"),
        ("reset, weak", mails[-1], "x"),
        ("reset", mails[-1], "passw1rd"),
        ("reset, used token", mails[-1], "passw2rd"),
    ):
        await call(name, "POST", "/auth/user/password/reset",
                   body={"method": "token", "token": token,
                         **form(email=None, password=password)})  # fmt: skip
    await call("new password", "POST", "/auth/signin", body=form(password="passw1rd"))
    # Signing out.
    await call("sign out nobody", "POST", "/auth/signout")
    await call("sign out", "POST", "/auth/signout", *session)
    await call("signed out", "GET", "/protected/db", *session)
    await call("sign out by cookie without rid", "POST", "/auth/signout",
               cookies(sAccessToken=access))  # fmt: skip
    # Requests that aren't forms.
    await call("keys", "GET", "/auth/jwt/jwks.json")
    await call("configuration", "GET", "/auth/.well-known/openid-configuration")
    await call("form body", "POST", "/auth/signin",
               (b"Content-Type", b"application/x-www-form-urlencoded"),
               body=b"formFields=x")  # fmt: skip
    for method, path in (
        ("OPTIONS", "/auth/signin"),
        ("HEAD", "/auth/jwt/jwks.json"),
        ("GET", "/auth/signin"),
        ("DELETE", "/auth/signout"),
        ("POST", "/auth/no/such/thing"),
        ("GET", "/auth"),
        ("GET", "/auth/"),
    ):
        await call(f"{method} {path}", method, path)
    await call("slash", "POST", "/auth/signin/", body=form(password="passw1rd"))


class Links:
    """Keeps the token of each link that the SDK sends."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def send(self, kind: str, to: str, link: str) -> None:
        match = re.search(r"[?&]token=([^&#]+)", link)
        assert match is not None
        self.tokens.append(match[1])


# --- the two bindings ----------------------------------------------------------


async def handle(auth: Auth, call: Call) -> GatewayResponse | None:
    return await auth.handle(
        method=call.method,
        path=call.path,
        query=call.query,
        fields=call.fields,
        body=call.body,
        secure=False,
        authority="localhost:8000",
    )


def ours(sdk: Sdk) -> Ask:
    auth = Auth(sdk)

    async def ask(call: Call) -> SdkResponse:
        if auth.owns(call.path):
            try:
                reply = await handle(auth, call)
            except GatewayError as error:
                return SdkResponse(status=error.status)
            if reply is None:
                return SdkResponse(status=0)
            return SdkResponse(
                status=reply.status, fields=reply.fields, body=reply.body
            )
        session = await sdk.get_session(
            session_request(call.method, call.path, call.fields),
            check_database=call.path.endswith("/db"),
        )
        assert session is not None
        if isinstance(session, Denied):
            return SdkResponse(
                status=session.status, fields=session.fields, body=session.body
            )
        return SdkResponse(
            status=200, fields=session.new_tokens, body=user(session.identity)
        )

    return ask


def theirs() -> Ask:
    """Return a function that calls the SDK's FastAPI binding as an ASGI server does."""
    app = FastAPI()
    app.add_middleware(get_middleware())  # type: ignore[no-untyped-call] # the SDK's

    def protected(path: str, *, check_database: bool) -> None:
        # One dependency a path: it shares one user context among all its requests.
        depends = Depends(verify_session(check_database=check_database))

        @app.api_route(path, methods=["GET", "POST"])
        async def handler(session: Any = depends) -> Response:
            return Response(
                user(
                    SessionIdentity(
                        user_id=session.get_user_id(),
                        recipe_user_id="",
                        session_handle=session.get_handle(),
                        tenant_id="",
                        claims=session.get_access_token_payload(),
                        expires_at=0,
                    )
                )
            )

    protected("/protected", check_database=False)
    protected("/protected/db", check_database=True)

    @app.api_route("/{path:path}", methods=["GET", "POST", "DELETE", "OPTIONS", "HEAD"])
    async def nothing(request: Request) -> Response:
        return Response(status_code=299)

    async def ask(call: Call) -> SdkResponse:
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": call.body, "more_body": False}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": call.method,
            "scheme": "http",
            "path": call.path,
            "raw_path": call.path.encode(),
            "root_path": "",
            "query_string": call.query,
            "headers": [(name.lower(), value) for name, value in call.fields],
            "client": ("127.0.0.1", 1),
            "server": ("localhost", 8000),
        }
        try:
            await app(scope, receive, send)
        except Exception:  # noqa: BLE001 - an error of the SDK is a 500
            return SdkResponse(status=500)
        status = sent[0]["status"]
        if status == 299:
            return SdkResponse(status=0)
        ignored = {b"content-length"}
        if status == 200 and call.path.startswith("/protected"):
            ignored.add(b"access-control-expose-headers")  # `downstream.cors` sets it
        return SdkResponse(
            status=status,
            fields=tuple(
                (name, value)
                for name, value in sent[0]["headers"]
                if name not in ignored
            ),
            body=b"".join(message.get("body", b"") for message in sent[1:]),
        )

    return ask


# --- the calls under every setting ------------------------------------------------

SETTINGS = {
    "defaults": {},
    "VIA_TOKEN": {"anti_csrf": "VIA_TOKEN"},
    "VIA_CUSTOM_HEADER": {
        # Two sites: cookies are SameSite=None and Secure, so the SDK wants the header.
        "api_domain": "https://api.example.com",
        "website_domain": "https://www.example.org",
        "cookie": {"domain": ".example.com", "older_domain": "old.example.com"},
    },
    "cookies only": {"token_transfer_method": "cookie"},
    "headers only": {"token_transfer_method": "header"},
    "static key": {"use_dynamic_signing_key": False},
}


def settings(core_url: str, **values: Any) -> SuperTokensConfig:
    return SuperTokensConfig.model_validate(
        {
            "connection_uri": core_url,
            "recipes": {
                "emailpassword": {},
                "emailverification": {"mode": "OPTIONAL"},
                "userroles": {},
            },
            **values,
        }
    )


async def install_keys(sdk: Sdk, core_url: str) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.get(core_url + "/.well-known/jwks.json") as reply,
    ):
        sdk.install_keys((await reply.json())["keys"])


@pytest.mark.any_core
@pytest.mark.parametrize("values", SETTINGS.values(), ids=SETTINGS)
async def test_contract_with_the_fastapi_binding(values: dict[str, Any]) -> None:
    """For each call both bindings give the same status, body, fields and cookies."""
    links = Links()
    our_email, their_email = new_email("ours"), new_email("theirs")
    with core_url() as url:
        async with running(settings(url, **values), email=links) as sdk:
            await install_keys(sdk, url)
            our_calls = Recorder(ours(sdk), our_email)
            their_calls = Recorder(theirs(), their_email)
            await make_calls(our_calls, links.tokens)
            await make_calls(their_calls, links.tokens)
    assert len(our_calls.log) == 81
    for (name, left), (_, right) in zip(our_calls.log, their_calls.log, strict=True):
        assert normal(left, our_email) == normal(right, their_email), name


# --- where our binding is stricter, and failures ------------------------------------


@pytest.fixture
async def gate() -> AsyncIterator[tuple[Auth, Core]]:
    """Run the SDK's API with an embedded core of its own."""
    async with (
        serve(CoreSettings()) as core,
        running(settings(core.url)) as sdk,
    ):
        await install_keys(sdk, core.url)
        yield Auth(sdk), core.core


US = "us@example.com"


def sign_in(**values: object) -> Call:
    body = json.dumps(form(**{"email": US, **values})).encode()
    return Call(method="POST", path="/auth/signin", fields=(JSON,), body=body)


@pytest.mark.parametrize("body", [b"[1]", b"5", b'"x"', b"null"])
async def test_json_of_another_kind_is_400(
    gate: tuple[Auth, Core], body: bytes
) -> None:
    """JSON that isn't an object is refused; in the SDK's own binding it is a 500."""
    reply = await handle(gate[0], replace(sign_in(), body=body))
    assert reply is not None
    assert (reply.status, json.loads(reply.body)) == (
        400,
        {"message": "The request body must be a JSON object"},
    )


@pytest.mark.parametrize(
    "call",
    [
        replace(sign_in(password="passw0rd\ud800"), path="/auth/signup"),
        sign_in(email="\udc00@example.com"),
    ],
    ids=["password", "e-mail"],
)
async def test_text_that_cannot_be_encoded_is_400(
    gate: tuple[Auth, Core], call: Call
) -> None:
    """A lone surrogate can't be sent to the core, so the request is refused."""
    with pytest.raises(BadRequest):
        await handle(gate[0], call)


@pytest.mark.parametrize(
    ("api", "email"),
    [("signin", US), ("signup", US), ("user/password/reset", None)],
)
async def test_unknown_tenant_is_404(
    gate: tuple[Auth, Core], api: str, email: str | None
) -> None:
    """A tenant in the path that the core doesn't know is 404, not a gateway failure."""
    body = {"method": "token", "token": "x", **form(email=email)}
    call = Call(
        method="POST",
        path=f"/auth/nope/{api}",
        fields=(JSON,),
        body=json.dumps(body).encode(),
    )
    with pytest.raises(UnknownTenant) as raised:
        await handle(gate[0], call)
    assert raised.value.status == 404


OUTAGES = {
    "error": lambda faults: faults.error(500),
    "limit": lambda faults: faults.error(429),
    "wrong api key": lambda faults: faults.error(401, text="Invalid API key"),
    "not a core": lambda faults: faults.error(404),
    "HTML": lambda faults: faults.garbage(body=b"<html>login</html>"),
    "cut off": lambda faults: faults.garbage(),
    "other JSON": lambda faults: faults.garbage(body=b"{}"),
    "a list": lambda faults: faults.garbage(body=b"[]"),
    "hangs up": lambda faults: faults.disconnect(),
    "hangs": lambda faults: faults.hang(),
}


@pytest.mark.parametrize("break_core", OUTAGES.values(), ids=OUTAGES)
async def test_outage_is_503(
    gate: tuple[Auth, Core], break_core: Callable[[Faults], None]
) -> None:
    """Any fault of the core is an outage, neither 401 nor 500.

    A 401 would make every frontend refresh, or drop its session.
    """
    auth, core = gate
    await handle(auth, replace(sign_in(), path="/auth/signup"))
    signed_in = await handle(auth, sign_in())
    assert signed_in is not None
    response = SdkResponse(status=200, fields=signed_in.fields)
    break_core(core.faults)
    auth._sdk._core._auth_timeout_s = 0.2
    for call in (
        sign_in(),
        Call(
            method="POST",
            path="/auth/session/refresh",
            fields=(response.back("refresh"),),
        ),
        Call(method="POST", path="/auth/signout", fields=(response.back("access"),)),
    ):
        with pytest.raises(CoreUnavailable):
            await handle(auth, call)


async def test_two_refresh_cookies_are_500_with_a_remedy_in_the_log(
    gate: tuple[Auth, Core],
) -> None:
    """The SDK can't handle them without a setting; the error names the setting."""
    call = Call(
        method="POST",
        path="/auth/session/refresh",
        fields=((b"Cookie", b"sRefreshToken=a; sRefreshToken=b"),),
    )
    with pytest.raises(
        GatewayError, match=r"supertokens\.cookie\.older_domain"
    ) as raised:
        await handle(gate[0], call)
    assert raised.value.status == 500


async def test_sign_out_with_a_key_not_yet_known(gate: tuple[Auth, Core]) -> None:
    """After a rotation the new key is fetched once, when a token needs it."""
    auth, core = gate
    sdk = auth._sdk
    wanted: list[str] = []

    async def want(kid: str) -> None:
        wanted.append(kid)
        await install_keys(sdk, sdk.config.core_uris[0])

    await handle(auth, replace(sign_in(), path="/auth/signup"))
    kid = await core.rotate_keys()
    sdk.want_key = want
    signed_in = await handle(auth, sign_in())
    assert signed_in is not None
    assert wanted == []
    access = SdkResponse(status=200, fields=signed_in.fields).back("access")
    for _ in range(2):
        await handle(auth, Call(method="POST", path="/auth/signout", fields=(access,)))
    assert wanted == [kid]


# --- `owns` and `user` -----------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "path", "owned"),
    [
        ("/auth", "/auth", True),
        ("/auth", "/auth/", True),
        ("/auth", "/auth/signin", True),
        ("/auth", "/authorize", False),
        ("/auth", "/AUTH/signin", False),
        ("/auth", "/", False),
        ("/auth", "/api/auth/signin", False),
        ("/api/auth/", "/api/auth/signin", True),
    ],
)
async def test_owns(base: str, path: str, owned: bool) -> None:
    """The API owns its base path and all paths below it, case-sensitively."""
    config = settings("http://localhost:9", api_base_path=base)
    async with running(config) as sdk:
        assert Auth(sdk).owns(path) is owned


async def test_one_call_starts_in_each_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Many calls at once leave others their turns; a refresh doesn't wait for them."""
    started: list[str] = []

    async with running(settings("http://localhost:9")) as sdk:

        async def respond(request: SdkRequest) -> None:
            started.append(request.get_path())

        monkeypatch.setattr(sdk, "respond", respond)

        async def call(path: str) -> None:
            await Auth(sdk).handle(
                method="POST",
                path=path,
                query=b"",
                fields=(),
                body=b"",
                secure=False,
                authority="localhost",
            )

        loop = asyncio.get_running_loop()
        counts: list[int] = []

        def turn() -> None:
            counts.append(len(started))
            if len(started) < 5:
                loop.call_soon(turn)

        paths = ["/auth/signin"] * 4 + ["/auth/session/refresh"]
        tasks = [asyncio.create_task(call(path)) for path in paths]
        loop.call_soon(turn)
        await asyncio.gather(*tasks)
    assert started[0] == "/auth/session/refresh"
    assert max(after - before for before, after in pairwise(counts)) == 1


async def test_a_path_that_a_proxy_removes() -> None:
    """With `api_gateway_path`, requests come without it; tokens and cookies have it."""
    config = settings("http://localhost:9", api_gateway_path="/dev")
    async with running(config) as sdk:
        api = Auth(sdk)
        assert api.owns("/auth/signin")
        assert not api.owns("/dev/auth/signin")
        assert sdk.config.issuer.endswith("/dev/auth")
        # An answer of the SDK's, not None: it has found its own API.
        reply = await api.handle(
            method="GET",
            path="/auth/emailpassword/email/exists",
            query=b"",
            fields=(),
            body=b"",
            secure=False,
            authority="localhost",
        )
        assert reply is not None
        assert reply.status == 400


def test_user() -> None:
    """`/user` answers with the three keys that frontends read; text isn't escaped."""
    session = SessionIdentity(
        user_id="u",
        recipe_user_id="r",
        session_handle="h",
        tenant_id="public",
        claims={"name": "Zoë", "roles": ["a"]},
        expires_at=1.0,
    )
    assert user(session).decode() == (
        '{"sessionHandle":"h","userId":"u",'
        '"accessTokenPayload":{"name":"Zoë","roles":["a"]}}'
    )
