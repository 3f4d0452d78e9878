"""The sockets of `gateway.listen`: files of Unix sockets, and who accepts from what."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.x509 import load_pem_x509_certificate
from faults import FaultUpstream
from gateway_under_test import gateway
from processes import command, workers
from tls_rig import Authority, Pair
from wire import DEADLINE_S, Wire, ask, request

from gateway.config import ListenConfig
from gateway.process.listening import (
    assigned,
    close_listens,
    open_listens,
    overriding,
    socket_count,
    urls,
)
from gateway.process.sockets import ListenError


def listens(*items: Any) -> list[ListenConfig]:
    return [ListenConfig.model_validate(item) for item in items]


def unix(path: Path, **keys: Any) -> ListenConfig:
    return ListenConfig.model_validate({"address": f"unix:{path}", **keys})


def connect_to(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(path))


# --- files ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["0660", "0600", "0777"])
def test_the_file_has_its_mode_and_ends_with_the_gateway(
    tmp_path: Path, mode: str
) -> None:
    """The file has exactly the permissions of `mode`, whatever the umask is."""
    path = tmp_path / "s"
    before = os.umask(0o077)
    try:
        opened = open_listens([unix(path, mode=mode)], 3)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == int(mode, 8)
    assert urls(opened) == f"unix:{path}"
    connect_to(path)
    close_listens(opened)
    assert not path.exists()


def test_a_file_that_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    """A process that was killed leaves its file behind: the next one removes it."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(str(path))
        left.listen()
    opened = open_listens([unix(path)], 1)
    connect_to(path)
    close_listens(opened)


@pytest.mark.parametrize("is_socket", [True, False])
def test_a_file_in_use_stays(tmp_path: Path, is_socket: bool) -> None:
    """Neither the socket of a running process is taken, nor a file that is no socket.

    What was opened before is closed again.
    """
    path, first = tmp_path / "s", tmp_path / "first"
    if is_socket:
        other = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        other.bind(str(path))
        other.listen()
    else:
        other = socket.socket()
        path.write_text("precious")
    with other:
        with pytest.raises(ListenError, match=r"somebody listens|isn't a socket"):
            open_listens([unix(first), unix(path)], 1)
        assert not first.exists()
        if is_socket:
            connect_to(path)
        else:
            assert path.read_text() == "precious"


def test_a_file_of_another_gateway_stays(tmp_path: Path) -> None:
    """A gateway that ends removes its own file, not that of one started meanwhile."""
    path = tmp_path / "s"
    old = open_listens([unix(path)], 1)
    path.unlink()
    new = open_listens([unix(path)], 1)
    close_listens(old)
    connect_to(path)
    close_listens(new)
    assert not path.exists()


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"owner": "no-such-user"}, "this system has no no-such-user"),
        ({"owner": ":no-such-group"}, "this system has no :no-such-group"),
    ],
)
def test_an_unknown_owner_is_refused(
    tmp_path: Path, keys: dict[str, str], why: str
) -> None:
    """Nothing is left of a socket that can't be given to its owner."""
    with pytest.raises(ListenError, match=why):
        open_listens([unix(tmp_path / "s", **keys)], 1)
    assert list(tmp_path.iterdir()) == []


def test_the_owner_may_be_numbers(tmp_path: Path) -> None:
    """A container often has numbers only, without names for them."""
    path = tmp_path / "s"
    opened = open_listens([unix(path, owner=f"{os.getuid()}:{os.getgid()}")], 1)
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (os.getuid(), os.getgid())
    close_listens(opened)


def test_a_missing_directory_is_refused(tmp_path: Path) -> None:
    """The message names the path, and what must exist."""
    with pytest.raises(ListenError, match="The directory must exist"):
        open_listens([unix(tmp_path / "none" / "s")], 1)


def test_an_override_has_the_same_grammar(tmp_path: Path) -> None:
    """`--listen` takes what an item of the file takes, and refuses the rest."""
    (listen,) = overriding(f"unix:{tmp_path}/s")
    assert listen.parsed.socket_path == f"{tmp_path}/s"
    with pytest.raises(ListenError, match="can't listen on 8000: expected host:port"):
        overriding("8000")


# --- who accepts from what --------------------------------------------------------


def test_workers_have_a_socket_of_each_address(tmp_path: Path) -> None:
    """Each worker accepts on every address: from its own socket, or from a shared one.

    A worker that takes over another one's sockets doesn't get a shared one twice.
    """
    opened = open_listens(
        [*listens({"address": "127.0.0.1:0"}), unix(tmp_path / "s")], 3
    )
    try:
        assert [len(each.sockets) for each in opened] == [3, 1]
        assert socket_count(opened) == 3
        port, path = opened
        assert assigned(opened, (1,)) == {(0, 1): port, (1, 0): path}
        assert assigned(opened, (1, 2)) == {(0, 1): port, (0, 2): port, (1, 0): path}
    finally:
        close_listens(opened)


async def over(path: Path) -> Wire:
    return Wire(*await asyncio.open_unix_connection(str(path)))


