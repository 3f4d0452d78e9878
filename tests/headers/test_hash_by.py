"""What `balance: {hash: …}` takes of a request."""

from __future__ import annotations

import pytest

from gateway.headers import HashBy
from gateway.identity import SessionIdentity

USER = SessionIdentity(
    user_id="u1",
    recipe_user_id="r1",
    session_handle="s1",
    tenant_id="t1",
    claims={},
    expires_at=0,
)
FIELDS = (
    (b"X-Shard", b"7"),
    (b"Cookie", b"a=1; room = blue; room=red"),
    (b"COOKIE", b"other=2; empty="),
)


@pytest.mark.parametrize(
    ("by", "key"),
    [
        ("session", b"s1"),
        ("user", b"u1"),
        ("tenant", b"t1"),
        ("client", b"10.0.0.1"),
        ("header:x-SHARD", b"7"),
        ("cookie:room", b"blue"),
        ("cookie:other", b"2"),
        ("cookie:ROOM", None),
        ("cookie:empty", None),
        ("header:missing", None),
    ],
)
def test_the_key_of_a_request(by: str, key: bytes | None) -> None:
    """Names of fields have no case, names of cookies do (RFC 6265 §4.2)."""
    assert HashBy.parse(by).key(FIELDS, USER, "10.0.0.1") == key


@pytest.mark.parametrize("by", ["session", "user", "tenant"])
def test_a_request_without_session_has_no_such_key(by: str) -> None:
    assert HashBy.parse(by).key(FIELDS, None, "10.0.0.1") is None
