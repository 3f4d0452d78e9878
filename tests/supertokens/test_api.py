"""The SDK's API through our binding, held against the SDK's own FastAPI binding."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import pytest
from any_core import core_url, new_email
from fastapi import Depends, FastAPI, Request
from fastapi.responses import Response
from sdk_answers import Seen, bearer, cookies, normal
from sdk_reset import running
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
from gateway.supertokens.core import UnknownTenant

JSON = (b"Content-Type", b"application/json")
COOKIE_MODE = (b"st-auth-mode", b"cookie")
HEADER_MODE = (b"st-auth-mode", b"header")
RID = (b"rid", b"session")


# --- one story, told to two bindings -----------------------------------------


@dataclass(frozen=True, kw_only=True)
class Call:
    method: str
    path: str
    query: bytes = b""
    fields: Fields = ()
    body: bytes = b""


Ask = Callable[[Call], Awaitable[Seen]]


@dataclass
class Teller:
    """Makes the calls of the story and writes down what came back."""

    ask: Ask
    email: str
    log: list[tuple[str, Seen]] = field(default_factory=list)

    async def __call__(
        self,
        name: str,
        method: str,
        path: str,
        *fields: tuple[bytes, bytes],
        body: object = None,
        query: bytes = b"",
    ) -> Seen:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields = (JSON, *fields)
        seen = await self.ask(
            Call(
                method=method,
                path=path,
                query=query,
                fields=fields,
                body=body if isinstance(body, bytes) else b"",
            )
        )
        self.log.append((name, seen))
        return seen

    def form(self, **values: object) -> dict[str, object]:
        return form(**{"email": self.email, **values})


def form(**values: object) -> dict[str, object]:
    """A form of the SDK's; a field that is None is left out."""
    return {
        "formFields": [
            {"id": name, "value": value}
            for name, value in {"password": "passw0rd", **values}.items()
            if value is not None
        ]
    }


def anti_csrf(seen: Seen) -> tuple[tuple[bytes, bytes], ...]:
    return tuple((b"anti-csrf", value.encode()) for value in seen.values("anti-csrf"))


