"""Lines about the gateway itself, as text and JSON."""

from __future__ import annotations

import io
import json

import pytest
from failing_streams import Broken
from hypothesis import given
from hypothesis import strategies as st

from gateway.events import RuntimeEvent
from gateway.observe import Origin, RuntimeLog, runtime_line
from gateway.observe.times import stamp

NOON = 1_700_000_000.5
READY = RuntimeEvent.READY


def test_json_line_of_an_event() -> None:
    """These keys come first, in every line; the event's facts follow."""
    origin = Origin(form="json", pid=7, worker=2, generation=3)
    line = runtime_line(origin, NOON, READY, "here", {"url": "u", "workers": 2})
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "event": "ready",
        "message": "here",
        "pid": 7,
        "worker": 2,
        "generation": 3,
        "url": "u",
        "workers": 2,
    }


def test_text_line_of_an_event() -> None:
    """It has time, severity, the process and the message. Colours are for terminals."""
    line = runtime_line(Origin(who="worker 2: "), NOON, READY, "here", {"url": "u"})
    assert line == "2023-11-14T22:13:20.500Z INFO worker 2: here"
    line = runtime_line(Origin(has_colours=True), NOON, READY, "here", {})
    assert line == "2023-11-14T22:13:20.500Z \x1b[36mINFO\x1b[0m here"


any_text = st.text(st.characters(exclude_categories=()), max_size=50)


@given(any_text, any_text)
def test_no_text_of_an_event_breaks_out_of_its_line(text: str, trace: str) -> None:
    """A message, fact or traceback can't forge a line, nor move a terminal's cursor."""
    facts = {"reason": text}
    packed = runtime_line(Origin(form="json"), NOON, READY, text, facts, trace)
    assert packed.isascii()
    assert packed.isprintable()
    assert json.loads(packed)["message"] == text
    first, *others = runtime_line(Origin(), NOON, READY, text, facts, trace).split("\n")
    assert first.startswith("2023-11-14T22:13:20.500Z INFO ")
    for line in (first, *others):
        assert line.isprintable()
    assert all(line.startswith("    ") for line in others)


@pytest.mark.parametrize("size", [2_000, 4_096, 100_000])
@pytest.mark.parametrize("letter", ["x", "\0", "é"])
def test_json_lines_of_events_are_written_in_one_piece(size: int, letter: str) -> None:
    """A line has at most 4096 bytes; of a traceback, the end is kept."""
    text = letter * size
    origin = Origin(form="json")
    facts = {"hint": text, "key": [text] * 1000}
    line = runtime_line(origin, NOON, READY, text, facts, f"{text}the end")
    assert len(line.encode()) < 4096
    assert json.loads(line)["traceback"].endswith("the end")


@pytest.mark.parametrize(
    ("now", "text"),
    [
        (0.0, "1970-01-01T00:00:00.000Z"),
        (NOON, "2023-11-14T22:13:20.500Z"),
        (1.9999999, "1970-01-01T00:00:02.000Z"),
        (1.9996, "1970-01-01T00:00:01.999Z"),
    ],
)
def test_stamps_are_rfc_3339_in_utc(now: float, text: str) -> None:
    """Source: RFC 3339 §5.6."""
    assert stamp(now) == text


def test_a_runtime_log_writes_at_once() -> None:
    """A generation stands in place of the process's own."""
    stream = io.StringIO()
    RuntimeLog("json", stream).say(READY, "here", generation=4, url="u")
    said = json.loads(stream.getvalue())
    assert (said["event"], said["generation"], said["url"]) == ("ready", 4, "u")


def test_a_broken_standard_error_raises_no_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Lines are written best effort."""
    stream = Broken(BrokenPipeError())
    monkeypatch.setattr("sys.stderr", stream)  # restored afterwards
    RuntimeLog("text").say(READY, "here")
    assert stream.tried
