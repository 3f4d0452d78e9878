"""Certificates that change while the gateway runs."""

from __future__ import annotations

import asyncio
import logging
import ssl
from pathlib import Path

import pytest
from faults import FaultUpstream, until
from gateway_under_test import gateway
from tls_rig import Authority, Pair

from gateway.config import ListenConfig
from gateway.tls import BadTls, CertificateStore, store


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def make(pair: Pair) -> CertificateStore:
    return CertificateStore(
        ListenConfig.model_validate(
            {"address": "127.0.0.1:8443", "tls": {"certificates": [pair.keys]}}
        )
    )


async def test_files_that_stay_are_loaded_once(authority: Authority) -> None:
    """Without a change, the contexts stay, and with them the sessions of clients."""
    certificates = make(authority.issue("a.test"))
    before = certificates.current
    await certificates.refresh()
    assert certificates.current is before


async def test_new_files_count_at_once(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A new pair is loaded when it is seen, and its loading is reported."""
    pair = authority.issue("a.test")
    certificates = make(pair)
    pair.replace_with(authority.issue("b.test"))
    await certificates.refresh()
    assert [each.name for each in certificates.certificates] == ["b.test"]
    assert caplog.messages == ["the certificates of 127.0.0.1:8443 have changed"]


async def test_bad_files_change_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Bad files are told once, with the reason; the next good ones count."""
    pair = authority.issue("a.test")
    good_key = pair.key.read_bytes()
    certificates = make(pair)
    before = certificates.current
    pair.key.write_bytes(authority.issue("b.test").key.read_bytes())
    for _ in range(4):
        await certificates.refresh()
        assert certificates.current is before
    assert caplog.messages == [
        (
            "the new certificates of 127.0.0.1:8443 can't be used: certificates[0].key:"
            " this isn't the certificate's key. The old ones stay"
        )
    ]
    pair.replace_with(authority.issue("c.test"))
    await certificates.refresh()
    assert certificates.certificates[0].name == "c.test"
    assert good_key != pair.key.read_bytes()


async def test_half_written_files_are_no_news(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """A certificate is replaced before its key: that isn't a mistake."""
    pair, new = authority.issue("a.test"), authority.issue("b.test")
    certificates = make(pair)
    pair.cert.write_bytes(new.cert.read_bytes())
    await certificates.refresh()
    pair.key.write_bytes(new.key.read_bytes())
    await certificates.refresh()
    assert certificates.certificates[0].name == "b.test"
    assert caplog.messages == ["the certificates of 127.0.0.1:8443 have changed"]


async def test_keys_of_tickets_age(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same files are loaded again after a day: with a new key for tickets."""
    certificates = make(authority.issue("a.test"))
    before = certificates.current
    monkeypatch.setattr(store, "TICKET_KEY_S", 0.0)
    await certificates.refresh()
    assert certificates.current is not before


async def test_a_silent_store_says_nothing(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """One worker reports for all."""
    caplog.set_level(logging.INFO)
    pair = authority.issue("a.test")
    certificates = make(pair)
    certificates.is_silent = True
    pair.replace_with(authority.issue("b.test"))
    await certificates.refresh()
    assert caplog.messages == []


def test_bad_files_at_start(authority: Authority) -> None:
    """There is no store without a good pair."""
    pair = authority.issue("a.test")
    pair.key.unlink()
    with pytest.raises(BadTls, match="the file can't be read"):
        make(pair)


async def served_name(port: int, context: ssl.SSLContext) -> str:
    """Return the first name in the certificate that a new client gets."""
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=context, server_hostname="a.test"
    )
    found = writer.get_extra_info("ssl_object").getpeercert()
    writer.transport.abort()
    name: str = found["subjectAltName"][0][1]
    return name


async def test_a_kubernetes_secret_is_swapped(
    authority: Authority,
    tmp_path: Path,
    upstream: FaultUpstream,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """New handshakes use what a replaced symbolic link leads to; old clients stay."""
    monkeypatch.setattr(CertificateStore.__init__, "__kwdefaults__", {"poll_s": 0.05})
    for version, name in (("1", "old.test"), ("2", "new.test")):
        (tmp_path / version).mkdir()
        issued = authority.issue(name)
        issued.cert.rename(tmp_path / version / "tls.crt")
        issued.key.rename(tmp_path / version / "tls.key")
    link = tmp_path / "..data"
    link.symlink_to("1")
    pair = Pair(link / "tls.crt", link / "tls.key")
    listen = [{"address": "127.0.0.1:0", "tls": {"certificates": [pair.keys]}}]
    context = authority.client()
    context.check_hostname = False
    async with gateway(
        upstream.url, settings={"listen": listen}, log_expected=True
    ) as gw:
        assert await served_name(gw.port, context) == "old.test"
        (tmp_path / "next").symlink_to("2")
        (tmp_path / "next").rename(link)
        await until(lambda: gw.log.lines)
        assert await served_name(gw.port, context) == "new.test"
