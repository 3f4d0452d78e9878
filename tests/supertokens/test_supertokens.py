"""The SDK: its start, recipes, binding, sessions, keys, core client and mail."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from sdk_reset import reset, running
from session_request import session_request
from starlette.requests import Request
from starlette.responses import Response
from supertokens_python.asyncio import delete_user, get_user
from supertokens_python.exceptions import BadInputError
from supertokens_python.framework.fastapi.fastapi_request import FastApiRequest
from supertokens_python.framework.fastapi.fastapi_response import FastApiResponse
from supertokens_python.querier import Querier
from supertokens_python.recipe.session import asyncio as sessions
from supertokens_python.recipe.session.claim_base_classes import primitive_array_claim
from supertokens_python.recipe.userroles import PermissionClaim, UserRoleClaim
from supertokens_python.recipe.userroles.asyncio import (
    add_role_to_user,
    create_new_role_or_add_permissions,
)
from supertokens_python.utils import (
    get_top_level_domain_for_same_site_resolution as find_site,
)

from gateway import config, responses
from gateway.config import SuperTokensConfig
from gateway.dev.core import CoreSettings, RunningCore, serve
from gateway.errors import (
    BadRequest,
    CoreUnavailable,
    CoreUnlicensed,
    CoreUnusable,
    GatewayError,
)
from gateway.http.fields import Fields, first
from gateway.identity import Denied
from gateway.supertokens import (
    RecipeError,
    Sdk,
    SdkSession,
    check,
    check_domains,
    start,
)
from gateway.supertokens.api import Auth
from gateway.supertokens.binding import SdkReply, SdkRequest
from gateway.supertokens.core import CoreClient
from gateway.supertokens.delivery import Delivery

USER = "user@example.com"
PASSWORDLESS = {"contact_method": "EMAIL_OR_PHONE", "flow_type": "MAGIC_LINK"}


def settings(core_url: str = "http://127.0.0.1:9", **values: Any) -> SuperTokensConfig:
    return SuperTokensConfig.model_validate({"connection_uri": core_url, **values})


# --- importing and starting --------------------------------------------------


def run(program: str) -> str:
    """Run *program* in another Python process and return its output."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_is_light() -> None:
    """Importing `gateway.supertokens` doesn't import the SDK, nor httpx.

    So `gateway check` starts quickly.
    """
    assert (
        run("""
            import sys
            import gateway.supertokens.api, gateway.supertokens
            print({"supertokens_python", "httpx"} & set(sys.modules))
        """)
        == "set()\n"
    )


def test_fastapi_is_never_imported() -> None:
    """The SDK's framework is "fastapi", but no web framework is ever imported."""
    assert (
        run("""
            import asyncio, sys
            from types import SimpleNamespace
            from gateway.supertokens.api import Auth
            from gateway.config import SuperTokensConfig
            from gateway.supertokens import start

            async def main():
                sdk = start(SuperTokensConfig())
                await sdk.get_session(SimpleNamespace(
                    method="GET", path="/", fields=(), is_secure=False, authority=""
                ))
                reply = await Auth(sdk).handle(
                    method="POST", path="/auth/signout", query=b"", fields=(),
                    body=b"", secure=False, authority="",
                )
                await sdk.close()
                frameworks = {"fastapi", "starlette", "flask", "django"}
                print(reply.status, frameworks & set(sys.modules))

            asyncio.run(main())
        """)
        == "401 set()\n"
    )


@pytest.mark.parametrize(
    "begin", ["start(SuperTokensConfig())", "preload(SuperTokensConfig())"]
)
def test_a_start_does_not_import_the_command_of_httpx(begin: str) -> None:
    """Neither httpx's command line nor its libraries are imported at the start.

    The command can still be imported afterwards.
    """
    assert (
        run(f"""
            import sys
            from gateway.config import SuperTokensConfig
            from gateway.supertokens import preload, start

            {begin}
            print({{"httpx._main", "rich", "pygments"}} & set(sys.modules))
            from httpx._main import main
            print(main.name)
        """)
        == "set()\nmain\n"
    )


def test_an_imported_httpx_is_left_alone() -> None:
    """A program that imported httpx before the gateway keeps its `httpx.main`."""
    assert (
        run("""
            import httpx
            before = httpx.main
            from gateway.config import SuperTokensConfig
            from gateway.supertokens import preload

            preload(SuperTokensConfig())
            import httpx._main
            print(httpx.main is before is httpx._main.main)
        """)
        == "True\n"
    )


def test_only_what_is_configured_is_imported() -> None:
    """Recipes that aren't configured, and the SDK's own HTTP client, aren't imported.

    Their imports take as long as all recipes of config/routes.yaml together.
    """
    assert (
        run("""
            import asyncio, sys
            from gateway.config import SuperTokensConfig
            from gateway.supertokens import start

            recipes = {
                "emailpassword": {},
                "emailverification": {"mode": "REQUIRED"},
                "userroles": {},
                "usermetadata": {},
            }

            async def main():
                await start(SuperTokensConfig(recipes=recipes)).close()
                for name in ("dashboard", "passwordless", "webauthn"):
                    print(f"supertokens_python.recipe.{name}" in sys.modules)
                print("httpcore" in sys.modules)

            asyncio.run(main())
        """)
        == "False\n" * 4
    )


async def test_started_twice() -> None:
    """The same settings share one SDK; other settings are refused with a message."""
    async with running(settings()) as sdk:
        again = start(settings())
        assert again.config is sdk.config
        await again.close()
        with pytest.raises(RuntimeError, match="other settings"):
            start(settings(app_name="another"))


async def test_config_of_the_file() -> None:
    """`config` has the SDK's settings with their defaults resolved."""
    values = settings(
        "http://one:3567/;https://two/core/",
        api_domain="https://api.example.com",
        website_domain="https://www.example.org",
        api_base_path="/api/auth/",
        api_key="k" * 20,
        token_transfer_method="header",
        use_dynamic_signing_key=False,
    )
    async with running(values) as sdk:
        config = sdk.config
    assert config.core_uris == ("http://one:3567", "https://two/core")
    assert config.issuer == "https://api.example.com/api/auth"
    assert config.api_key == "k" * 20
    assert config.anti_csrf == "VIA_CUSTOM_HEADER"
    assert config.token_transfer_method == "header"
    assert not config.dynamic_signing_key
    assert (config.session_expired_status, config.invalid_claim_status) == (401, 403)


async def test_cors_headers() -> None:
    """They are the headers that the SDK reads, which browsers may therefore send."""
    async with running(settings()) as sdk:
        assert sdk.cors_headers() == (
            "anti-csrf",
            "authorization",
            "fdi-version",
            "rid",
            "st-auth-mode",
        )


# --- recipes -----------------------------------------------------------------

PROVIDER = {"third_party_id": "google", "clients": [{"client_id": "x"}]}

