"""The access log: one line per request, which never delays a request."""

from __future__ import annotations

import errno
import io
import json
import select
import threading
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from failing_streams import Broken, Stuck
from hypothesis import example, given
from hypothesis import strategies as st
from records import RECORD as FULL

from gateway import observe
from gateway.config import LogConfig
from gateway.errors import Side, Stage
from gateway.observe import (
    AccessLog,
    Origin,
    Record,
    Selection,
    access_log,
    fitting_line,
    json_line,
    text_line,
)
from gateway.observe.meters import BUCKETS, Meters

NOON = 1_700_000_000.5

RECORD = replace(FULL, user_agent=None)


def test_json_line() -> None:
    """The JSON line has these keys and values; log collectors rely on them."""
    assert json.loads(json_line(RECORD, NOON)) == {
        "time": "2023-11-14T22:13:20.500Z",
        "level": "info",
        "event": "request",
        "request_id": "abc",
        "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        "client": "203.0.113.7",
        "host": "api.example.com:8443",
        "scheme": "https",
        "protocol": "HTTP/1.1",
        "method": "GET",
        "path": "/orders/7",
        "status": 200,
        "route": "orders",
        "decision": "allowed",
        "reason": "cached",
        "user_id": "u-1",
        "tenant_id": "public",
        "upstream": "orders",
        "target": "http://10.0.0.7:8080",
        "upstream_status": 201,
        "attempts": 2,
        "duration_ms": 1.23,
        "verify_ms": 0.25,
        "connect_ms": None,
        "upstream_ms": 0.5,
        "bytes_in": 3,
        "bytes_out": 140,
        "stage": "copy",
        "side": None,
        "note": "",
    }


def test_text_line() -> None:
    """The text line has time, status, request, route, decision, user and upstream.

    Duration, sizes, client and ids follow, and a note if there is one.
    """
    assert text_line(RECORD, NOON) == (
        "2023-11-14T22:13:20.500Z INFO 200 GET /orders/7 [orders] allowed (cached)"
        " user=u-1 -> orders 1.2ms in=3 out=140 203.0.113.7 abc"
        " trace=4bf92f3577b34da6a3ce929d0e0e4736"
    )
    failed = replace(RECORD, status=502)
    assert text_line(failed, NOON).startswith("2023-11-14T22:13:20.500Z ERROR 502 ")
    assert text_line(Record(started=0.0, note="why"), NOON) == (
        "2023-11-14T22:13:20.500Z INFO - - - [-] - 0.0ms in=0 out=0 - - | why"
    )


texts = st.text(max_size=20)
records = st.builds(
    Record,
    started=st.just(0.0),
    client=texts,
    path=texts,
    request_id=texts,
    route=st.none() | texts,
    decision=texts,
    reason=texts,
    user_id=st.none() | texts,
    upstream=st.none() | texts,
    note=texts,
    host=texts,
    method=texts | st.just("GET"),
    tenant_id=st.none() | texts,
    target=st.none() | texts,
    user_agent=st.none() | texts,
    side=st.none() | st.sampled_from(Side),
    stage=st.sampled_from(Stage),
)


@given(records)
def test_no_text_breaks_out_of_its_line(record: Record) -> None:
    """A line is printable, whatever text is in the record: no line end, no escape."""
    line = text_line(record, NOON)
    assert line.isprintable()
    packed = json_line(record, NOON)
    assert packed.isascii()
    assert packed.isprintable()
    read = json.loads(packed)
    for name in ("client", "path", "user_id", "note", "route", "host", "method"):
        assert read[name] == getattr(record, name)


# --- comparison with the standard library -------------------------------------------


