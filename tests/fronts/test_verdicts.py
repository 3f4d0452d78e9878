"""The answers to fronts: only an allowed request is a 2xx."""

from __future__ import annotations

import pytest

from gateway.decisions import Respond
from gateway.fronts import verdicts
from gateway.fronts.original import Endpoint
from gateway.responses import Response


@pytest.mark.parametrize("endpoint", Endpoint)
@pytest.mark.parametrize("status", [200, 204, 302, 400, 401, 403, 404, 429, 500, 503])
def test_a_refusal_is_never_a_2xx(endpoint: Endpoint, status: int) -> None:
    """What the gateway would answer itself isn't forwarded either."""
    answer = verdicts.refused(Respond(Response(status=status), ()), endpoint, "id")
    meant = 403 if status < 300 else status
    assert dict(answer.fields)[b"X-Gateway-Status"] == b"%d" % meant
    if endpoint is not Endpoint.AUTH_REQUEST:
        assert answer.answer.status == meant
    elif meant == 401:
        assert answer.answer.status == 401
    else:
        assert answer.answer.status == (503 if meant >= 500 else 403)


def test_a_refusal_that_is_over_asks_for_another_try() -> None:
    """A front that asks for a refusal has no way to forward the request."""
    answer = verdicts.not_refused("id").answer
    assert answer.status == 503
    assert (b"Retry-After", b"1") in answer.fields


@pytest.mark.parametrize(
    ("raw", "path", "is_strict"),
    [
        (b"/a/b", "/a/b", True),
        (b"/a?b=../c", "/a", True),
        (b"/%61dmin", "/admin", True),
        (b"/a%3ab", "/a%3Ab", True),
        (b"/a%2fb", "/a%2fb", True),
        (b"/%2561dmin", "/%2561dmin", True),
        (b"/a/../b", "/b", False),
        (b"/a/%2e%2e/b", "/b", False),
        (b"/a//b", "/a/b", False),
        (b"/./b", "/b", False),
        (b"/a|b", "/a%7Cb", False),
    ],
)
def test_what_is_forwarded_is_what_was_judged(
    raw: bytes, path: str, is_strict: bool
) -> None:
    """A front forwards the raw path; only spellings of one resource are the same."""
    assert verdicts.is_strict(raw, path) is is_strict