WRONG_RECIPES: Mapping[str, tuple[Mapping[str, Any], Mapping[str, str]]] = {
    "unknown key": (
        {"userroles": {"skip": True}},
        {"userroles.skip": "unknown key 'skip'"},
    ),
    "usermetadata takes nothing": (
        {"usermetadata": {"x": 1}},
        {"usermetadata.x": "unknown key 'x'"},
    ),
    "mode is missing": (
        {"emailverification": {}},
        {"emailverification": "the key 'mode' is missing"},
    ),
    "mode is wrong": (
        {"emailverification": {"mode": "SOMETIMES"}},
        {"emailverification.mode": "expected 'REQUIRED' or 'OPTIONAL'"},
    ),
    "inside a list": (
        {"thirdparty": {"providers": [PROVIDER, {**PROVIDER, "clients": [{}]}]}},
        {"thirdparty.providers[1].clients[0]": "the key 'client_id' is missing"},
    ),
    "provider twice": (
        {"thirdparty": {"providers": [PROVIDER, PROVIDER]}},
        {"thirdparty.providers[1].third_party_id": "another provider has this id"},
    ),
    "header fields": (
        {
            "thirdparty": {
                "providers": [
                    {
                        **PROVIDER,
                        "user_info_endpoint_headers": {
                            "X Y": "1",
                            "X-End": "hunter2\n",
                            "X-Split": "a\r\nb: c",
                            "X-Good": "a b",
                            "X-None": None,
                        },
                    }
                ]
            }
        },
        {
            "thirdparty.providers[0].user_info_endpoint_headers.X Y": "this isn't a"
            " field name: use letters, digits and -",
            "thirdparty.providers[0].user_info_endpoint_headers.X-End": "this is sent"
            " in a header field, so it can't begin or end with a blank or line break",
            "thirdparty.providers[0].user_info_endpoint_headers.X-Split": "this is sent"
            " in a header field, so it must be printable ASCII",
        },
    ),
    "all at once": (
        {"passwordless": {**PASSWORDLESS, "flow": 1}, "dashboard": {"admins": "me"}},
        {
            "passwordless.flow": "unknown key 'flow'",
            "dashboard.admins": "expected a list",
        },
    ),
}


@pytest.mark.parametrize(
    ("recipes", "problems"), WRONG_RECIPES.values(), ids=WRONG_RECIPES
)
def test_wrong_recipes(recipes: Mapping[str, Any], problems: Mapping[str, str]) -> None:
    """Each problem names its YAML path; the start fails with the first of them."""
    messages = {finding.path: finding.message for finding in check(recipes)}
    assert messages == {
        f"supertokens.recipes.{path}": message for path, message in problems.items()
    }
    reset()
    with pytest.raises(RecipeError) as raised:
        start(settings(recipes=recipes))
    assert raised.value.path == next(iter(messages))


EVERY_RECIPE: Mapping[str, Any] = {
    "emailpassword": {"sign_up_feature": {"form_fields": [{"id": "name"}]}},
    "emailverification": {"mode": "REQUIRED"},
    "userroles": {"skip_adding_permissions_to_access_token": True},
    "usermetadata": {},
    "thirdparty": {
        "providers": [
            {
                **PROVIDER,
                "user_info_map": {"from_user_info_api": {"user_id": "sub"}},
            }
        ]
    },
    "passwordless": PASSWORDLESS,
    "multitenancy": {},
    "dashboard": {"admins": ["root@example.com"]},
    "accountlinking": {"should_automatically_link": True},
    "multifactorauth": {"first_factors": ["emailpassword", "webauthn"]},
    "totp": {"issuer": "Example", "default_skew": 0, "default_period": 60},
    "webauthn": {"relying_party_id": "example.com", "relying_party_name": "Example"},
    "jwt": {"jwt_validity_seconds": 60},
}


@pytest.mark.parametrize("contact", ["EMAIL", "PHONE", "EMAIL_OR_PHONE"])
async def test_every_recipe_starts(contact: str) -> None:
    """All recipes of the schema start together."""
    recipes = {
        **EVERY_RECIPE,
        "passwordless": {**PASSWORDLESS, "contact_method": contact},
    }
    assert check(recipes) == ()
    async with running(settings(recipes=recipes)):
        from supertokens_python import is_recipe_initialized

        assert all(is_recipe_initialized(name) for name in (*recipes, "session"))


async def test_a_domain_without_a_site_is_an_error_at_its_key() -> None:
    """The SDK can't start with a public suffix as its domain."""
    reset()
    values = settings(
        api_domain="https://co.uk",
        website_domain="https://www.example.org",
    )
    with pytest.raises(RecipeError, match=r"no site for https://co\.uk") as raised:
        start(values)
    assert raised.value.path == "supertokens.api_domain"
    reset()


NO_SITE = "http://app"


LOOK_UPS = [
    # anti_csrf, same_site, secure, transfer, api_domain, is the website looked up?
    (None, None, None, "any", "https://api.io", True),
    (None, None, None, "header", "https://api.io", True),
    (None, "lax", None, "any", "https://api.io", False),
    (None, "none", None, "cookie", "https://api.io", False),
    (None, "none", False, "cookie", "https://api.io", False),
    (None, "none", None, "cookie", "http://127.0.0.1", True),
    (None, "none", True, "cookie", "http://127.0.0.1", False),
    (None, "none", None, "header", "http://localhost", False),
    ("NONE", None, None, "header", "https://api.io", False),
    ("NONE", None, None, "any", "https://api.io", True),
    ("VIA_TOKEN", None, None, "cookie", "https://api.io", True),
    ("VIA_TOKEN", "strict", None, "cookie", "https://api.io", False),
    ("VIA_CUSTOM_HEADER", "none", None, "any", "http://localhost", True),
]