async def story(tell: Teller, mails: list[str]) -> None:
    """Everything a frontend does, right and wrong; *mails* takes the links sent."""
    form = tell.form
    # Forms.
    await tell("weak password", "POST", "/auth/signup", body=form(password="x"))
    await tell("bad email", "POST", "/auth/signup", body=form(email="nobody"))
    await tell("no fields", "POST", "/auth/signup", body={})
    await tell("one field", "POST", "/auth/signup", body=form(password=None))
    await tell("number", "POST", "/auth/signup", body=form(password=5))
    await tell("no list", "POST", "/auth/signup", body={"formFields": "x"})
    await tell("broken JSON", "POST", "/auth/signup", JSON, body=b'{"formFields": [')
    await tell("not UTF-8", "POST", "/auth/signup", JSON, body=b'{"a":"\xff"}')
    await tell("deep JSON", "POST", "/auth/signup", JSON, body=b"[" * 100_000)
    await tell("no body", "POST", "/auth/signup")
    # Sign-up and sign-in, in every mode.
    first = await tell("sign up", "POST", "/auth/signup", body=form())
    await tell("sign up again", "POST", "/auth/signup", body=form())
    await tell("old frontend", "POST", "/auth/signin", (b"fdi-version", b"1.17"),
               body=form())  # fmt: skip
    await tell("some frontend", "POST", "/auth/signin", (b"FDI-Version", b"2.0,3.1"),
               body=form())  # fmt: skip
    await tell("unknown mode", "POST", "/auth/signin", (b"st-auth-mode", b"smoke"),
               body=form())  # fmt: skip
    await tell("header mode", "POST", "/auth/signin", HEADER_MODE, body=form())
    await tell("wrong password", "POST", "/auth/signin", body=form(password="w0rd5678"))
    await tell("who?", "POST", "/auth/signin", body=form(email="no@body.example"))
    await tell("other rid", "POST", "/auth/signin", (b"rid", b"thirdparty"),
               body=form())  # fmt: skip
    await tell("anti-csrf rid", "POST", "/auth/signin", (b"rid", b"anti-csrf"),
               body=form())  # fmt: skip
    await tell("public tenant", "POST", "/auth/public/signin", body=form())
    signed_in = await tell("cookies", "POST", "/auth/signin", COOKIE_MODE, body=form())
    # Is the address taken?
    taken = b"email=" + tell.email.replace("@", "%40").encode()
    for path in ("/auth/emailpassword/email/exists", "/auth/signup/email/exists"):
        await tell("exists", "GET", path, query=taken)
        await tell("exists not", "GET", path, query=b"email=no%40body.example")
        await tell("no query", "GET", path)
        await tell("twice", "GET", path, query=b"email=a&" + taken)
    # Sessions.
    access = signed_in.token("access")
    token = first.token("access")
    await tell("header session", "GET", "/protected", bearer(token))
    await tell("cookie session", "GET", "/protected", cookies(sAccessToken=access))
    await tell("write", "POST", "/protected", cookies(sAccessToken=access))
    await tell("write with rid", "POST", "/protected", RID,
               cookies(sAccessToken=access))  # fmt: skip
    await tell("write with token", "POST", "/protected", cookies(sAccessToken=access),
               *anti_csrf(signed_in))  # fmt: skip
    await tell("no session", "GET", "/protected")
    await tell("junk bearer", "GET", "/protected", bearer("junk"))
    await tell("tampered", "GET", "/protected", bearer(token[:-8] + "AAAAAAAA"))
    await tell("junk bearer, good cookie", "GET", "/protected", bearer("a.b.c"),
               cookies(sAccessToken=access))  # fmt: skip
    await tell("two cookies", "GET", "/protected",
               (b"Cookie", f"sAccessToken={access}; sAccessToken={access}".encode()),
               )  # fmt: skip
    await tell("legacy cookie", "GET", "/protected", bearer(token),
               cookies(sIdRefreshToken="x"))  # fmt: skip
    # Refresh, theft included.
    await tell("refresh nothing", "POST", "/auth/session/refresh")
    await tell("refresh junk", "POST", "/auth/session/refresh", bearer("junk"))
    refreshed = await tell("refresh", "POST", "/auth/session/refresh", RID,
                           *anti_csrf(first), first.back("refresh"))  # fmt: skip
    await tell("promote", "GET", "/protected", refreshed.back("access"))
    await tell("theft", "POST", "/auth/session/refresh", RID, *anti_csrf(first),
               first.back("refresh"))  # fmt: skip
    await tell("after theft", "GET", "/protected/db", first.back("access"))
    refresh = signed_in.back("refresh")
    two = signed_in.token("refresh")
    await tell("two refresh cookies", "POST", "/auth/session/refresh", RID,
               (b"Cookie", f"sRefreshToken={two}; sRefreshToken={two}".encode()),
               )  # fmt: skip
    await tell("refresh without rid", "POST", "/auth/session/refresh", refresh)
    await tell("refresh with rid", "POST", "/auth/session/refresh", refresh, RID)
    again = await tell("refresh with token", "POST", "/auth/session/refresh",
                       refresh, RID, *anti_csrf(signed_in))  # fmt: skip
    session = (again.back("access"), RID, *anti_csrf(again))
    await tell("promote again", "GET", "/protected", *session)
    # Mail.
    await tell("verified?", "GET", "/auth/user/email/verify", *session)
    await tell("verified? nobody", "GET", "/auth/user/email/verify")
    await tell("send link", "POST", "/auth/user/email/verify/token", *session)
    link = {"method": "token", "token": "no such token"}
    await tell("bad link", "POST", "/auth/user/email/verify", body=link)
    link["token"] = mails[-1]
    await tell("link", "POST", "/auth/user/email/verify", *session, body=link)
    await tell("used link", "POST", "/auth/user/email/verify", body=link)
    await tell("verified!", "GET", "/auth/user/email/verify", *session)
    await tell("forgotten", "POST", "/auth/user/password/reset/token",
               body=form(password=None))  # fmt: skip
    await tell("unknown", "POST", "/auth/user/password/reset/token",
               body=form(email="no@body.example", password=None))  # fmt: skip
    for name, token, password in (
        ("reset, bad token", "no such token", "passw1rd"),
        ("reset, weak", mails[-1], "x"),
        ("reset", mails[-1], "passw1rd"),
        ("reset, used token", mails[-1], "passw2rd"),
    ):
        await tell(name, "POST", "/auth/user/password/reset",
                   body={"method": "token", "token": token,
                         **form(email=None, password=password)})  # fmt: skip
    await tell("new password", "POST", "/auth/signin", body=form(password="passw1rd"))
    # Signing out.
    await tell("sign out nobody", "POST", "/auth/signout")
    await tell("sign out", "POST", "/auth/signout", *session)
    await tell("signed out", "GET", "/protected/db", *session)
    await tell("sign out by cookie without rid", "POST", "/auth/signout",
               cookies(sAccessToken=access))  # fmt: skip
    # What isn't a form.
    await tell("keys", "GET", "/auth/jwt/jwks.json")
    await tell("configuration", "GET", "/auth/.well-known/openid-configuration")
    await tell("form body", "POST", "/auth/signin",
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
        await tell(f"{method} {path}", method, path)
    await tell("slash", "POST", "/auth/signin/", body=form(password="passw1rd"))


class Links:
    """Keeps the token of each link that the SDK sends."""

    def __init__(self) -> None:
        self.tokens: list[str] = []

    async def send(self, kind: str, to: str, link: str) -> None:
        found = re.search(r"[?&]token=([^&#]+)", link)
        assert found is not None
        self.tokens.append(found[1])


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

    async def ask(call: Call) -> Seen:
        if auth.owns(call.path):
            try:
                reply = await handle(auth, call)
            except GatewayError as error:
                return Seen(status=error.status)
            if reply is None:
                return Seen(status=0)
            return Seen(status=reply.status, fields=reply.fields, body=reply.body)
        session = await sdk.get_session(
            session_request(call.method, call.path, call.fields),
            check_database=call.path.endswith("/db"),
        )
        assert session is not None
        if isinstance(session, Denied):
            return Seen(status=session.status, fields=session.fields, body=session.body)
        return Seen(status=200, fields=session.new_tokens, body=user(session.identity))

    return ask


def theirs() -> Ask:
    """Return the SDK's FastAPI binding, asked as an ASGI server asks it."""
    app = FastAPI()
    app.add_middleware(get_middleware())  # type: ignore[no-untyped-call] # the SDK's

    def protected(path: str, *, check_database: bool) -> None:
        # A dependency for each path: it keeps a user context for all its requests.
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

    async def ask(call: Call) -> Seen:
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
        except Exception:  # noqa: BLE001 - what the SDK lets out is a 500
            return Seen(status=500)
        status = sent[0]["status"]
        if status == 299:
            return Seen(status=0)
        left_out = {b"content-length"}
        if status == 200 and call.path.startswith("/protected"):
            left_out.add(b"access-control-expose-headers")  # `cors` answers that
        return Seen(
            status=status,
            fields=tuple(
                (name, value)
                for name, value in sent[0]["headers"]
                if name not in left_out
            ),
            body=b"".join(message.get("body", b"") for message in sent[1:]),
        )

    return ask


# --- the story under every setting ------------------------------------------------

SETTINGS = {
    "defaults": {},
    "VIA_TOKEN": {"anti_csrf": "VIA_TOKEN"},
    "VIA_CUSTOM_HEADER": {
        # Two sites, so SameSite=None, Secure, and with them the custom header.
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
    """Both bindings give the same status, body, fields and cookies, call by call."""
    links = Links()
    my_email, their_email = new_email("us"), new_email("them")
    with core_url() as url:
        async with running(settings(url, **values), email=links) as sdk:
            await install_keys(sdk, url)
            us, them = Teller(ours(sdk), my_email), Teller(theirs(), their_email)
            await story(us, links.tokens)
            await story(them, links.tokens)
    assert len(us.log) == 81
    for (name, mine), (_, their) in zip(us.log, them.log, strict=True):
        left, right = normal(mine, my_email), normal(their, their_email)
        assert left == right, name


# --- where ours is stricter, and failures ------------------------------------------


@pytest.fixture
async def gate() -> AsyncIterator[tuple[Auth, Core]]:
    """The SDK's API in front of an embedded core of its own."""
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
    """JSON that is no object is refused; FastAPI's binding lets it become a 500."""
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
    """A lone surrogate can't be passed on to the core, and is the client's fault."""
    with pytest.raises(BadRequest):
        await handle(gate[0], call)


@pytest.mark.parametrize(
    ("api", "email"),
    [("signin", US), ("signup", US), ("user/password/reset", None)],
)
async def test_unknown_tenant_is_404(
    gate: tuple[Auth, Core], api: str, email: str | None
) -> None:
    """A tenant in the path that the core doesn't have is no failure of the gateway."""
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
    """Whatever is wrong with the core, it is an outage: not 401, not 500.

    A 401 would make every frontend refresh, or forget its session.
    """
    auth, core = gate
    await handle(auth, replace(sign_in(), path="/auth/signup"))
    signed_in = await handle(auth, sign_in())
    assert signed_in is not None
    seen = Seen(status=200, fields=signed_in.fields)
    break_core(core.faults)
    auth._sdk._core._timeout_s = 0.2
    for call in (
        sign_in(),
        Call(
            method="POST", path="/auth/session/refresh", fields=(seen.back("refresh"),)
        ),
        Call(method="POST", path="/auth/signout", fields=(seen.back("access"),)),
    ):
        with pytest.raises(CoreUnavailable):
            await handle(auth, call)


async def test_two_refresh_cookies_tell_the_operator_what_to_set(
    gate: tuple[Auth, Core],
) -> None:
    """The SDK can't answer that without a setting; the log says which one it is."""
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
    """After a rotation the key is asked for first: no false `try refresh token`."""
    auth, core = gate
    sdk = auth._sdk
    asked: list[str] = []

    async def want(kid: str) -> None:
        asked.append(kid)
        await install_keys(sdk, sdk.facts.core_uris[0])

    await handle(auth, replace(sign_in(), path="/auth/signup"))
    kid = await core.rotate_keys()
    sdk.want_key = want
    signed_in = await handle(auth, sign_in())
    assert signed_in is not None
    assert asked == []
    access = Seen(status=200, fields=signed_in.fields).back("access")
    for _ in range(2):
        await handle(auth, Call(method="POST", path="/auth/signout", fields=(access,)))
    assert asked == [kid]


# --- the small things ------------------------------------------------------------


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
    """The base path is ours, to its segment border."""
    config = settings("http://localhost:9", api_base_path=base)
    async with running(config) as sdk:
        assert Auth(sdk).owns(path) is owned


def test_user() -> None:
    """`/user` answers with the three names the frontends know, text as it is."""
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
