"""Visits to mail servers that speak the protocol on loopback."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults import black_hole
from loopback import serving
from tls_rig import Authority

from gateway.config import SmtpConfig
from gateway.doctor.judgments import MailFacts
from gateway.doctor.mail import visit

PASSWORD = "a-secret-of-mail"
PLAIN = base64.b64encode(f"\0user\0{PASSWORD}".encode()).decode()


@dataclass
class MailServer:
    """Answers commands by their first word."""

    answers: Mapping[str, str]
    context: ssl.SSLContext | None = None
    heard: list[str] = field(default_factory=list)

    async def serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        writer.write(b"220 mail\r\n")
        while line := await reader.readline():
            command = line.decode().strip()
            self.heard.append(command)
            word = command.partition(" ")[0].upper()
            answer = self.answers.get(word, "250 ok")
            writer.write(answer.replace("\n", "\r\n").encode() + b"\r\n")
            await writer.drain()
            if word == "STARTTLS" and self.context is not None:
                await writer.start_tls(self.context)


TLS = {
    "EHLO": "250-mail\n250-STARTTLS\n250 AUTH PLAIN",
    "STARTTLS": "220 ready",
    "AUTH": "235 hello",
}


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def settings(port: int, **keys: object) -> SmtpConfig:
    return SmtpConfig.model_validate(
        {
            "host": "127.0.0.1",
            "port": port,
            "from_email": "a@example.com",
            "username": "user",
            "password": PASSWORD,
            **keys,
        }
    )


def server_context(authority: Authority) -> ssl.SSLContext:
    pair = authority.issue("127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.cert, pair.key)
    return context


async def test_it_signs_in_over_starttls(authority: Authority) -> None:
    """With the user's name and password, and it sends no mail."""
    server = MailServer(TLS, server_context(authority))
    async with serving(server.serve) as port:
        facts = await visit(settings(port), timeout_s=10, context=authority.client())
    assert facts == MailFacts(is_encrypted=True, has_signed_in=True)
    assert f"AUTH PLAIN {PLAIN}" in server.heard
    assert not [each for each in server.heard if each.startswith("MAIL")]


async def test_it_uses_tls_from_the_first_byte(authority: Authority) -> None:
    """With `secure: true`. Without a password, it doesn't sign in."""
    server = MailServer(TLS)
    async with serving(server.serve, context=server_context(authority)) as port:
        smtp = settings(port, secure=True, username=None, password=None)
        facts = await visit(smtp, timeout_s=10, context=authority.client())
    assert facts == MailFacts(is_encrypted=True)


async def test_a_refused_password(authority: Authority) -> None:
    """The code is shown, not the server's words: they may repeat what it was sent."""
    refusal = f"535 no {PASSWORD} {PLAIN}"
    server = MailServer({**TLS, "AUTH": refusal}, server_context(authority))
    async with serving(server.serve) as port:
        facts = await visit(settings(port), timeout_s=10, context=authority.client())
    assert facts.trouble == "it refuses the user name or password (535)"


async def test_no_password_without_tls() -> None:
    """A server that offers no TLS isn't told it."""
    server = MailServer({"EHLO": "250-mail\n250 AUTH PLAIN"})
    async with serving(server.serve) as port:
        facts = await visit(settings(port), timeout_s=10)
    assert facts == MailFacts()
    assert not [each for each in server.heard if each.startswith("AUTH")]


async def test_a_certificate_of_an_unknown_authority(authority: Authority) -> None:
    """As the SDK, it trusts the system's authorities only."""
    server = MailServer(TLS, server_context(authority))
    async with serving(server.serve) as port:
        facts = await visit(settings(port), timeout_s=10)
    assert "its certificate: " in facts.trouble


async def test_a_server_that_refuses_or_is_none(closed_port: int) -> None:
    """Each has its reason, and the time is bounded."""
    facts = await visit(settings(closed_port), timeout_s=10)
    assert facts.trouble == "Connection refused"
    unknown = settings(25, host="a.invalid")
    assert (await visit(unknown, timeout_s=10)).trouble
    async with black_hole() as port:
        facts = await visit(settings(port), timeout_s=0.2)
    assert facts.trouble in ("no answer within 0.2 s", "timed out")
    server = MailServer({"EHLO": "554 go away", "HELO": "554 go away"})
    async with serving(server.serve) as port:
        facts = await visit(settings(port), timeout_s=10)
    assert facts.trouble.startswith("it doesn't do as expected (")