async def test_only_a_site_that_the_sdk_looks_up_is_needed(
    core: RunningCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A website without a site is refused if a start or a sign-in would look it up."""
    looked_up: list[str] = []
    async with running(settings(core.url)) as sdk:
        assert (await Person(sdk, core).post("signup")).status == 200

    def noted(url: str) -> str:
        looked_up.append(url)
        return str(find_site(url))

    monkeypatch.setattr(
        "supertokens_python.supertokens.get_top_level_domain_for_same_site_resolution",
        noted,
    )
    for anti_csrf, same_site, secure, transfer, api, expected in LOOK_UPS:
        values = settings(
            core.url,
            api_domain=api,
            website_domain=NO_SITE,
            anti_csrf=anti_csrf,
            cookie={"same_site": same_site, "secure": secure},
            token_transfer_method=transfer,
        )
        refused = [
            finding.path
            for finding in check_domains(values)
            if "finds no site" in finding.message
        ]
        assert refused == ["supertokens.website_domain"] * expected, values
        looked_up.clear()
        with monkeypatch.context() as unchecked, contextlib.suppress(Exception):
            unchecked.setattr("gateway.supertokens.check_domains", lambda _: ())
            async with running(values) as sdk:
                mode = b"header" if transfer == "header" else b"cookie"
                await Person(sdk, core).post("signin", (b"st-auth-mode", mode))
        reset()
        assert (NO_SITE in looked_up) == expected, values


# --- config_module -----------------------------------------------------------

MODULE = """
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.recipe import emailpassword, session

app_info = InputAppInfo(
    app_name="theirs",
    api_domain="https://api.example.com",
    website_domain="https://example.com",
    api_base_path="/api",
)
supertokens_config = SupertokensConfig(connection_uri="http://theirs:3567")
recipe_list = [session.init(anti_csrf="VIA_TOKEN"), emailpassword.init()]
"""


@pytest.fixture
def write_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], str]:
    """Write the text of a module and return its dotted name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    names: list[str] = []

    def write(text: str) -> str:
        name = f"settings_{tmp_path.name.replace('-', '_')}"
        (tmp_path / f"{name}.py").write_text(text)
        names.append(name)
        return name

    reset()
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return write


async def test_config_module(write_module: Callable[[str], str]) -> None:
    """The module's settings are used instead of those in routes.yaml."""
    values = settings(config_module=write_module(MODULE))
    async with running(values) as sdk:
        assert sdk.config.core_uris == ("http://theirs:3567",)
        assert sdk.config.issuer == "https://api.example.com/api"
        assert sdk.config.anti_csrf == "VIA_TOKEN"
        assert sdk.config.token_transfer_method == "any"


async def test_config_module_with_functions(
    write_module: Callable[[str], str],
) -> None:
    """A setting that a function of the module decides is None in `config`."""
    text = MODULE.replace(
        'website_domain="https://example.com"', 'origin=lambda *_: "https://a.example"'
    ).replace('anti_csrf="VIA_TOKEN"', "get_token_transfer_method=lambda *_: 'header'")
    async with running(settings(config_module=write_module(text))) as sdk:
        assert sdk.config.anti_csrf is None
        assert sdk.config.token_transfer_method is None


async def test_config_module_with_an_override_that_refuses(
    write_module: Callable[[str], str],
) -> None:
    """A refusal by an override gets the SDK's reply for that error."""
    text = (
        """
from supertokens_python.exceptions import BadInputError

def functions(original):
    async def get_session(*_, **__):
        raise BadInputError("come back on Monday")
    original.get_session = get_session
    return original
"""
        + MODULE
    ).replace(
        'anti_csrf="VIA_TOKEN"',
        "override=session.SessionOverrideConfig(functions=functions)",
    )
    async with running(settings(config_module=write_module(text))) as sdk:
        denied = await sdk.get_session(session_request())
    assert isinstance(denied, Denied)
    assert (denied.status, denied.reason) == (400, "refused")
    assert denied.body == b'{"message":"come back on Monday"}'


WRONG_MODULES = {
    "fails": ("1 / 0", "can't import .*: ZeroDivisionError"),
    "imports nothing there": ("import no_such_module", "can't import .*no_such_module"),
    "empty": ("", "has no recipe_list"),
    "no list": (MODULE + "recipe_list = 5", "recipe_list isn't a list"),
    "empty list": (MODULE + "recipe_list = []", "recipe_list is empty"),
    "app_info": (MODULE + "app_info = {}", "app_info isn't a InputAppInfo"),
    "config": (MODULE + "supertokens_config = None", "has no supertokens_config"),
    "key": (
        MODULE.replace('"http://theirs:3567"', '"http://theirs", api_key="hunter2\\n"'),
        "supertokens_config.api_key is sent in a header field",
    ),
    "no session": (MODULE + "recipe_list = recipe_list[1:]", "no session recipe"),
    "refused": (MODULE + "recipe_list *= 2", "refuses this: .*already been init"),
    "no site of the API": (
        MODULE.replace("https://api.example.com", "https://co.uk"),
        "refuses this: .*apiDomain and websiteDomain",
    ),
    "root": (MODULE.replace('"/api"', '"/"'), "api_base_path is the root"),
    "starts by itself": (
        MODULE
        + "import supertokens_python as s\n"
        + "s.init(app_info=app_info, supertokens_config=supertokens_config,"
        + " framework='fastapi', recipe_list=recipe_list)",
        "calls supertokens_python.init",
    ),
}


@pytest.mark.parametrize(("text", "message"), WRONG_MODULES.values(), ids=WRONG_MODULES)
def test_wrong_config_module(
    write_module: Callable[[str], str], text: str, message: str
) -> None:
    """Any fault of the module is one error that describes it."""
    with pytest.raises(RecipeError, match=message) as raised:
        start(settings(config_module=write_module(text)))
    assert raised.value.path == "supertokens.config_module"
    reset()


@pytest.mark.parametrize(
    ("settings_of_module", "is_refused"),
    [
        ('session.init(anti_csrf="VIA_TOKEN")', True),
        ("session.init()", True),
        ('session.init(cookie_same_site="lax")', False),
        ('session.init(anti_csrf="NONE", get_token_transfer_method=by_header)', False),
        ("session.init(get_token_transfer_method=by_header)", True),
    ],
)
async def test_config_module_whose_website_has_no_site(
    write_module: Callable[[str], str], settings_of_module: str, is_refused: bool
) -> None:
    """It is refused if the SDK looks the site up: at the start, or for a cookie."""
    text = "by_header = lambda *_: 'header'\n" + MODULE.replace(
        '"https://example.com"', f'"{NO_SITE}"'
    ).replace('session.init(anti_csrf="VIA_TOKEN")', settings_of_module)
    assert NO_SITE in text
    assert settings_of_module in text
    values = settings(config_module=write_module(text))
    if is_refused:
        with pytest.raises(RecipeError, match=r"finds no site .*app_info") as raised:
            start(values)
        assert raised.value.path == "supertokens.config_module"
    else:
        async with running(values) as sdk:
            assert sdk.config.core_uris == ("http://theirs:3567",)
    reset()


def test_missing_config_module() -> None:
    """A module that doesn't exist is an error too."""
    reset()
    with pytest.raises(RecipeError, match=r"can't import no\.such\.module"):
        start(settings(config_module="no.such.module"))


# --- the binding, compared with FastAPI's ------------------------------------

_NAMES = st.sampled_from(
    [b"Cookie", b"cookie", b"Authorization", b"rid", b"RID", b"Content-Type", b"x_y"]
)
_VALUES = st.binary(max_size=30).map(lambda value: value.replace(b"\n", b""))
_COOKIES = st.lists(
    st.sampled_from(
        [
            b"a=1",
            b"sAccessToken=x",
            b'sAccessToken="q\\"\\054"',
            b"b",
            b"=c",
            b" a = 2 ",
            b'"',
            b'a="1',
            b'a=1"',
            b"a=\xff",
            b"a=b=c",
        ]
    )
).map(b";".join)


@given(
    fields=st.lists(st.tuples(_NAMES, _VALUES), max_size=6),
    cookie=st.none() | _COOKIES | _VALUES,
    query=st.binary(max_size=30) | st.sampled_from([b"a=1&a=2&b=%ff&c", b"+=%20"]),
    body=st.binary(max_size=20) | st.sampled_from([b'{"a": 1}', b"[", b"a=b&c=d"]),
)
async def test_a_request_reads_as_in_fastapi(
    fields: list[tuple[bytes, bytes]], cookie: bytes | None, query: bytes, body: bytes
) -> None:
    """With any bytes, fields, cookies, query, form and JSON read as in its binding.

    The requests have one Cookie field at most, because our binding joins several.
    """
    sent = tuple(field for field in fields if field[0].lower() != b"cookie")
    if cookie is not None:
        sent = (*sent, (b"Cookie", cookie))

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    theirs = FastApiRequest(
        Request(
            {
                "type": "http",
                "method": "POST",
                "scheme": "http",
                "path": "/a",
                "root_path": "",
                "query_string": query,
                "headers": [(name.lower(), value) for name, value in sent],
                "server": ("h", 80),
            },
            receive,
        )
    )
    ours = SdkRequest(
        method="POST", path="/a", query=query, fields=sent, body=body, authority="h"
    )
    assert ours.method() == theirs.method()
    assert ours.get_query_params() == theirs.get_query_params()
    assert ours.get_query_param("a", "-") == theirs.get_query_param("a", "-")
    for name in ("COOKIE", "authorization", "Rid", "content-type", "x_y", "x-y"):
        assert ours.get_header(name) == theirs.get_header(name)
    for name in ("a", "b", "", "sAccessToken", "A"):
        assert ours.get_cookie(name) == theirs.get_cookie(name)
    assert await _outcome(ours.form_data) == await _outcome(theirs.form_data)
    expected = await theirs.json()
    if isinstance(expected, dict):
        assert await ours.json() == expected
    else:
        with pytest.raises(BadInputError):
            await ours.json()


async def _outcome(read: Callable[[], Any]) -> object:
    try:
        return await read()
    except ValueError as error:
        return type(error)


def test_two_cookie_fields_are_read_as_one() -> None:
    """The SDK sees a second access token in a second Cookie field."""
    request = SdkRequest(
        method="GET",
        path="/",
        fields=((b"cookie", b"sAccessToken=a"), (b"Cookie", b"sAccessToken=b")),
    )
    assert request.get_header("cookie") == "sAccessToken=a; sAccessToken=b"


@pytest.mark.parametrize(
    ("secure", "query", "url"),
    [
        (False, b"", "http://host:1/auth/x"),
        (True, b"a=%20&b", "https://host:1/auth/x?a=%20&b"),
    ],
)
def test_original_url(secure: bool, query: bytes, url: str) -> None:
    """The URL has the request's scheme, authority, path and query."""
    request = SdkRequest(
        method="GET", path="/auth/x", query=query, secure=secure, authority="host:1"
    )
    assert request.get_original_url() == url


def test_session_of_a_request() -> None:
    """The SDK keeps its session on the request; at first there is none."""
    request = SdkRequest(method="GET", path="/")
    assert request.get_session() is None
    session: Any = object()
    request.set_session(session)
    assert request.get_session() is session
    request.set_session_as_none()
    assert request.get_session() is None


_HEADER = st.sampled_from(["Front-Token", "front-token", "X", "anti-csrf"])
_TEXT = st.text('abc%/="é;, ', max_size=8)
_WRITES = st.one_of(
    st.tuples(st.just("set_header"), _HEADER, _TEXT),
    st.tuples(st.just("remove_header"), _HEADER),
    st.tuples(
        st.just("set_cookie"),
        st.sampled_from(["sAccessToken", "b"]),
        _TEXT,
        st.just(0),
        st.sampled_from(["/", "/auth/session/refresh"]),
        st.none() | st.just(".example.com"),
        st.booleans(),
        st.booleans(),
        st.sampled_from(["lax", "strict", "none"]),
    ),
    st.tuples(st.just("set_status_code"), st.sampled_from([200, 401, 302])),
    st.tuples(st.just("set_json_content"), st.just({"é": [1.5, None, "<"]})),
    st.tuples(st.just("set_html_content"), st.just("<p>é</p>")),
    st.tuples(st.just("redirect"), st.sampled_from(["/a?b=é", "https://x/"])),
)


@given(st.lists(_WRITES, max_size=12))
def test_a_reply_is_written_as_in_fastapi(writes: list[tuple[Any, ...]]) -> None:
    """Any sequence of writes gives FastAPI's fields, cookies, status and body."""
    original = Response()
    ours, theirs = SdkReply(), FastApiResponse(original)
    for name, *arguments in writes:
        getattr(ours, name)(*arguments)
        getattr(theirs, name)(*arguments)
        for header in ("front-token", "X", "Set-Cookie", "LOCATION"):
            assert ours.get_header(header) == theirs.get_header(header)
    assert ours.status_code == original.status_code
    assert ours.body == original.body
    assert [(name.lower(), value) for name, value in ours.fields] == [
        field for field in original.raw_headers if field[0] != b"content-length"
    ]


def test_the_expiry_of_a_cookie_is_rounded_up() -> None:
    """It is rounded up to a full second, so that no cookie expires early."""
    reply = SdkReply()
    reply.set_cookie("a", "b", 1_700_000_000_001)
    reply.set_cookie("a", "b", 1_700_000_001_000)
    assert [value for _, value in reply.fields] == [
        b"a=b; expires=Tue, 14 Nov 2023 22:13:21 GMT; Path=/; SameSite=lax"
    ] * 2


@pytest.mark.parametrize("end", ["\r", "\n", "\0"])
def test_a_value_cannot_end_its_field(end: str) -> None:
    """The SDK puts client input into Location; a line break in it raises ValueError."""
    with pytest.raises(ValueError, match="line break"):
        SdkReply().redirect(f"/{end}Set-Cookie: a=b")


# --- a user with a session ---------------------------------------------------


class Person:
    """A user of the SDK's API, with the tokens of the last reply."""

    def __init__(self, sdk: Sdk, core: RunningCore) -> None:
        self.sdk = sdk
        self.core = core
        self.auth = Auth(sdk)
        self.fields: Fields = ()

    async def post(self, api: str, *fields: tuple[bytes, bytes]) -> responses.Response:
        form = [{"id": "email", "value": USER}, {"id": "password", "value": "passw0rd"}]
        reply = await self.auth.handle(
            method="POST",
            path=f"/auth/{api}",
            query=b"",
            fields=fields,
            body=json.dumps({"formFields": form}).encode(),
            secure=False,
            authority="localhost",
        )
        assert reply is not None
        if first(reply.fields, b"st-access-token"):
            self.fields = reply.fields
        return reply

    @property
    def access(self) -> tuple[bytes, bytes]:
        return (b"Authorization", b"Bearer " + self.token(b"st-access-token"))

    @property
    def refresh(self) -> tuple[bytes, bytes]:
        return (b"Authorization", b"Bearer " + self.token(b"st-refresh-token"))

    def token(self, name: bytes) -> bytes:
        token = first(self.fields, name)
        assert token is not None
        return token

    async def session(
        self, *fields: tuple[bytes, bytes], method: str = "GET", **how: Any
    ) -> SdkSession | Denied | None:
        return await self.sdk.get_session(
            session_request(method, fields=fields or (self.access,)),
            **how,
        )


async def jwks(core: RunningCore) -> list[dict[str, Any]]:
    from supertokens_python.normalised_url_path import NormalisedURLPath

    answer = await Querier.get_instance().send_get_request(
        NormalisedURLPath("/.well-known/jwks.json"), None, None
    )
    core.core.faults.forget_calls()
    keys: list[dict[str, Any]] = answer["keys"]
    return keys


@pytest.fixture
async def core() -> AsyncIterator[RunningCore]:
    """Run an embedded core for one test."""
    async with serve(CoreSettings()) as running_core:
        yield running_core


@pytest.fixture
async def person(core: RunningCore) -> AsyncIterator[Person]:
    """Return a signed-up user; the core's keys are installed."""
    async with running(settings(core.url)) as sdk:
        user = Person(sdk, core)
        await user.post("signup")
        sdk.install_keys(await jwks(core))
        yield user


async def test_a_good_session(person: Person) -> None:
    """A good token gives its identity without a call to the core."""
    session = await person.session()
    assert isinstance(session, SdkSession)
    identity = session.identity
    assert identity.user_id == identity.recipe_user_id == identity.claims["sub"]
    assert identity.session_handle == identity.claims["sessionHandle"]
    assert identity.tenant_id == "public"
    assert identity.expires_at == identity.claims["exp"] > time.time()
    assert session.new_tokens == ()
    assert person.core.core.faults.calls == []


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "TRACE", "X"])
async def test_every_method_is_verified(person: Person, method: str) -> None:
    """The SDK's FastAPI dependency doesn't verify OPTIONS; our binding does."""
    assert isinstance(await person.session(method=method), SdkSession)
    denied = await person.session((b"x", b"y"), method=method)
    assert isinstance(denied, Denied)


