"""The demo services: catalog, orders, whoami and page, and how they run alone."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestClient
from faults import free_ports
from pytest_aiohttp.plugin import AiohttpClient

from gateway.dev.core import CoreSettings, RunningCore, serve
from gateway.dev.demo.__main__ import main
from gateway.dev.demo.admin import Core
from gateway.dev.demo.catalog import ITEMS, catalog
from gateway.dev.demo.orders import MOST_ORDERS, orders
from gateway.dev.demo.page import page
from gateway.dev.demo.whoami import whoami

Client = TestClient[web.Request, web.Application]
ANN = {"X-User-Id": "ann"}
BOB = {"X-User-Id": "bob"}


# --- catalog ----------------------------------------------------------------


async def test_catalog_needs_no_user(aiohttp_client: AiohttpClient) -> None:
    """Without X-User-Id the list and each of its items can be read."""
    client = await aiohttp_client(catalog())
    listed = await (await client.get("/catalog")).json()
    assert [item["sku"] for item in listed["items"]] == list(ITEMS)
    for item in listed["items"]:
        assert await (await client.get(f"/catalog/{item['sku']}")).json() == item
    assert (await client.get("/catalog/nothing")).status == 404


# --- orders -----------------------------------------------------------------


async def test_orders_belong_to_the_user_that_the_gateway_names(
    aiohttp_client: AiohttpClient,
) -> None:
    """`/orders` lists the user's own orders, and `/orders/all` those of all users.

    Only the route table restricts `/orders/all`.
    """
    client = await aiohttp_client(orders())
    created = await client.post("/orders", json={"sku": "mug"}, headers=ANN)
    assert created.status == 201
    assert (await created.json())["quantity"] == 1
    await client.post("/orders", json={"sku": "pen", "quantity": 3}, headers=BOB)

    async def listed(path: str, headers: dict[str, str]) -> list[tuple[str, str, int]]:
        reply = await client.get(path, headers=headers)
        return [
            (order["user_id"], order["sku"], order["quantity"])
            for order in (await reply.json())["orders"]
        ]

    assert await listed("/orders", ANN) == [("ann", "mug", 1)]
    assert await listed("/orders", BOB) == [("bob", "pen", 3)]
    assert await listed("/orders/all", ANN) == [("ann", "mug", 1), ("bob", "pen", 3)]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_orders_without_a_user_is_400(
    aiohttp_client: AiohttpClient, method: str
) -> None:
    """A request without X-User-Id didn't pass the gateway; it isn't served."""
    client = await aiohttp_client(orders())
    reply = await client.request(method, "/orders", json={"sku": "mug"})
    assert reply.status == 400
    assert "X-User-Id" in (await reply.json())["message"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="not JSON"),
        pytest.param(b'"\xff"', id="not UTF-8"),
        pytest.param(b"[]", id="not an object"),
        pytest.param(b"{}", id="no sku"),
        pytest.param(b'{"sku": "yacht"}', id="unknown sku"),
        pytest.param(b'{"sku": ["mug"]}', id="sku not text"),
        pytest.param(b'{"sku": "mug", "quantity": 0}', id="zero"),
        pytest.param(b'{"sku": "mug", "quantity": 100}', id="too many"),
        pytest.param(b'{"sku": "mug", "quantity": true}', id="quantity not a number"),
    ],
)
async def test_bad_order_is_refused(aiohttp_client: AiohttpClient, body: bytes) -> None:
    """An invalid order is 400 with a message, and isn't stored."""
    client = await aiohttp_client(orders())
    reply = await client.post("/orders", data=body, headers=ANN)
    assert reply.status == 400
    assert (await reply.json())["message"]
    assert (await (await client.get("/orders", headers=ANN)).json())["orders"] == []


async def test_orders_of_one_user_are_bounded(aiohttp_client: AiohttpClient) -> None:
    """Beyond the limit a user gets 409, and other users can still order."""
    client = await aiohttp_client(orders())
    for _ in range(MOST_ORDERS):
        created = await client.post("/orders", json={"sku": "mug"}, headers=ANN)
        assert created.status == 201
    again = await client.post("/orders", json={"sku": "mug"}, headers=ANN)
    assert again.status == 409
    other = await client.post("/orders", json={"sku": "mug"}, headers=BOB)
    assert other.status == 201


# --- whoami -----------------------------------------------------------------


async def test_whoami_returns_the_request_as_it_arrived(
    aiohttp_client: AiohttpClient,
) -> None:
    """Headers keep their bytes, order and repeats; the target isn't decoded."""
    client = await aiohttp_client(whoami())
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(
        b"PATCH /a%2fb/?q=%20&q=2 HTTP/1.1\r\nHost: demo\r\nX-User-Id: ann\r\n"
        b"x-twice: 1\r\nX-Auth-Status: authenticated\r\nX-TWICE: \xe9\r\n"
        b"Content-Length: 5\r\nConnection: close\r\n\r\nhello"
    )
    reply = await reader.read()
    writer.close()
    await writer.wait_closed()
    assert json.loads(reply.partition(b"\r\n\r\n")[2]) == {
        "service": "whoami",
        "user_id": "ann",
        "auth_status": "authenticated",
        "method": "PATCH",
        "path": "/a%2fb/",
        "query": "q=%20&q=2",
        "headers": [
            ["Host", "demo"],
            ["X-User-Id", "ann"],
            ["x-twice", "1"],
            ["X-Auth-Status", "authenticated"],
            ["X-TWICE", "é"],
            ["Content-Length", "5"],
            ["Connection", "close"],
        ],
        "body_bytes": 5,
    }


