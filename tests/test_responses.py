"""The gateway's own responses, and the first line of a head."""

from __future__ import annotations

import json

import pytest

from gateway import errors, responses
from gateway.errors import GatewayError
from gateway.identity import Denied, Undecided
from gateway.responses import Response


def tree(error: type[GatewayError]) -> list[type[GatewayError]]:
    return [error, *(each for sub in error.__subclasses__() for each in tree(sub))]


FAILURES = [
    error for error in tree(GatewayError) if error.__module__ == errors.__name__
]


@pytest.mark.parametrize("error", FAILURES, ids=lambda error: error.__name__)
def test_failure_has_its_code_and_never_its_detail(error: type[GatewayError]) -> None:
    """The body has code and request id, not the cause.

    A 503 has Retry-After, unless the request may have been carried out.
    """
    response = responses.failure(error("10.0.0.7:9000 sent s3cret"), "id-1")
    assert json.loads(response.body) == {
        "type": "about:blank",
        "title": error.title,
        "status": error.status,
        "code": error.code,
        "request_id": "id-1",
    }
    fields = dict(response.fields)
    assert fields[b"Content-Type"] == b"application/problem+json"
    assert fields[b"Cache-Control"] == b"no-store"
    assert (b"Retry-After" in fields) is (error.status == 503 and error.may_repeat)
    assert response.close is error.close
    assert b"s3cret" not in b"".join((response.body, *fields, *fields.values()))


def test_every_failure_has_a_code_of_its_own() -> None:
    """Codes are unique, so that each has one cause; statuses are 4xx or 5xx."""
    codes = [error.code for error in FAILURES]
    assert len(set(codes)) == len(codes)
    assert all(400 <= error.status <= 599 for error in FAILURES)


def test_405_names_the_methods() -> None:
    """A 405 must have Allow (RFC 9110 §15.5.6)."""
    response = responses.method_not_allowed(("GET", "HEAD"), "id-1")
    assert response.status == 405
    assert dict(response.fields)[b"Allow"] == b"GET, HEAD"


def test_no_route_is_404() -> None:
    """The code is `no_route`."""
    response = responses.no_route("id-1")
    assert (response.status, json.loads(response.body)["code"]) == (404, "no_route")


def test_denied_is_passed_on_byte_for_byte() -> None:
    """Status, body and fields are unchanged, because frontends read them.

    `no-store` is added.
    """
    cleared = (b"Set-Cookie", b"sAccessToken=; Path=/")
    response = responses.denied(Denied(status=401, body=b'{"a":1}', fields=(cleared,)))
    assert response == Response(
        status=401,
        fields=(cleared, (b"Cache-Control", b"no-store")),
        body=b'{"a":1}',
    )


def test_undecided_is_503_with_retry_after() -> None:
    """It isn't a 401, which would log every client out; the body has no reason."""
    verdict = Undecided(reason="core_unavailable", retry_after_s=7)
    response = responses.undecided(verdict, "id-1")
    assert response.status == 503
    assert dict(response.fields)[b"Retry-After"] == b"7"
    assert b"core_unavailable" not in response.body


def test_user_is_not_stored() -> None:
    """The response of `/user` depends on the session, so it is `no-store`."""
    response = responses.user(b"{}")
    assert (response.status, response.body) == (200, b"{}")
    assert (b"Cache-Control", b"no-store") in response.fields


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (200, b"HTTP/1.1 200 OK\r\n"),
        (404, b"HTTP/1.1 404 Not Found\r\n"),
        (499, b"HTTP/1.1 499 \r\n"),
    ],
)
def test_the_status_line(status: int, line: bytes) -> None:
    """It has a space after the status even without a reason phrase (RFC 9112 §4)."""
    assert responses.start(status) == line
