"""The composition root: it builds the gateway of a file, and closes what it opened."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sdk_reset
from faults import FaultUpstream, answer
from hypothesis import example, given
from hypothesis import strategies as st
from stack import Records, Start, no_blocking, running

from gateway import routes, settings
from gateway.app import (
    App,
    BadService,
    forwarded_cache,
    id_maker,
    open_app,
    readers,
)
from gateway.config import Config, InvalidConfig, parse
from gateway.dev.core import ThreadedCore
from gateway.supertokens import RecipeError
from gateway.upstream import UpstreamPool

ROUTES = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens:
  connection_uri: "${CORE}"
  recipes: {emailpassword: {}}
services:
  wide: {targets: ["${UPSTREAM}"], max_connections: 9, keep_alive: 3s}
  narrow: {targets: ["${UPSTREAM}"], max_connections: 2}
  usual: {targets: ["${UPSTREAM}"]}
routes:
  - {path: /wide, service: wide, protected: false}
  - {path: /narrow, service: narrow, protected: false}
  - {path: /usual, service: usual, protected: false}
  - {path: /plan, service: usual, identity: {headers: {X-Plan: "{claims.plan}"}}}
"""


async def test_services_with_one_target_share_the_smallest_limit(start: Start) -> None:
    """The limit is the smallest of the services', whatever their order in the file."""
    gateway = await start(ROUTES)
    (pool,) = pools(gateway.app)
    assert pool.limits.max_connections == 2
    assert pool.keepalive_s == 3.0


TWO = """
version: 1
gateway: {listen: "127.0.0.1:0"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services:
  a: {targets: ["${UPSTREAM}"], tls: {%s}}
  b: {targets: ["${OTHER}"], tls: {%s}}
routes:
  - {path: /a, service: a, protected: false}
  - {path: /b, service: b, protected: false}
"""
LAX = "verify: false"
STRICT = "verify: true"


@pytest.mark.parametrize("content", [None, "no PEM"], ids=["missing", "unreadable"])
@pytest.mark.parametrize("other", ["https://up.invalid", "https://other.invalid"])
@pytest.mark.parametrize("tls", [LAX, STRICT])
@pytest.mark.parametrize("place", ["a", "b"])
async def test_an_unreadable_ca_file_ends_the_start(
    tmp_path: Path,
    closed_port: int,
    place: str,
    tls: str,
    other: str,
    content: str | None,
) -> None:
    """The error names its service, even if another service has the same target."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content, encoding="utf-8")
    broken = f"{tls}, ca_file: {file}"
    path = write(tmp_path, TWO % ((broken, tls) if place == "a" else (tls, broken)))
    environ = {
        "CORE": f"http://127.0.0.1:{closed_port}",
        "UPSTREAM": "https://up.invalid",
        "OTHER": other,
    }
    loaded = settings.load(path, environ)
    before = asyncio.all_tasks()
    with pytest.raises(
        BadService, match=rf"services\.{place}\.tls\.ca_file: .*ca\.pem"
    ):
        async with open_app(loaded.config, loaded.table, observer=Records()):
            pytest.fail("the gateway was built")
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize("first", ["a", "b"])
@pytest.mark.parametrize(
    "tls", [(LAX, STRICT), (STRICT, LAX)], ids=["a is lax", "b is lax"]
)
async def test_one_target_is_verified_by_each_service_s_rules(
    start: Start, self_signed: ssl.SSLContext, tls: tuple[str, str], first: str
) -> None:
    """A service that verifies never reuses a connection of one that doesn't."""
    async with FaultUpstream(answer(), tls=self_signed) as upstream:
        gateway = await start(TWO % tls, UPSTREAM=upstream.url, OTHER=upstream.url)
        lax = "ab"[tls.index(LAX)]
        for name in (first, "ba"["ab".index(first)], first):
            reply = await gateway.ask("GET", f"/{name}")
            assert reply.status == (200 if name == lax else 502)
        assert {each.line for each in upstream.requests} == {
            f"GET /{lax} HTTP/1.1".encode()
        }