async def test_no_session_where_none_is_required(person: Person) -> None:
    """Without a token the session is None; an invalid token is refused all the same."""
    assert await person.session((b"x", b"y"), required=False) is None
    bad = (person.access[0], person.access[1][:-8] + b"AAAAAAAA")
    denied = await person.session(bad, required=False)
    assert isinstance(denied, Denied)
    assert denied.reason == "try_refresh_token"


async def test_new_tokens_after_a_refresh(person: Person) -> None:
    """The first request after a refresh gets the new token, and no CORS field."""
    await person.post("session/refresh", person.refresh)
    session = await person.session()
    assert isinstance(session, SdkSession)
    names = [name.lower() for name, _ in session.new_tokens]
    assert names == [b"front-token", b"st-access-token"]
    used = await person.session(
        (b"Authorization", b"Bearer " + session.new_tokens[1][1])
    )
    assert isinstance(used, SdkSession)
    assert used.new_tokens == ()


async def test_revoked_in_the_core(person: Person) -> None:
    """With `check_database`, a session revoked at the core is refused and cleared."""
    session = await person.session()
    assert isinstance(session, SdkSession)
    await sessions.revoke_all_sessions_for_user(session.identity.user_id)
    assert isinstance(await person.session(), SdkSession)
    denied = await person.session(check_database=True)
    assert isinstance(denied, Denied)
    assert (denied.status, denied.body) == (401, b'{"message":"unauthorised"}')
    assert first(denied.fields, b"front-token") == b"remove"
    assert denied.reason == "unauthorised"


