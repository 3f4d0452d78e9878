"""Which requests have a line in the access log."""

from __future__ import annotations

import zlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import LogConfig
from gateway.errors import Side
from gateway.observe import Record, Selection


def record(**values: Any) -> Record:
    usual: dict[str, Any] = {
        "started": 0.0,
        "path": "/a",
        "status": 200,
        "decision": "allowed",
    }
    return Record(**(usual | values))


def excluding(*exclusions: Any) -> Selection:
    return Selection(LogConfig.model_validate({"exclude": list(exclusions)}))


@pytest.mark.parametrize(
    ("exclusion", "values", "is_excluded"),
    [
        ({"path": "/healthz"}, {"path": "/healthz"}, True),
        ({"path": "/healthz"}, {"path": "/healthz/live"}, True),
        ({"path": "/healthz"}, {"path": "/healthzx"}, False),
        ({"path": "/"}, {"path": "/anything"}, True),
        ({"path": "/healthz"}, {"path": "-"}, False),
        ({"path": {"exact": "/healthz"}}, {"path": "/healthz"}, True),
        ({"path": {"exact": "/healthz"}}, {"path": "/healthz/live"}, False),
        ({"path": {"template": "/a/{id}/b"}}, {"path": "/a/1/b"}, True),
        ({"path": {"template": "/a/{id}/b"}}, {"path": "/a//b"}, False),
        ({"path": {"template": "/a/{id}/{x...}"}}, {"path": "/a/1/b/c"}, True),
        ({"path": {"regex": "/a[0-9]+"}}, {"path": "/a12"}, True),
        ({"path": {"regex": "/a[0-9]+"}}, {"path": "/a12b"}, False),
        ({"path": ["/a", {"exact": "/b"}]}, {"path": "/b"}, True),
        ({"route": "orders"}, {"route": "orders"}, True),
        ({"route": "orders"}, {"route": None}, False),
        ({"status": ["2xx"]}, {"status": 204}, True),
        ({"status": ["2xx"]}, {"status": 304}, False),
        ({"status": [204, "304"]}, {"status": 304}, True),
        ({"path": "/a", "status": ["2xx"]}, {"path": "/a", "status": 404}, False),
        ({"path": "/a", "status": ["2xx"]}, {"path": "/a", "status": 200}, True),
        ({"path": "/a", "route": "b"}, {"path": "/a", "route": "c"}, False),
    ],
    ids=str,
)
def test_a_request_is_left_out_if_all_keys_match(
    exclusion: Any, values: Any, is_excluded: bool
) -> None:
    """Paths are matched as those of routes are. One exclusion of several is enough."""
    for selection in (excluding(exclusion), excluding({"route": "none"}, exclusion)):
        assert not selection.is_all
        assert selection.share(record(**values)) == (0.0 if is_excluded else 1.0)


ALWAYS: list[dict[str, Any]] = [
    {"status": 500},
    {"status": 503},
    {"decision": "denied", "status": 401},
    {"decision": "undecided"},
    {"side": Side.CLIENT, "status": 400},
    {"side": Side.GATEWAY},
    {"duration_ms": 1000.0},
]


@pytest.mark.parametrize("values", ALWAYS, ids=str)
@given(request_id=st.text())
def test_what_matters_always_has_a_line(
    values: dict[str, Any], request_id: str
) -> None:
    """Refused, failed and slow requests do, whatever their id."""
    selection = Selection(LogConfig(sample=1e-9))
    assert selection.share(record(request_id=request_id, **values)) == 1.0


@given(st.text(), st.floats(0.001, 0.999))
def test_the_id_decides(request_id: str, sample: float) -> None:
    """All requests with one id have a line, or none has, in all gateways alike."""
    shares = {
        Selection(LogConfig(sample=sample)).share(record(request_id=request_id, path=p))
        for p in ("/a", "/b")
    }
    is_kept = zlib.crc32(request_id.encode()) < sample * 2**32
    assert shares == {sample if is_kept else 0.0}


def test_without_settings_every_request_has_a_line() -> None:
    """Nothing is left out by default."""
    assert Selection(LogConfig()).is_all