async def test_a_routes_own_identity_field_is_removed_on_every_route(
    start: Start, upstream: FaultUpstream
) -> None:
    """A client can't send X-Plan on any route, because one route sets it."""
    gateway = await start(ROUTES)
    reply = await gateway.ask("GET", "/usual", ("X-Plan", "gold"), ("x_plan", "gold"))
    assert reply.status == 200
    assert b"gold" not in upstream.requests[0].head


async def test_everything_opened_is_closed(
    st_core: ThreadedCore, upstream: FaultUpstream, tmp_path: Path
) -> None:
    """After the block there is no task and no connection to an upstream."""
    path = write(tmp_path)
    before = asyncio.all_tasks()
    environ = {"CORE": st_core.url, "UPSTREAM": upstream.url}
    async with running(path, environ, st_core) as gateway:
        assert (await gateway.ask("GET", "/wide")).status == 200
        assert len(asyncio.all_tasks()) > len(before)
        (pool,) = pools(gateway.app)
        assert pool.open == 1
    assert pool.open == 0
    assert asyncio.all_tasks() == before


async def test_building_does_not_wait_for_the_core(
    tmp_path: Path, closed_port: int
) -> None:
    """Without a reachable core the gateway is built, without keys yet."""
    path = write(tmp_path)
    environ = {
        "CORE": f"http://127.0.0.1:{closed_port}",
        "UPSTREAM": "http://up.invalid",
    }
    loaded = settings.load(path, environ)
    async with open_app(loaded.config, loaded.table, observer=Records()) as app:
        assert not app.keys.state().is_usable


async def test_an_invalid_recipe_is_an_error_and_nothing_stays_open(
    tmp_path: Path,
) -> None:
    """The error names the YAML path; no task of the half-built gateway is left."""
    path = write(
        tmp_path,
        "version: 1\nsupertokens: {config_module: no_such_module_anywhere}\n",
    )
    loaded = settings.load(path, {})
    before = asyncio.all_tasks()
    with pytest.raises(RecipeError, match=r"supertokens\.config_module"):
        async with open_app(loaded.config, loaded.table, observer=Records()):
            pytest.fail("the gateway was built")
    assert asyncio.all_tasks() == before


MODULE = """\
from supertokens_python import InputAppInfo, SupertokensConfig
from supertokens_python.recipe import emailpassword, emailverification, session
from supertokens_python.recipe import multifactorauth, userroles

ORIGIN = "http://localhost:8000"
app_info = InputAppInfo(app_name="a", api_domain=ORIGIN, website_domain=ORIGIN)
supertokens_config = SupertokensConfig("http://localhost:1")
recipe_list = [session.init(), emailpassword.init(), %s]
"""


@pytest.mark.parametrize(
    ("key", "required", "recipe", "init"),
    [
        ("mfa", "true", "multifactorauth", "multifactorauth.init()"),
        ("roles", "{any: [a]}", "userroles", "userroles.init()"),
        ("permissions", "{any: [a]}", "userroles", "userroles.init()"),
        (
            *("email_verified", "true", "emailverification"),
            'emailverification.init("OPTIONAL")',
        ),
    ],
)
async def test_a_recipe_that_the_module_lacks_is_an_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    required: str,
    recipe: str,
    init: str,
) -> None:
    """A requirement that no session can meet ends the start, with place and remedy."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    route = f"{{path: /x, upstream: http://a, require: {{{key}: {required}}}}}"
    for name, more in (("lacking", ""), ("having", init)):
        module = f"{name}_{key}"
        (tmp_path / f"{module}.py").write_text(MODULE % more)
        text = f"supertokens: {{config_module: {module}}}\nroutes: [{route}]\n"
        path = write(tmp_path, f"version: 1\n{text}")
        loaded = settings.load(path, {})
        sdk_reset.reset()
        with contextlib.ExitStack() as refused:
            if not more:
                error = rf"routes\[0\]\.require\.{key}: this needs the recipe {recipe}"
                error += rf", which is off\. Add {recipe}\.init\(…\) to .*{module}$"
                refused.enter_context(pytest.raises(RecipeError, match=error))
            async with open_app(loaded.config, loaded.table, observer=Records()):
                pass
    sdk_reset.reset()


async def test_a_validator_that_cannot_be_loaded_is_an_error(tmp_path: Path) -> None:
    """The start fails, and the error names the validator's YAML path."""
    path = write(
        tmp_path,
        ROUTES + "  - {path: /x, service: usual, require: {validators: [os.nope]}}\n",
    )
    loaded = settings.load(path, {"CORE": "http://core", "UPSTREAM": "http://up"})
    place = r"routes\[4\]\.require\.validators\[0\]: can't load os\.nope"
    with pytest.raises(RecipeError, match=place):
        async with open_app(loaded.config, loaded.table, observer=Records()):
            pytest.fail("the gateway was built")