def dumped(record: Record, now: float) -> str:
    """Return the JSON line as `json` and `datetime` write it."""
    at = datetime.fromtimestamp(now, UTC).isoformat(timespec="milliseconds")
    names = "method route decision reason upstream target user_id tenant_id"
    line = json.dumps(
        {
            "time": at.replace("+00:00", "Z"),
            "level": "info" if record.status < 500 else "error",
            "event": "request",
            "request_id": record.request_id,
            "trace_id": record.trace[16:48].decode() or None,
            "client": record.client,
            "host": record.host,
            "scheme": "https" if record.is_secure else "http",
            "protocol": record.protocol,
            **{name: getattr(record, name) for name in names.split()[:6]},
            "path": record.path,
            "status": record.status,
            **{name: getattr(record, name) for name in names.split()[6:]},
            "upstream_status": record.upstream_status,
            "attempts": 0 if record.target is None else 1 + record.retries,
            "duration_ms": round(record.duration_ms, 2),
            "verify_ms": None,
            "connect_ms": None,
            "upstream_ms": None,
            "bytes_in": record.bytes_in,
            "bytes_out": record.bytes_out,
            "stage": record.stage,
            "side": record.side,
            "note": record.note,
            **({"user_agent": record.user_agent} if record.user_agent else {}),
        },
        separators=(",", ":"),
    )
    for name in ("verify_ms", "connect_ms", "upstream_ms"):
        took = getattr(record, name)
        if took is not None:  # always with two decimals, unlike json
            line = line.replace(f'"{name}":null', f'"{name}":{took:.2f}')
    return line


def printed(record: Record, now: float) -> str:
    """Return the text line, made of words, with the time as `datetime` writes it."""
    words = [
        datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "INFO" if record.status < 500 else "ERROR",
        str(record.status or "-"),
        record.method,
        record.path,
        f"[{record.route or '-'}]",
        record.decision,
        *([f"({record.reason})"] if record.reason else []),
        *([f"user={record.user_id}"] if record.user_id else []),
        *(["->", record.upstream] if record.upstream else []),
        f"{record.duration_ms:.1f}ms",
        f"in={record.bytes_in}",
        f"out={record.bytes_out}",
        record.client,
        record.request_id,
        *([f"trace={record.trace[16:48].decode()}"] if record.trace else []),
        *(["|", record.note] if record.note else []),
    ]
    line = " ".join(words)
    return line if line.isprintable() else line.encode("unicode_escape").decode()


any_texts = st.text(st.characters(exclude_categories=()), max_size=20) | st.builds(
    str.__mul__,
    st.text(st.characters(exclude_categories=()), min_size=1, max_size=5),
    st.integers(1, 2000),
)
sizes = st.integers(0, 600) | st.integers(0, 2**70)
# Records as the gateway makes them: values that aren't set are the class's.
filled = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(
            ("client", "method", "path", "request_id", "decision", "reason", "note"),
            any_texts,
        ),
        **dict.fromkeys(
            ("route", "user_id", "upstream", "tenant_id", "target"),
            st.none() | any_texts,
        ),
        "user_agent": st.none() | any_texts.filter(bool),
        "host": any_texts,
        "trace": st.just(b"") | st.just(RECORD.trace),
        "is_secure": st.booleans(),
        "retries": st.integers(0, 5),
        "upstream_status": st.none() | st.integers(100, 599),
        "protocol": st.sampled_from(["HTTP/1.0", "HTTP/1.1"]),
        **dict.fromkeys(("status", "bytes_in", "bytes_out"), sizes),
        "duration_ms": st.sampled_from([0.005, 1e-7, 1.005, 2.675, 99.995, 1e16])
        | st.floats(0, allow_infinity=False),
        **dict.fromkeys(("verify_at", "verified_at", "replied_at"), st.floats(0, 1e9)),
        "connect_ms": st.none() | st.floats(0, 1e6),
        "stage": st.sampled_from(Stage),
        "side": st.none() | st.sampled_from(Side),
    },
)


@st.composite
def times(draw: st.DrawFn) -> float:
    """Return any time, often close to the beginning of a second or a millisecond."""
    edge = draw(st.integers(0, 4_000_000_000)) + draw(
        st.just(0.0) | st.integers(0, 999).map(lambda millis: millis / 1000)
    )
    off = draw(st.sampled_from([0.0, 2e-7, 4e-7, 5e-7, 6e-7, 1e-6]) | st.floats(0, 1))
    return max(0.0, draw(st.sampled_from([edge + off, edge - off])))


