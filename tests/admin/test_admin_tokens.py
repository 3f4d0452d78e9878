"""The token file: what it must have, and who may read it."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from gateway.admin.tokens import BadTokenFile, check, read_token
from gateway.config import AdminConfig

TOKEN = b"qwertyuiopasdfgh" * 2


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_good_file(tmp_path: Path, end: bytes, mode: int) -> None:
    """A line break at the end isn't part of the token."""
    file = tmp_path / "token"
    file.write_bytes(TOKEN + end)
    file.chmod(mode)
    assert read_token(str(file)) == TOKEN
    listen = "0.0.0.0:9901"
    assert [*check(AdminConfig(listen=listen, token_file=str(file)))] == []


@pytest.mark.parametrize(
    ("content", "mode", "reason"),
    [
        (b"", 0o600, "the file is empty"),
        (b"\n", 0o600, "the file is empty"),
        (TOKEN[:-1], 0o600, "too short: it needs 32 characters"),
        (TOKEN + b"\n" + TOKEN, 0o600, "one line"),
        (TOKEN + b" ", 0o600, "without blanks"),
        (TOKEN + b"\xc3\xa4", 0o600, "printable ASCII"),
        (TOKEN * 200, 0o600, "one line"),
        (TOKEN, 0o644, "everyone on this machine can read"),
        (TOKEN, 0o660, "others can write"),
        (TOKEN, 0o602, "others can write"),
    ],
    ids=count(),
)
def test_a_bad_file(tmp_path: Path, content: bytes, mode: int, reason: str) -> None:
    """The reason quotes nothing of the file; the finding has its place and a remedy."""
    file = tmp_path / "token"
    file.write_bytes(content)
    file.chmod(mode)
    with pytest.raises(BadTokenFile, match=reason):
        read_token(str(file))
    (finding,) = check(AdminConfig(token_file=str(file)))
    assert finding.loc == ("gateway", "admin", "token_file")
    assert finding.hint
    assert "qwerty" not in finding.message + finding.hint


def test_no_file(tmp_path: Path) -> None:
    """A file that is missing, and what isn't one."""
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(BadTokenFile, match="can't be read"):
            read_token(str(path))
    assert [*check(AdminConfig())] == []