def test_request_ids_are_never_the_same() -> None:
    """A request id is 24 hexadecimal digits; two makers never give the same."""
    make_id, other = id_maker(), id_maker()
    ids = {make_id() for _ in range(500)} | {other() for _ in range(500)}
    assert len(ids) == 1000
    assert all(len(each) == 24 and int(each, 16) >= 0 for each in ids)


def sections(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for mappings with any of *keys*."""
    return st.fixed_dictionaries({}, optional=keys)


def mostly(good: Sequence[str], odd: Sequence[str]) -> st.SearchStrategy[str]:
    """Return a strategy that draws from *good* 19 times in 20, else from *odd*.

    So many of the files pass the check.
    """
    return st.integers(0, 19).flatmap(
        lambda n: st.sampled_from(odd if n == 19 else good)
    )


hosts = mostly(
    ["up", "a_b.c", "10.0.0.1", "[::1]", "up.", "xn--a"],
    ["web-", "a-.b", "0.0.0.0", "127.1", "169.254.0.1", "a" * 64, "::1", "\u00e9"],
)
ports = mostly(["", ":1", ":80", ":65535"], [":0", ":70000", ":3567", ":x"])
targets = st.one_of(
    st.builds("http://{}{}".format, hosts, ports),
    st.builds("https://{}{}/".format, hosts, ports),
    mostly(["unix:/run/a.sock"], ["unix:/" + "a" * 120, "unix:a", "up:80"]),
)
origins = st.builds(
    "http://{}{}".format,
    mostly(["localhost", "127.0.0.1", "0.0.0.0", "169.254.0.1"], ["[::1]", "a b"]),
    mostly(["", ":1", ":0", ":80"], [":x", ":70000"]),
)
set_names = mostly(
    ["X-Plan", "X-User-Id", "X-Forwarded-User", "Remote-User"],
    ["x.trace", "X-Auth-Status", "X-Real-Ip", "X-Original-Url", "St-A", "Date", "a b"],
)
allowed_names = mostly(["x.trace", "Foo_Bar", "X-A"], ["X_User_Id", "Host", "a b"])
templates = st.lists(
    mostly(["{user_id}", "{claims.a.b}"], ["x-", "{claims.a b}", "{x}", "{"]),
    min_size=1,
    max_size=3,
).map("".join)
gateway_routes = st.builds(
    lambda path, service, keys: {"path": path} | service | keys,
    mostly(["/", "/a", "/a/b", "/\u00e9", "/user"], ["/auth/x", "/a//b", "a"]),
    st.one_of(
        targets.map(lambda url: {"upstream": url}),
        mostly(["a"], ["b", "c"]).map(lambda name: {"service": name}),
    ),
    sections(
        protected=st.sampled_from([True, False, "optional"]),
        host_header=mostly(["upstream", "preserve", "a-:1", "[::1]"], ["x y"]),
        forward_credentials=st.booleans(),
        identity=st.dictionaries(set_names, templates, max_size=2).map(
            lambda headers: {"headers": headers}
        ),
        request=st.lists(allowed_names, max_size=2).map(
            lambda names: {"allow_field_names": names}
        ),
        require=sections(
            roles=st.just({"any": ["a"]}), tenants=st.just(["t"]), max_age=st.just("1h")
        ),
    ),
)
services = st.lists(targets, min_size=1, max_size=2).map(lambda urls: {"targets": urls})
files = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "supertokens": st.fixed_dictionaries(
            {"connection_uri": st.builds("http://{}:3567/x".format, hosts)},
            optional={
                "api_domain": origins,
                "website_domain": origins,
                "recipes": st.just({"userroles": {}}),
            },
        ),
        "services": st.fixed_dictionaries({"a": services}, optional={"b": services}),
        "routes": st.lists(gateway_routes, max_size=3),
    },
    optional={
        "gateway": sections(
            trusted_proxies=st.lists(mostly(["10.0.0.0/8", "::1"], ["x"]), max_size=2),
            near_misses=mostly(["refuse", "forward"], ["x"]),
        ),
        "cors": st.lists(origins, max_size=2).map(lambda all_: {"allow_origins": all_}),
    },
)


@hypothesis.settings(max_examples=120, deadline=None)
@given(file=files)
@example(file={"version": 1, "services": {"a": {"targets": ["http://web-:8080"]}}})
@example(file={"version": 1, "supertokens": {"api_domain": "http://0.0.0.0:8000"}})
@example(file={"version": 1, "supertokens": {"website_domain": "http://[::1]:3000"}})
def test_property_a_file_that_passes_check_can_be_served(file: dict[str, Any]) -> None:
    """If `gateway check` accepts a file, the gateway can be built from it.

    Its warnings can be computed too. The start refuses no value that the check takes.
    """

    async def build(settings: Config, table: routes.RouteTable) -> None:
        async with open_app(settings, table, observer=Records()) as app:
            named = {service.name for service in table.services()}
            assert app.proxy.dependencies.services.keys() == named

    try:
        settings = parse(file)
        table = routes.compile(settings)
    except InvalidConfig:
        return
    routes.warnings(settings, table)
    sdk_reset.reset()
    asyncio.run(build(settings, table))


# --- the guard against blocking calls -------------------------------------------


def test_guard_sees_a_blocking_call_of_the_gateway() -> None:
    """Even if an error boundary swallows it; the tests' own calls don't count."""
    lines = "import time\ndef nap():\n    time.sleep(0)"
    scope: dict[str, Callable[[], None]] = {}
    exec(compile(lines, settings.__file__, "exec"), scope)

    async def work() -> None:
        time.sleep(0)  # noqa: ASYNC251 - the guard must ignore it
        with contextlib.suppress(Exception):
            scope["nap"]()

    with pytest.raises(AssertionError, match=r"time\.sleep"), no_blocking():
        asyncio.run(work())


def write(folder: Path, text: str = ROUTES) -> Path:
    path = folder / "routes.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def pools(app: App) -> set[UpstreamPool]:
    """Return every pool of every service, once."""
    return {p for s in app.proxy.dependencies.services.values() for p in s.pools}


@pytest.fixture(autouse=True)
def fresh_sdk() -> Iterator[None]:
    """Reset the SDK of this process before and after each test."""
    sdk_reset.reset()
    yield
    sdk_reset.reset()


def test_a_terminator_that_is_not_trusted_is_named_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The operator reads which address to add to `gateway.trusted_proxies`."""
    config = parse({"version": 1})
    reader, _ = readers(routes.compile(config), config.gateway)
    head = reader.read(b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Proto: https\r\n\r\n")
    cache = forwarded_cache(config.gateway)
    for peer in ("192.0.2.1", "192.0.2.2"):
        cache.find(head, peer, "a", secure=False)
    (message,) = caplog.messages
    assert "https from 192.0.2.1 is ignored" in message
    assert "gateway.trusted_proxies" in message