@pytest.mark.parametrize("status", [200, 204, 304, 404, 503])
async def test_whoami_answers_with_the_status_in_the_path(
    aiohttp_client: AiohttpClient, status: int
) -> None:
    """The reply has a body unless the status forbids one."""
    client = await aiohttp_client(whoami())
    reply = await client.get(f"/status/{status}")
    assert reply.status == status
    assert bool(await reply.read()) is (status not in {204, 304})


@pytest.mark.parametrize(
    "path",
    ["/status/100", "/status/600", "/slow?ms=60001", "/slow?ms=-1", "/events?count=0"],
)
async def test_whoami_refuses_numbers_out_of_bounds(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    """A status, delay or count outside its documented range is 400."""
    client = await aiohttp_client(whoami())
    reply = await client.get(path)
    assert reply.status == 400
    assert (await reply.json())["message"]


async def test_whoami_can_be_slow(aiohttp_client: AiohttpClient) -> None:
    """`/slow` answers as usual, but not before its delay is over."""
    client = await aiohttp_client(whoami())
    loop = asyncio.get_running_loop()
    began = loop.time()
    reply = await client.get("/slow?ms=30")
    assert loop.time() - began >= 0.03
    assert (await reply.json())["path"] == "/slow"


async def test_whoami_streams_events(aiohttp_client: AiohttpClient) -> None:
    """The stream has the requested number of events in order, and then ends."""
    client = await aiohttp_client(whoami())
    async with client.get("/events?count=3&interval_ms=1") as reply:
        assert reply.content_type == "text/event-stream"
        text = await reply.text()
    assert re.findall(r"data: (.*)\n\n", text) == [f"tick {n} of 3" for n in (1, 2, 3)]


async def test_whoami_echoes_websocket_messages(aiohttp_client: AiohttpClient) -> None:
    """Text comes back as text, and bytes as bytes; a request without upgrade is 426."""
    client = await aiohttp_client(whoami())
    async with client.ws_connect("/ws") as socket:
        await socket.send_str("grüezi")
        assert await socket.receive_str() == "grüezi"
        await socket.send_bytes(b"\x00\xff")
        assert await socket.receive_bytes() == b"\x00\xff"
    assert (await client.get("/ws")).status == 426


# --- page -------------------------------------------------------------------


class _Links(HTMLParser):
    """Collects the URLs that a page loads, and its inline scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loads += [
            value for name in ("src", "href") if (value := values.get(name)) is not None
        ]
        if tag == "style" or (tag == "script" and "src" not in values):
            self.inline.append(tag)
        self.inline += [name for name in values if name == "style" or name[:2] == "on"]


@pytest.mark.parametrize("path", ["/", "/account/verify-email?token=x"])
async def test_page_loads_only_its_own_files(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    """The page service has every file that the page loads; nothing is inline."""
    client = await aiohttp_client(page())
    reply = await client.get(path)
    assert reply.content_type == "text/html"
    links = _Links()
    links.feed(await reply.text())
    assert links.inline == []
    assert {load.rpartition(".")[2] for load in links.loads} == {"js", "css", "svg"}
    for load in links.loads:
        assert (await client.get(load)).status == 200


@pytest.mark.parametrize("path", ["/", "/page/page.js", "/account/reset-password"])
async def test_page_has_a_strict_policy(
    aiohttp_client: AiohttpClient, path: str
) -> None:
    """It allows scripts from its own origin only, no framing, and sends no Referer."""
    client = await aiohttp_client(page())
    headers = (await client.get(path)).headers
    policy = dict(
        rule.split(" ", 1) for rule in headers["Content-Security-Policy"].split("; ")
    )
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == "'self'"
    assert policy["frame-ancestors"] == "'none'"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["X-Content-Type-Options"] == "nosniff"


# --- the admin role ---------------------------------------------------------


@pytest.fixture
async def core() -> AsyncIterator[RunningCore]:
    """Run an embedded core that requires an API key."""
    settings = CoreSettings(api_keys=("k" * 20,))
    async with serve(settings) as running:
        yield running


async def test_admin_role_is_assigned_through_the_core(
    aiohttp_client: AiohttpClient, core: RunningCore
) -> None:
    """The user of X-User-Id gets the role; a second request changes nothing."""
    client = await aiohttp_client(page(Core(uri=core.url, api_key="k" * 20)))
    body: dict[str, object] = {}
    for had_it in (False, True):
        reply = await client.post("/demo/admin-role", headers=ANN)
        assert reply.status == 200
        body = await reply.json()
        assert body["had_it_already"] is had_it
    async with (
        ClientSession(core.url, headers={"api-key": "k" * 20}) as session,
        session.get("/public/recipe/user/roles?userId=ann") as roles,
    ):
        assert (await roles.json())["roles"] == ["admin"] == [body["role"]]


async def test_admin_role_is_in_the_next_token_of_the_session(
    aiohttp_client: AiohttpClient, core: RunningCore
) -> None:
    """The session's claims have the role and its permission, besides what they had."""
    client = await aiohttp_client(page(Core(uri=core.url, api_key="k" * 20)))
    async with ClientSession(
        core.url, headers={"api-key": "k" * 20, "cdi-version": "5.4"}
    ) as session:
        new = {
            "userId": "ann",
            "userDataInJWT": {"st-role": {"v": ["clerk"], "t": 1}, "own": 1},
            "userDataInDatabase": {},
            "enableAntiCsrf": False,
        }
        async with session.post("/public/recipe/session", json=new) as reply:
            handle = (await reply.json())["session"]["handle"]
        sent = {**ANN, "X-Session-Handle": handle}
        for _ in range(2):
            assert (await client.post("/demo/admin-role", headers=sent)).status == 200
        query = {"sessionHandle": handle}
        async with session.get("/recipe/session", params=query) as reply:
            payload = (await reply.json())["userDataInJWT"]
    assert payload["st-role"]["v"] == ["clerk", "admin"]
    assert payload["st-perm"]["v"] == ["orders:read-all"]
    assert payload["own"] == 1


async def test_admin_role_is_for_users(
    aiohttp_client: AiohttpClient, core: RunningCore
) -> None:
    """A request without X-User-Id is 400."""
    client = await aiohttp_client(page(Core(uri=core.url)))
    assert (await client.post("/demo/admin-role")).status == 400


async def test_admin_role_when_the_core_refuses(
    aiohttp_client: AiohttpClient, core: RunningCore
) -> None:
    """A wrong API key is 503, and the reply doesn't contain the key."""
    client = await aiohttp_client(page(Core(uri=core.url, api_key="wrong")))
    reply = await client.post("/demo/admin-role", headers=ANN)
    assert reply.status == 503
    assert "wrong" not in await reply.text()


async def test_admin_role_when_the_core_is_down(aiohttp_client: AiohttpClient) -> None:
    """If the core can't be reached, the reply is 503."""
    async with serve() as stopped:
        uri = stopped.url
    client = await aiohttp_client(page(Core(uri=uri)))
    assert (await client.post("/demo/admin-role", headers=ANN)).status == 503


async def test_without_a_core_there_is_no_admin_role(
    aiohttp_client: AiohttpClient,
) -> None:
    """Demo services that run for others (compose.yaml) assign no roles."""
    client = await aiohttp_client(page())
    assert (await client.post("/demo/admin-role", headers=ANN)).status == 404


# --- alone ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "--unsafe-bind"),
        (["--host", "::"], "--unsafe-bind"),
        (["--host", "example.com"], "IP address"),
    ],
    ids=["all of IPv4", "all of IPv6", "a name"],
)
def test_demo_services_stay_on_loopback(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They trust X-User-Id, so any other address needs an explicit option."""
    with pytest.raises(SystemExit) as error:
        main(arguments)
    assert error.value.code == 2
    assert message in capsys.readouterr().err


def test_demo_services_refuse_a_bad_port(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command prints one error line, and its exit code is 1."""
    monkeypatch.setenv("ORDERS_PORT", "many")
    assert main([]) == 1
    assert capsys.readouterr().err.startswith("error: ORDERS_PORT must be a port")


async def test_demo_services_run_alone() -> None:
    """Started as in compose.yaml, all four answer, and no admin role is assigned.

    SIGTERM ends them with exit code 0.
    """
    names = ("CATALOG_PORT", "ORDERS_PORT", "WHOAMI_PORT", "PAGE_PORT")
    ports = dict(zip(names, map(str, free_ports(4)), strict=True))
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "gateway.dev.demo",
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **ports},
    )
    assert child.stdout is not None
    async with asyncio.timeout(30), ClientSession() as client:
        assert b"127.0.0.1" in await child.stdout.readline()
        for name, path, status in (
            ("CATALOG", "/catalog", 200),
            ("ORDERS", "/orders", 400),
            ("WHOAMI", "/", 200),
            ("PAGE", "/", 200),
        ):
            url = f"http://127.0.0.1:{ports[f'{name}_PORT']}{path}"
            async with client.get(url) as reply:
                assert reply.status == status, name
        url = f"http://127.0.0.1:{ports['PAGE_PORT']}/demo/admin-role"
        async with client.post(url, headers=ANN) as reply:
            assert reply.status == 404
        child.terminate()
        assert await child.wait() == 0