@given(filled, st.lists(times(), min_size=1, max_size=5))
@example({"route": "", "user_id": "", "upstream": "", "side": None}, [NOON])
@example({}, [NOON, NOON + 0.4999999, NOON + 0.5, NOON, NOON - 0.5000001])
def test_lines_are_what_the_standard_library_writes(
    values: dict[str, object], ats: list[float]
) -> None:
    """Lines are what the standard library writes, whichever time the last line had."""
    record = Record.begin(0.0, "192.0.2.1", "GET")
    for name, value in values.items():
        setattr(record, name, value)
    for at in ats:
        for form, line in (("json", dumped(record, at)), ("text", printed(record, at))):
            assert observe.FORMATS[form](record, at) == line
            if len(line.encode()) < select.PIPE_BUF:
                assert fitting_line(form, record, at) == line


# --- the maximum length ---------------------------------------------------------------


long_texts = st.text(max_size=50) | st.builds(
    str.__mul__, st.text(min_size=1, max_size=20), st.integers(1, 1000)
)


@pytest.mark.parametrize("form", sorted(observe.FORMATS))
@given(records, long_texts, long_texts, long_texts)
def test_no_line_is_too_long_to_be_written_whole(
    form: str, record: Record, path: str, note: str, user_id: str
) -> None:
    """A line has up to PIPE_BUF bytes; if values are shortened, JSON stays valid.

    Otherwise a client with a long path could split its line, and forge the next one.
    """
    record = replace(record, path=path, note=note, user_id=user_id)
    line = fitting_line(form, record, NOON)
    assert len(line.encode()) + 1 <= select.PIPE_BUF
    whole = observe.FORMATS[form](record, NOON)
    if len(whole.encode()) < select.PIPE_BUF:
        assert line == whole
    elif form == "json":
        read = json.loads(line)
        assert read["status"] == record.status
        assert path.startswith(read["path"].removesuffix("…"))


# --- the writer -----------------------------------------------------------------


@pytest.mark.parametrize("form", sorted(observe.FORMATS))
def test_close_writes_all_records(form: str) -> None:
    """After `close`, each record is one line, in order, and none is dropped."""
    stream = io.StringIO()
    log = AccessLog(form, stream)
    for number in range(450):
        log.observe(Record(started=0.0, request_id=f"id-{number}-"))
    log.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 450
    assert all(f"id-{number}-" in line for number, line in enumerate(lines))
    assert log.dropped == 0


def test_flush_writes_a_single_record() -> None:
    """`flush`, which a timer calls, writes records without waiting for more."""
    stream = Stuck()
    log = AccessLog("json", stream)
    log.flush()
    log.observe(RECORD)
    log.flush()
    assert stream.reached.wait(10)
    stream.release.set()
    log.close()
    assert len(stream.getvalue().splitlines()) == 1


def test_a_stuck_stream_drops_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stuck stream drops and counts lines, and `close` doesn't wait for it."""
    monkeypatch.setattr(access_log, "_QUEUE_BATCHES", 1)
    stream = Stuck()
    log = AccessLog("json", stream)
    log.observe(RECORD)
    log.flush()
    assert stream.reached.wait(10)  # the writer hangs in the first batch
    for _ in range(3):
        log.observe(RECORD)
        log.flush()  # one waits in the queue, two are lost
    assert log.dropped == 2
    log.close(timeout_s=0.01)  # returns though the stream is stuck
    stream.release.set()


@pytest.mark.parametrize(
    "error", [BrokenPipeError(), ValueError("closed")], ids=["pipe", "closed"]
)
def test_a_broken_stream_raises_no_error(error: Exception) -> None:
    """Lines to a broken stream are counted as dropped."""
    log = AccessLog("text", Broken(error))
    for _ in range(2):
        log.observe(RECORD)
        log.flush()
    log.close()
    assert log.dropped == 2