async def test_validators(person: Person) -> None:
    """The refusal is the SDK's 403, with an error for each failed validator."""
    denied = await person.session(
        validators=[
            UserRoleClaim.validators.includes("admin"),
            PermissionClaim.validators.includes("write"),
        ]
    )
    assert isinstance(denied, Denied)
    assert (denied.status, denied.reason) == (403, "invalid_claim")
    body = json.loads(denied.body)
    assert body["message"] == "invalid claim"
    assert [error["id"] for error in body["claimValidationErrors"]] == [
        "st-role",
        "st-perm",
    ]


async def test_a_claim_is_fetched_again(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A validator with a maximum age fetches a role that the user got meanwhile.

    The client gets a new token with it.
    """
    session = await person.session()
    assert isinstance(session, SdkSession)
    await create_new_role_or_add_permissions("admin", ["write"])
    await add_role_to_user("public", session.identity.user_id, "admin")
    monkeypatch.setattr(
        primitive_array_claim,
        "get_timestamp_ms",
        lambda: int(time.time() * 1000) + 2000,
    )
    fresh = UserRoleClaim.validators.includes("admin", max_age_in_seconds=1)
    session = await person.session(validators=[fresh])
    assert isinstance(session, SdkSession)
    assert session.identity.claims["st-role"]["v"] == ["admin"]
    assert first(session.new_tokens, b"st-access-token")


async def test_concurrent_requests_have_a_context_each(person: Person) -> None:
    """Each request has a user context of its own, so replies aren't mixed up."""
    await person.post("session/refresh", person.refresh)
    header = person.access
    results = await asyncio.gather(
        *(
            person.session(header)
            if number % 2
            else person.session(
                (b"Cookie", b"sAccessToken=" + header[1].removeprefix(b"Bearer "))
            )
            for number in range(20)
        )
    )
    for number, session in enumerate(results):
        assert isinstance(session, SdkSession)
        names = [name.lower() for name, _ in session.new_tokens]
        assert names[1] == (b"st-access-token" if number % 2 else b"set-cookie")


# --- keys --------------------------------------------------------------------


async def test_no_keys_yet_is_an_outage(person: Person) -> None:
    """Without keys no token can be checked: an outage, where the SDK answers 401."""
    person.sdk.install_keys([])
    with pytest.raises(CoreUnavailable):
        await person.session()
    with pytest.raises(CoreUnavailable):
        await person.post("signout", person.access)


async def test_the_sdk_never_fetches_keys(
    person: Person, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token with an unknown key id is refused without a call to the core."""

    def fetch(*_: object, **__: object) -> None:
        raise AssertionError("the SDK fetches keys")

    monkeypatch.setattr("requests.get", fetch)
    await person.core.core.rotate_keys()
    await person.post("signin")
    person.core.core.faults.forget_calls()
    denied = await person.session()
    assert isinstance(denied, Denied)
    assert denied.body == b'{"message":"try refresh token"}'
    assert person.core.core.faults.calls == []


async def test_a_wanted_key(person: Person) -> None:
    """A missing key is fetched once for a token, and never for text that isn't one."""
    wanted: list[str] = []

    async def want(kid: str) -> None:
        wanted.append(kid)
        person.sdk.install_keys(await jwks(person.core))

    kid = await person.core.core.rotate_keys()
    await person.post("signin")
    person.sdk.want_key = want
    for junk in (b"Bearer junk", b"Bearer a.b.c", b"Bearer ", b"Basic x"):
        await person.session((b"Authorization", junk))
    assert wanted == []
    for _ in range(2):
        assert isinstance(await person.session(), SdkSession)
    assert wanted == [kid]


async def test_unusable_keys_are_left_out(person: Person) -> None:
    """Invalid keys in the set don't prevent the valid ones from being installed."""
    keys = await jwks(person.core)
    person.sdk.install_keys(
        [
            {"kty": "???", "kid": "d-1"},
            {"kid": "d-2"},
            *keys,
            {"kty": "RSA", "kid": "x"},
        ]
    )
    assert isinstance(await person.session(), SdkSession)


# --- revocation --------------------------------------------------------------


async def _sign_out(person: Person, handle: str) -> None:
    await person.post("signout", person.access)


async def _theft(person: Person, handle: str) -> None:
    stolen = person.refresh
    await person.post("session/refresh", stolen)
    await person.session()
    assert (await person.post("session/refresh", stolen)).status == 401


async def _one(person: Person, handle: str) -> None:
    await sessions.revoke_session(handle)


async def _several(person: Person, handle: str) -> None:
    await sessions.revoke_multiple_sessions([handle])


async def _all(person: Person, handle: str) -> None:
    session = await person.session()
    assert isinstance(session, SdkSession)
    await sessions.revoke_all_sessions_for_user(session.identity.user_id)


async def _deleted_user(person: Person, handle: str) -> None:
    session = await person.session()
    assert isinstance(session, SdkSession)
    await delete_user(session.identity.user_id)


@pytest.mark.parametrize(
    "revoke", [_sign_out, _theft, _one, _several, _all, _deleted_user]
)
async def test_every_revocation_is_reported(
    person: Person, revoke: Callable[[Person, str], Any]
) -> None:
    """Each way to end a session in this process calls `on_revoked` once."""
    session = await person.session()
    assert isinstance(session, SdkSession)
    revoked: list[str] = []
    await _one(person, "no callback yet")
    person.sdk.on_revoked = revoked.append
    await revoke(person, session.identity.session_handle)
    assert revoked == [session.identity.session_handle]


@pytest.mark.parametrize("failing", ["/recipe/session/user", "/user/remove"])
async def test_a_failed_deletion_revokes_nothing(person: Person, failing: str) -> None:
    """A user stays, with the session, if its sessions can't be listed."""
    session = await person.session()
    assert isinstance(session, SdkSession)
    revoked: list[str] = []
    person.sdk.on_revoked = revoked.append
    person.core.core.faults.error(500, failing)
    with pytest.raises(Exception, match="500"):
        await delete_user(session.identity.user_id)
    assert revoked == []
    person.core.core.faults.clear()
    assert await get_user(session.identity.user_id) is not None


async def test_a_failed_sign_out_revokes_nothing(person: Person) -> None:
    """If the core didn't revoke the session, no revocation is reported."""
    revoked: list[str] = []
    person.sdk.on_revoked = revoked.append
    person.core.core.faults.error(500, "/recipe/session/remove")
    with pytest.raises(CoreUnavailable):
        await person.post("signout", person.access)
    assert revoked == []


# --- the client to the core --------------------------------------------------

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[str]:
    """Serve *answer* for every path and yield the URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@contextlib.asynccontextmanager
async def client(*hosts: str, **values: Any) -> AsyncIterator[CoreClient]:
    core_client = CoreClient(config.CoreConfig.model_validate(values), hosts)
    try:
        yield core_client
    finally:
        await core_client.aclose()


async def ok(_: web.Request) -> web.Response:
    return web.json_response({"status": "OK"})


async def test_connections_are_reused() -> None:
    """Successive calls share one connection, whatever their method."""
    connections = set()

    async def answer(request: web.Request) -> web.Response:
        connections.add(request.transport)
        return await ok(request)

    async with serving(answer) as url, client() as http:
        for call in (http.get, http.post, http.put, http.delete):
            async with http as entered:  # as the Querier does, for each call
                assert entered is http
                await call(url)
    assert len(connections) == 1


async def test_the_first_call_may_be_cancelled() -> None:
    """The HTTP client that it began to create serves the next calls."""
    async with serving(ok) as url, client() as http:
        first_call = asyncio.create_task(http.get(url))
        await asyncio.sleep(0)  # it waits for the client
        first_call.cancel()
        replies = await asyncio.gather(http.get(url), http.get(url))
        with pytest.raises(asyncio.CancelledError):
            await first_call
    assert [reply.status_code for reply in replies] == [200, 200]


async def test_concurrent_calls_are_limited() -> None:
    """At most `max_concurrent` calls run at a time; the others wait."""
    running_now, highest, full = 0, 0, asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal running_now, highest
        running_now += 1
        highest = max(highest, running_now)
        if running_now == 3:
            full.set()
        await full.wait()
        await asyncio.sleep(0)
        running_now -= 1
        return await ok(request)

    async with serving(answer) as url, client(max_concurrent=3) as http:
        await asyncio.gather(*(http.get(url) for _ in range(12)))
    assert highest == 3


async def test_one_operation_has_one_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """All calls of an operation share `core.auth_timeout`; time between is free."""
    now = 0.0

    async def answer(request: web.Request) -> web.Response:
        nonlocal now
        now += 2
        return await ok(request)

    monkeypatch.setattr(
        "gateway.supertokens.core_exchange.time", SimpleNamespace(monotonic=lambda: now)
    )
    async with serving(answer) as url, client(auth_timeout=5) as http:
        with http.operation():
            for _ in range(3):
                await http.get(url)
                now += 100  # spent on a third party, not on the core
            with pytest.raises(CoreUnavailable, match="in time"):
                await http.get(url)
        for _ in range(4):
            await http.get(url)  # outside an operation each call has its own deadline


async def test_a_pause_after_429_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK pauses after a 429; the pause counts towards `core.auth_timeout`."""
    now = 0.0

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=429)

    monkeypatch.setattr(
        "gateway.supertokens.core_exchange.time", SimpleNamespace(monotonic=lambda: now)
    )
    async with serving(answer) as url, client(auth_timeout=5) as http:
        with http.operation():
            assert (await http.get(url)).status_code == 429
            now += 6
            with pytest.raises(CoreUnavailable, match="in time"):
                await http.get(url)


async def test_waiting_for_max_concurrent_counts() -> None:
    """A call ends at its deadline, even if it was never sent."""
    hold = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        await hold.wait()
        return await ok(request)

    async with (
        serving(answer) as url,
        client(auth_timeout=0.05, max_concurrent=1) as http,
    ):
        results = await asyncio.gather(
            *(http.get(url) for _ in range(5)), return_exceptions=True
        )
        hold.set()
    assert all(isinstance(result, CoreUnavailable) for result in results)


async def ask_as_the_querier_does(
    status: int, text: str, path: str = "/x?a=secret"
) -> GatewayError:
    """Return what a core's answer to the Querier ends in."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=status, text=text, content_type="text/html")

    async def ask(http: CoreClient, url: str) -> None:
        with http.operation():
            assert (await http.get(url + path)).status_code == status
            raise Exception("SuperTokens core threw an error")

    async with serving(answer) as url, client() as http:
        with pytest.raises(GatewayError) as raised:
            await ask(http, url)
    assert "secret" not in raised.value.detail
    return raised.value


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (400, "No such thing", BadRequest),
        (403, "Only public tenantId can call this app specific API", GatewayError),
        (403, "Email password login not enabled for tenant", GatewayError),
        (403, "You must use the same app to create/update a tenant", GatewayError),
    ],
)
async def test_a_call_that_the_core_refuses_is_not_an_outage(
    status: int, text: str, kind: type[GatewayError]
) -> None:
    """A 400 of the core is a BadRequest; its own 403 is a plain GatewayError.

    The error names the call, without its query.
    """
    error = await ask_as_the_querier_does(status, text)
    assert type(error) is kind
    assert f"GET /x: {status}" in error.detail


FORBIDDEN = "<!doctype html><html><title>HTTP Status 403: Forbidden</title></html>"


@pytest.mark.parametrize(
    ("status", "text", "kind", "remedy"),
    [
        (401, "Invalid API key\n", CoreUnusable, "supertokens.api_key"),
        (400, "cdi-version 5.4 not supported\n", CoreUnusable, "11.3 or newer"),
        (402, "MFA feature is not enabled. Subscribe\n", CoreUnlicensed, "MFA feature"),
        (401, "<html>Authorization Required</html>", CoreUnavailable, "a proxy"),
        (403, FORBIDDEN, CoreUnavailable, "IP filter"),
        (403, '{"message":"Forbidden for this tenant"}', CoreUnavailable, "a proxy"),
        (403, "Forbidden", CoreUnavailable, "a proxy"),
        (403, "", CoreUnavailable, "a proxy"),
        (404, "Not found\n", CoreUnavailable, "connection_uri"),
    ],
)
async def test_a_core_that_refuses_the_gateway(
    status: int, text: str, kind: type[GatewayError], remedy: str
) -> None:
    """It is 503 whatever the client has sent, and the log has the remedy."""
    error = await ask_as_the_querier_does(status, text)
    assert (type(error), error.status) == (kind, 503)
    assert remedy in error.detail
    assert "\n" not in error.detail


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        (["2.7", "5.3", "3.0", "2.21"], "speaks CDI 2.7 to 5.3"),
        (["6.0", "10.1"], "speaks CDI 6.0 to 10.1"),
        ([], "speaks no version"),
        ("5.4", "speaks no version"),
        ([None, {"a": 1}, "x.y"], "speaks no version"),
    ],
)
async def test_a_core_of_another_version(versions: object, words: str) -> None:
    """It is 503 with the versions in the log; the SDK knows a bare exception."""
    text = json.dumps({"versions": versions})
    error = await ask_as_the_querier_does(200, text, "/apiversion?websiteDomain=secret")
    assert (type(error), error.status) == (CoreUnusable, 503)
    assert words in error.detail
    assert "11.3 or newer" in error.detail


async def test_a_missing_licence_is_reported_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Standard error names the feature, once, in the core's own words on one line."""
    words = "OAuth feature is\x1b[31m not\nenabled. " + "x" * 1000

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=402, text=words, content_type="text/html")

    async with serving(answer) as url, client() as http:
        for _ in range(3):
            with pytest.raises(CoreUnlicensed):
                await http.post(f"{url}/recipe/oauth/clients", json={})
    (record,) = caplog.records
    assert (record.name, record.levelname) == ("gateway.core", "WARNING")
    message = record.getMessage()
    assert message.startswith("the core answered 402: OAuth feature is")
    assert message.isprintable()
    assert len(message) < 400


