"""The gateway's own answers, and how a head is written."""

from __future__ import annotations

import json

import pytest

from gateway import errors, responses
from gateway.errors import GatewayError
from gateway.identity import Denied, Undecided
from gateway.responses import Response


def tree(kind: type[GatewayError]) -> list[type[GatewayError]]:
    return [kind, *(found for sub in kind.__subclasses__() for found in tree(sub))]


FAILURES = [kind for kind in tree(GatewayError) if kind.__module__ == errors.__name__]


@pytest.mark.parametrize("kind", FAILURES, ids=lambda kind: kind.__name__)
def test_failure_tells_its_code_and_never_its_detail(kind: type[GatewayError]) -> None:
    """The log gets the cause; 503 says when to come back."""
    answer = responses.failure(kind("10.0.0.7:9000 said s3cret"), "id-1")
    assert json.loads(answer.body) == {
        "type": "about:blank",
        "title": kind.title,
        "status": kind.status,
        "code": kind.code,
        "request_id": "id-1",
    }
    fields = dict(answer.fields)
    assert fields[b"Content-Type"] == b"application/problem+json"
    assert fields[b"Cache-Control"] == b"no-store"
    assert (b"Retry-After" in fields) is (kind.status == 503)
    assert answer.close is kind.close
    assert b"s3cret" not in b"".join((answer.body, *fields, *fields.values()))


def test_every_failure_has_a_code_of_its_own() -> None:
    """An operator finds one cause for a code; ClientGone's status is nginx's 499."""
    codes = [kind.code for kind in FAILURES]
    assert len(set(codes)) == len(codes)
    assert all(400 <= kind.status <= 599 for kind in FAILURES)


def test_405_names_the_methods() -> None:
    """Allow is required (RFC 9110 §15.5.6)."""
    answer = responses.method_not_allowed(("GET", "HEAD"), "id-1")
    assert answer.status == 405
    assert dict(answer.fields)[b"Allow"] == b"GET, HEAD"


def test_404_has_no_more_than_its_code() -> None:
    """Which routes there are is nobody's business."""
    answer = responses.no_route("id-1")
    assert (answer.status, json.loads(answer.body)["code"]) == (404, "no_route")


def test_denied_is_passed_on_byte_for_byte() -> None:
    """SuperTokens' frontends read status and body; nobody may store it."""
    cleared = (b"Set-Cookie", b"sAccessToken=; Path=/")
    answer = responses.denied(Denied(status=401, body=b'{"a":1}', fields=(cleared,)))
    assert answer == Response(
        status=401,
        fields=(cleared, (b"Cache-Control", b"no-store")),
        body=b'{"a":1}',
    )


def test_undecided_is_503_and_says_when_to_come_back() -> None:
    """Never 401: that would log every client out."""
    verdict = Undecided(reason="core_unavailable", retry_after_s=7)
    answer = responses.undecided(verdict, "id-1")
    assert answer.status == 503
    assert dict(answer.fields)[b"Retry-After"] == b"7"
    assert b"core_unavailable" not in answer.body


def test_user_isnt_stored() -> None:
    """Whose answer it is changes with the session."""
    answer = responses.user(b"{}")
    assert (answer.status, answer.body) == (200, b"{}")
    assert (b"Cache-Control", b"no-store") in answer.fields


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (499, b"HTTP/1.1 499 \r\n"),
    ],
)
def test_an_answer_starts_with_a_whole_line(status: int, line: bytes) -> None:
    """The space after the status stays, also when no reason follows (RFC 9112 §4)."""
    assert responses.start(status) == line
