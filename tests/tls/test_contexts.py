"""What `gateway check` and `gateway serve` say about the files of an address."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from tls_rig import DAY, Authority, Pair

from gateway.cli import main
from gateway.config import ListenConfig
from gateway.tls import BadTls, findings, load, warnings


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def listen(*pairs: Pair, **tls: Any) -> ListenConfig:
    keys = {"certificates": [pair.keys for pair in pairs], **tls}
    return ListenConfig.model_validate({"address": "127.0.0.1:8443", "tls": keys})


def lines(found: Any) -> list[str]:
    return [f"{each.path}: {each.message}" for each in found]


Breaks = Callable[[Authority, Pair], Any]


def remove_cert(_: Authority, pair: Pair) -> None:
    pair.cert.unlink()


def remove_key(_: Authority, pair: Pair) -> None:
    pair.key.unlink()


def swap_key(authority: Authority, pair: Pair) -> None:
    pair.key.write_bytes(authority.issue("a.test").key.read_bytes())


def expire(authority: Authority, pair: Pair) -> None:
    pair.replace_with(authority.issue("a.test", ends=-dt.timedelta(minutes=1)))


def empty(_: Authority, pair: Pair) -> None:
    pair.cert.write_text("")


BROKEN: dict[str, tuple[Breaks, str]] = {
    "no certificate": (remove_cert, "cert: the file can't be read: No such file"),
    "no key": (remove_key, "key: the file can't be read: No such file"),
    "another key": (swap_key, "key: this isn't the certificate's key"),
    "expired": (expire, "cert: the certificate has expired on 20"),
    "empty": (empty, "cert: there is no certificate in PEM form in it"),
}


@pytest.mark.parametrize(("break_it", "message"), BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_check_and_serve_refuse(
    authority: Authority, tmp_path: Path, command: str, break_it: Breaks, message: str
) -> None:
    """Both name the place in the file, what is wrong, and the remedy; exit code 1."""
    good, bad = authority.issue("a.test"), authority.issue("b.test")
    break_it(authority, bad)
    path = tmp_path / "routes.yaml"
    path.write_text(
        "version: 1\ngateway:\n  listen:\n    - address: 127.0.0.1:0\n      tls:\n"
        "        certificates:\n"
        f"          - {{cert: {good.cert}, key: {good.key}}}\n"
        f"          - {{cert: {bad.cert}, key: {bad.key}}}\n"
        "routes:\n  - {path: /, protected: false, respond: {status: 204}}\n"
    )
    done = CliRunner().invoke(main, [command, "-c", str(path)])
    assert done.exit_code == 1
    place = "gateway.listen[0].tls.certificates[1]."
    assert f"{path}:8:" in done.output.replace("\n", "")
    said = "".join(done.output.split())
    assert "".join((place + message).split()) in said


def test_good_files_are_served(authority: Authority, tmp_path: Path) -> None:
    """A good pair has no problem and no warning."""
    good = listen(authority.issue("a.test"), authority.issue("b.test"))
    assert (list(findings([good])), list(warnings([good]))) == ([], [])
    assert good.tls is not None
    assert [each.name for each in load(good.tls).certificates] == ["a.test", "b.test"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "the file can't be read"),
        (b"", "there is no certificate of an authority"),
        (b"nonsense", "there is no certificate of an authority"),
        ("a leaf", "this isn't the certificate of an authority"),
    ],
)
def test_bad_authorities_of_clients(
    authority: Authority, tmp_path: Path, content: bytes | str | None, message: str
) -> None:
    """With a wrong CA file, either everybody or nobody could be refused."""
    file = tmp_path / "clients.pem"
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        file.write_bytes(authority.issue("a.test").cert.read_bytes())
    bad = listen(
        authority.issue("a.test"),
        client_auth={"ca_file": str(file), "mode": "require"},
    )
    (line,) = lines(findings([bad]))
    assert line.startswith(f"gateway.listen[0].tls.client_auth.ca_file: {message}")
    assert bad.tls is not None
    with pytest.raises(BadTls, match=r"client_auth\.ca_file"):
        load(bad.tls)


def test_what_is_doubtful(authority: Authority) -> None:
    """Soon expired, not valid yet, without a name, or a key that everyone can read."""
    open_key = authority.issue("a.test")
    open_key.key.chmod(0o644)
    doubtful = listen(
        open_key,
        authority.issue("b.test", ends=13 * DAY),
        authority.issue("c.test", begins=DAY, ends=90 * DAY),
        authority.issue(),
    )
    assert list(findings([doubtful])) == []
    places = [
        line.partition(" on 2")[0].partition(" before 2")[0]
        for line in lines(warnings([doubtful]))
    ]
    start = "gateway.listen[0].tls.certificates"
    assert places == [
        f"{start}[0].key: every user of this machine can read the key",
        f"{start}[1].cert: the certificate expires",
        f"{start}[2].cert: the certificate isn't valid",
        f"{start}[3].cert: the certificate has no name, so no client gets it",
    ]