async def test_a_call_that_was_refused_may_be_repeated() -> None:
    """A core that refuses the API key hasn't carried a sign-up out."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=401, text="Invalid API key")

    async with serving(answer) as url, client() as http:
        with http.operation(), pytest.raises(CoreUnusable) as raised:
            await http.post(f"{url}/public/recipe/signup", json={"email": "a"})
    assert raised.value.may_repeat


async def test_a_persistent_429_is_an_outage() -> None:
    """If the SDK gives up on a core that answers 429, it is an outage."""

    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=429)

    async def ask(http: CoreClient, url: str) -> None:
        with http.operation():
            await http.get(url)
            raise Exception("SuperTokens core threw an error")

    async with serving(answer) as url, client() as http:
        with pytest.raises(CoreUnavailable, match="limits"):
            await ask(http, url)


async def test_the_message_of_an_unexpected_error_is_not_logged() -> None:
    """A KeyError may quote any data, so only its type is logged."""

    def fail(http: CoreClient) -> None:
        with http.operation():
            raise KeyError("secret")

    async with client() as http:
        with pytest.raises(
            GatewayError, match=r"raised KeyError; .*: no call"
        ) as error:
            fail(http)
    assert "secret" not in error.value.detail


async def test_a_redirect_is_not_followed() -> None:
    """A core never redirects, so a redirect is an outage."""

    async def answer(_: web.Request) -> web.Response:
        raise web.HTTPFound("/elsewhere")

    async with serving(answer) as url, client() as http:
        with pytest.raises(CoreUnavailable, match="302"):
            await http.get(url)


async def test_no_proxy_and_no_cookies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls to the core use no proxy and keep no cookies between calls."""
    cookies = []

    async def answer(request: web.Request) -> web.Response:
        cookies.append(request.headers.get("Cookie"))
        response = await ok(request)
        response.set_cookie("balancer", "1")
        return response

    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with serving(answer) as url, client() as http:
        for _ in range(2):
            await http.get(url)
    assert cookies == [None, None]