@pytest.mark.parametrize("trusted", [[], ["unix"]])
async def test_a_client_of_a_socket_has_no_address(
    tmp_path: Path, upstream: FaultUpstream, trusted: list[str]
) -> None:
    """The service gets an address only from a trusted proxy in front of the socket.

    Unless `trusted_proxies` has `unix`, the client's own claims are removed.
    """
    path = tmp_path / "s"
    settings = {
        "listen": ["127.0.0.1:0", f"unix:{path}"],
        "trusted_proxies": trusted,
        "forwarded": {"real_ip": True, "rfc7239": True},
    }
    async with gateway(upstream.url, settings=settings) as gw:
        wire = await over(path)
        claims = (("X-Forwarded-For", "192.0.2.9"), ("X-User-Id", "evil"))
        await wire.send(request("GET", "/a", *claims))
        assert (await wire.reply()).status == 200
        wire.writer.close()
        record = await gw.record()
        assert (await gw.ask("GET", "/b")).status == 200
    head = upstream.requests[0].head.lower()
    assert b"evil" not in head
    if trusted:
        assert b"x-forwarded-for: 192.0.2.9\r\n" in head
        assert b"forwarded: for=192.0.2.9;" in head
        assert record.client == "192.0.2.9"
    else:
        assert b"192.0.2.9" not in head
        assert b"x-forwarded-for" not in head
        assert b"x-real-ip" not in head
        assert b"forwarded: for=unknown;" in head
        assert record.client == "unix"


ROUTES = """\
version: 1
gateway:
  listen: ["127.0.0.1:0", "unix:{path}"]
routes:
  - {{path: /, protected: false, respond: {{status: 200, body: "hello"}}}}
"""


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_serve_listens_on_all(tmp_path: Path, workers: str) -> None:
    """`gateway serve` names all addresses, serves on each, and removes the file."""
    path = tmp_path / "s"
    (tmp_path / "routes.yaml").write_text(ROUTES.format(path=path))
    async with command(
        "serve",
        cwd=tmp_path,
        environ={"GATEWAY_WORKERS": workers, "GATEWAY_CONFIG": "routes.yaml"},
    ) as process:
        said = rb" on http://127\.0\.0\.1:(\d+), unix:(\S+), routes from"
        match = await process.until_said(said)
        assert match[2].decode() == str(path)
        for _ in range(4):
            wire = await over(path)
            await wire.send(request("GET", "/"))
            assert (await wire.reply()).body == b"hello"
            wire.writer.close()
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert not path.exists()


# --- TLS in several processes -----------------------------------------------------

TLS_ROUTES = """\
version: 1
gateway:
  probes: {{listen: "127.0.0.1:0"}}
  listen:
    - address: "127.0.0.1:0"
      tls:
        certificates: [{{cert: {pair.cert}, key: {pair.key}}}]
        hsts: {{max_age: {max_age}}}
routes:
  - {{path: /, protected: false, respond: {{status: 200, body: "hello"}}}}
"""


async def serial(port: int, authority: Authority) -> tuple[int, str | None]:
    """Return the serial number of the served certificate, and the HSTS field."""
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=authority.client(), server_hostname="a.test"
    )
    found = writer.get_extra_info("ssl_object").getpeercert()
    wire = Wire(reader, writer)
    await wire.send(request("GET", "/", host="a.test"))
    reply = await wire.reply()
    assert reply.body == b"hello"
    writer.transport.abort()
    return int(found["serialNumber"], 16), reply.one("Strict-Transport-Security")


async def until_exposed(probes: int, pair: Pair) -> None:
    """Return when the metrics have the end of the certificate in *pair*."""
    end = load_pem_x509_certificate(pair.cert.read_bytes()).not_valid_after_utc
    name = 'gateway_cert_not_after_seconds{listen="127.0.0.1:0",name="a.test"} '
    async with asyncio.timeout(DEADLINE_S):
        while True:
            text = (await ask(probes, "GET", "/metrics")).body.decode()
            if name in text:
                value = text.partition(name)[2].partition("\n")[0]
                assert float(value) == end.timestamp()
                return
            await asyncio.sleep(0.1)


def serial_in(pair: Pair) -> int:
    return load_pem_x509_certificate(pair.cert.read_bytes()).serial_number


async def test_a_worker_starts_with_the_last_good_certificate(tmp_path: Path) -> None:
    """A worker that replaces another one serves, although the files are bad now.

    A reload refuses bad files, and takes other keys of the address with good ones.
    """
    authority = Authority(tmp_path)
    pair, other = authority.issue("a.test"), authority.issue("a.test")
    routes = tmp_path / "routes.yaml"
    routes.write_text(TLS_ROUTES.format(pair=pair, max_age="1h"))
    good, first = pair.key.read_bytes(), serial_in(pair)
    async with command(
        *("serve", "-c", routes),
        cwd=tmp_path,
        environ={"GATEWAY_WORKERS": "2"},
    ) as process:
        match = await process.until_said(rb" on https://127\.0\.0\.1:(\d+), routes")
        port = int(match[1])
        assert await serial(port, authority) == (first, "max-age=3600")
        probes = int((await process.until_said(rb"probes on .*:(\d+)\n"))[1])
        await until_exposed(probes, pair)

        pair.key.write_bytes(other.key.read_bytes())
        for worker in workers(process.child.pid):
            os.kill(worker, signal.SIGKILL)
        await process.until_said(rb"worker 1 \(.*\) was ended by SIGKILL")
        await process.until_said(rb"worker 2 \(.*\) was ended by SIGKILL")
        for _ in range(8):
            assert (await serial(port, authority))[0] == first

        routes.write_text(TLS_ROUTES.format(pair=pair, max_age="2h"))
        process.signal(signal.SIGHUP)
        await process.until_said(rb"this isn't the certificate's key")
        assert await serial(port, authority) == (first, "max-age=3600")

        pair.cert.write_bytes(other.cert.read_bytes())
        process.signal(signal.SIGHUP)
        await process.until_said(rb"INFO reloaded ")
        second = serial_in(other)
        async with asyncio.timeout(DEADLINE_S):  # the old workers may accept for 50 ms
            while (found := await serial(port, authority)) != (second, "max-age=7200"):
                # They look at the files themselves, too.
                assert found in ((first, "max-age=3600"), (second, "max-age=3600"))
        assert good != pair.key.read_bytes()
        assert b"needs a restart" not in process.err
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
