"""Reading a question about requests, and writing its answer; without a socket.

`tests/end_to_end/test_end_to_end_access.py` compares the answers with what the requests
themselves get.
"""

from __future__ import annotations

import json

import pytest

from gateway.access import MAX_ITEMS, AccessResult, Asked, BadItems, asked, body


def question(*items: object) -> bytes:
    return json.dumps({"requests": items}).encode()


def item(method: object, path: object) -> dict[str, object]:
    return {"method": method, "path": path}


def test_items_are_read_in_their_order() -> None:
    """A path may have a query; nothing is decoded, and repeated items stay."""
    read = asked(
        question(item("GET", "/a%2Fb?c=d"), item("PURGE", "/"), item("GET", "/"))
    )
    assert read == (
        Asked("GET", b"/a%2Fb?c=d"),
        Asked("PURGE", b"/"),
        Asked("GET", b"/"),
    )
    assert len(asked(question(*[item("GET", "/")] * MAX_ITEMS))) == MAX_ITEMS


BAD = {
    "no JSON": (b"requests", "The body isn't JSON"),
    "not UTF-8": (b'{"requests": "\xff"}', "The body isn't JSON"),
    "nested too deeply": (b"[" * 60_000, "The body isn't JSON"),
    "empty": (b"", "The body isn't JSON"),
    "a list": (b"[]", "Expected {"),
    "a text": (b'{"requests": "GET /"}', "Expected {"),
    "another member": (b'{"requests": [], "as": "ann"}', "Expected {"),
    "no items": (question(), f"Expected 1 to {MAX_ITEMS} requests"),
    "too many": (
        question(*[item("GET", "/")] * (MAX_ITEMS + 1)),
        f"Expected 1 to {MAX_ITEMS} requests",
    ),
    "an item that is a text": (question("GET /"), "Each item"),
    "an item without a path": (question({"method": "GET"}), "Each item"),
    "an item with more": (question(item("GET", "/") | {"host": "x"}), "Each item"),
    "a method that is a number": (question(item(1, "/")), "Each item"),
    "a method that is no token": (question(item("GET /x", "/")), "Each item"),
    "an empty method": (question(item("", "/")), "Each item"),
    "a path that is a list": (question(item("GET", ["/"])), "Each item"),
    "an empty path": (question(item("GET", "")), "Each item"),
    "a URL": (question(item("GET", "http://x/")), "Each item"),
    "an asterisk": (question(item("OPTIONS", "*")), "Each item"),
    "a line break in a path": (question(item("GET", "/\r\nX-User-Id: 1")), "Each item"),
    "a blank in a path": (question(item("GET", "/a b")), "Each item"),
    "a path that isn't ASCII": (question(item("GET", "/é")), "Each item"),
    "half a character": (
        b'{"requests": [{"method": "GET", "path": "/\\ud800"}]}',
        "Each",
    ),
}


@pytest.mark.parametrize(("text", "reason"), BAD.values(), ids=BAD)
def test_any_other_body_is_refused(text: bytes, reason: str) -> None:
    """The reason is in words of the gateway: it repeats nothing of the client's."""
    with pytest.raises(BadItems) as error:
        asked(text)
    assert str(error.value).startswith(reason)
    assert "X-User-Id" not in str(error.value)


def test_the_answer_has_the_order_of_the_items() -> None:
    """A refusal has the status and the reason that the request itself would get."""
    answers = [AccessResult(), AccessResult(403, "invalid_claim")]
    assert json.loads(body(answers)) == {
        "results": [
            {"allowed": True},
            {"allowed": False, "status": 403, "reason": "invalid_claim"},
        ]
    }