@pytest.fixture
def dead_host(closed_port: int) -> str:
    """Return the URL of a closed port."""
    return f"http://127.0.0.1:{closed_port}"


async def test_a_dead_host_is_skipped(core: RunningCore, dead_host: str) -> None:
    """If one of two hosts is dead, every call succeeds, even the first."""
    async with running(settings(f"{dead_host};{core.url}")) as sdk:
        person = Person(sdk, core)
        assert (await person.post("signup")).status == 200
        replies = await asyncio.gather(*(person.post("signin") for _ in range(10)))
        assert {reply.status for reply in replies} == {200}


async def test_a_dead_host_is_tried_last(
    monkeypatch: pytest.MonkeyPatch, dead_host: str
) -> None:
    """A host that refused a connection is tried after the others for a minute."""
    now = 0.0
    monkeypatch.setattr(
        "gateway.supertokens.core.time", SimpleNamespace(monotonic=lambda: now)
    )
    async with serving(ok) as url, client(dead_host, f"{url}/base", dead_host) as http:
        assert (await http.get(f"{dead_host}/x")).url == f"{url}/base/x"
        hosts = [host for host, _ in http._urls(f"{dead_host}/x")]
        assert hosts == [f"{url}/base", dead_host, dead_host]
        now += 60
        assert http._urls(f"{dead_host}/x")[0][0] == dead_host