class Switchable(io.StringIO):
    """A stream that fails unless `works` is true, as on a full disk."""

    works = False

    def write(self, text: str) -> int:
        if not self.works:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def write_one(log: AccessLog) -> None:
    """Observe a record, and wait until it is write_one or lost."""
    log.observe(RECORD)
    log.flush()
    while not log._queue.empty():
        threading.Event().wait(0.001)
    log._queue.put([])  # taken from the queue when the batch before is done
    while not log._queue.empty():
        threading.Event().wait(0.001)


def test_lost_lines_are_reported_once_and_counted_in_the_end(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """There is a message when lines begin to be lost, and one with their number later.

    A line that is write_one in between doesn't end the loss.
    """
    now = 1000.0
    clock = SimpleNamespace(monotonic=lambda: now, time=lambda: NOON)
    monkeypatch.setattr(access_log, "time", clock)
    stream = Switchable()
    log = AccessLog("text", stream)
    for stream.works in (False, False, True, False, True):
        now += 1
        write_one(log)
    log.flush()
    assert log.dropped == 3
    why = "No space left on device"
    assert caplog.messages == [f"lines of the access log are being lost: {why}"]
    now += 10
    log.flush()
    assert caplog.messages[1:] == ["lines of the access log that were lost: 3"]
    stream.works = False
    write_one(log)
    log.close()
    assert caplog.messages[3:] == ["lines of the access log that were lost: 1"]
    assert len(caplog.messages) == 4


# --- what has a line ----------------------------------------------------------------


def written(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_records_without_a_line_are_counted() -> None:
    """What is left out is counted for metrics, and is no loss."""
    stream, meters = io.StringIO(), Meters()
    config = LogConfig.model_validate({"exclude": [{"path": "/healthz"}]})
    log = AccessLog("json", stream, meters=meters, selection=Selection(config))
    for path in ("/healthz", "/orders"):
        log.observe(replace(RECORD, path=path))
    log.close()
    assert [line["path"] for line in written(stream)] == ["/orders"]
    (requests,) = (one for one in meters.samples() if one.kind == "requests")
    assert sum(requests.numbers[:BUCKETS]) == 2
    assert log.dropped == 0


def test_sampled_lines_say_the_share() -> None:
    """`sample_rate` is 1 in lines that are always kept: sums can be weighted."""
    stream = io.StringIO()
    selection = Selection(LogConfig(sample=0.25))
    log = AccessLog("json", stream, selection=selection)
    for number in range(400):
        log.observe(replace(RECORD, request_id=str(number), status=200))
    log.observe(replace(RECORD, status=502))
    log.close()
    *sampled, failed = written(stream)
    assert 50 < len(sampled) < 150
    assert {line["sample_rate"] for line in sampled} == {0.25}
    assert failed["sample_rate"] == 1.0


def test_text_lines_say_the_share() -> None:
    """It follows the ids."""
    stream = io.StringIO()
    log = AccessLog("text", stream, selection=Selection(LogConfig(sample=0.5)))
    log.observe(replace(RECORD, status=503))
    log.close()
    assert stream.getvalue().endswith("0e4736 sample=1.0\n")


def test_every_json_line_has_its_process() -> None:
    """Lines of the access log end with pid, worker and generation, as messages do."""
    stream = io.StringIO()
    log = AccessLog("json", stream, origin=Origin(pid=7, worker=2, generation=3))
    log.observe(RECORD)
    log.close()
    (line,) = written(stream)
    assert (line["pid"], line["worker"], line["generation"]) == (7, 2, 3)


@pytest.mark.parametrize("form", sorted(observe.FORMATS))
def test_a_complete_log_has_every_request(form: str) -> None:
    """Neither `exclude` nor `sample` counts, and no line has a rate, until it ends."""
    config = LogConfig.model_validate(
        {"exclude": [{"path": "/healthz"}], "sample": 0.5}
    )
    stream = io.StringIO()
    log = AccessLog(form, stream, selection=Selection(config))
    log.is_complete = True
    for number in range(50):
        for path in ("/healthz", "/a"):
            log.observe(
                Record(started=0.0, path=path, status=200, request_id=f"id-{number}")
            )
    log.close()
    assert len(stream.getvalue().splitlines()) == 100
    assert "sample" not in stream.getvalue()