async def test_no_reachable_host(dead_host: str) -> None:
    """If every host is dead, a call is an outage."""
    values = settings(f"{dead_host};{dead_host}")
    async with running(values) as sdk:
        with pytest.raises(CoreUnavailable, match="can't be reached"):
            await Person(sdk, RunningCore).post("signup")  # type: ignore[arg-type] # never asked


async def test_a_call_that_was_sent_is_not_sent_again() -> None:
    """The core may have acted on it: a repeated sign-up would fail."""
    calls = []

    async def hang_up(request: web.Request) -> web.Response:
        calls.append(request.path)
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with (
        serving(hang_up) as one,
        serving(hang_up) as two,
        client(one, two) as http,
    ):
        with pytest.raises(CoreUnavailable, match="broke off"):
            await http.post(f"{one}/x")
    assert calls == ["/x"]


# --- mail and text messages --------------------------------------------------

MAILING = {
    "emailpassword": {},
    "emailverification": {"mode": "OPTIONAL"},
    "passwordless": PASSWORDLESS,
}
PHONE = "+4915112345678"


class Outbox:
    """Records the messages instead of sending them."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, str, str]] = []

    async def send(self, kind: str, to: str, link: str) -> None:
        self.messages.append((kind, to, link))


async def request_all_messages(person: Person) -> None:
    """Request one message of each kind."""
    await person.post("signup")
    person.sdk.install_keys(await jwks(person.core))
    for api, body in (
        ("user/email/verify/token", {}),
        ("user/password/reset/token", {"formFields": [{"id": "email", "value": USER}]}),
        ("signinup/code", {"email": "new@example.com"}),
        ("signinup/code", {"phoneNumber": PHONE}),
    ):
        reply = await person.auth.handle(
            method="POST",
            path=f"/auth/{api}",
            query=b"",
            fields=(person.access,) if api.startswith("user/email") else (),
            body=json.dumps(body).encode(),
            secure=False,
            authority="",
        )
        assert reply is not None
        assert json.loads(reply.body)["status"] == "OK"


async def test_an_injected_sender_gets_every_message(core: RunningCore) -> None:
    """It gets the kind, the address and the link of each."""
    outbox = Outbox()
    values = settings(core.url, recipes=MAILING)
    async with running(values, email=outbox) as sdk:
        await request_all_messages(Person(sdk, core))
    assert [(kind, to) for kind, to, _ in outbox.messages] == [
        ("email_verification", USER),
        ("password_reset", USER),
        ("passwordless", "new@example.com"),
        ("passwordless_sms", PHONE),
    ]
    for _, _, link in outbox.messages:
        assert link.startswith("http://localhost:8000/auth/")


async def test_a_code_is_sent_instead_of_a_link(core: RunningCore) -> None:
    """In a passwordless flow without links the sender gets the code."""
    outbox = Outbox()
    recipes = {
        **MAILING,
        "passwordless": {**PASSWORDLESS, "flow_type": "USER_INPUT_CODE"},
    }
    async with running(settings(core.url, recipes=recipes), email=outbox) as sdk:
        await request_all_messages(Person(sdk, core))
    assert all(link.isdigit() for _, _, link in outbox.messages[-2:])


async def test_a_link_and_its_code_are_both_sent(core: RunningCore) -> None:
    """In a passwordless flow with both, the sender gets a line for each."""
    outbox = Outbox()
    recipes = {
        **MAILING,
        "passwordless": {**PASSWORDLESS, "flow_type": "USER_INPUT_CODE_AND_MAGIC_LINK"},
    }
    async with running(settings(core.url, recipes=recipes), email=outbox) as sdk:
        await request_all_messages(Person(sdk, core))
    for _, _, text in outbox.messages[-2:]:
        link, code = text.split("\n")
        assert link.startswith("http://localhost:8000/auth/verify?")
        assert code.isdigit()


async def test_nothing_is_sent_by_default(
    core: RunningCore, caplog: pytest.LogCaptureFixture
) -> None:
    """Without delivery the log has one warning a kind of message, without links."""
    async with running(settings(core.url, recipes=MAILING)) as sdk:
        person = Person(sdk, core)
        with caplog.at_level(logging.WARNING, "gateway.sdk"):
            for _ in range(2):
                await request_all_messages(person)
    messages = [record.getMessage() for record in caplog.records]
    assert [message.split()[1] for message in messages] == [
        "email_verification",
        "password_reset",
        "passwordless",
        "passwordless_sms",
    ]
    assert all("email_delivery is none" in message for message in messages)
    assert "token=" not in "".join(messages)


async def test_mail_through_smtp(core: RunningCore) -> None:
    """With `smtp` the three mails go to that server; the text message isn't sent."""
    mails: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 test\r\n")
        while (line := await reader.readline()) not in (b"", b"QUIT\r\n"):
            if line == b"DATA\r\n":
                writer.write(b"354 go on\r\n")
                mails.append(await reader.readuntil(b"\r\n.\r\n"))
            writer.write(b"250 ok\r\n")
        writer.write(b"221 bye\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        smtp = {"host": host, "port": port, "from_email": "from@example.com"}
        values = settings(core.url, recipes=MAILING, email_delivery=smtp)
        async with running(values) as sdk:
            await request_all_messages(Person(sdk, core))
    assert len(mails) == 3
    for mail, to in zip(mails, (USER, USER, "new@example.com"), strict=True):
        assert f"To: {to}".encode() in mail


def test_delivery_by_supertokens_is_the_sdks_default() -> None:
    """With `supertokens` the gateway doesn't replace the SDK's delivery."""
    delivery = Delivery("supertokens", None)
    assert delivery.password_reset() is None
    assert delivery.email_verification() is None
    assert delivery.passwordless_mail() is None
    assert delivery.passwordless_sms() is None
