"""PURE. What the supervisor's plan has written for operators: lines with their facts.

Lines that need no more than their text are in `plan`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.events import RuntimeEvent
from gateway.process.messages import Notice
from gateway.process.plan_events import LoadedFile, LogLine
from gateway.process.plan_state import Child, WorkerChild

_MAX_NOTICES: Final = 64


class Notices:
    """What workers have noticed of the whole gateway, each reported once."""

    def __init__(self) -> None:
        self._reported: set[tuple[RuntimeEvent, str]] = set()

    def lines(self, notice: Notice) -> Iterator[LogLine]:
        """Yield the line about *notice*, unless an equal one was reported.

        A client can cause one, so their number is limited.
        """
        event, text = notice.event, notice.message
        # The first proxy is enough: its address is only an example.
        key = event, "" if event is RuntimeEvent.PROXY_NOT_TRUSTED else text
        if key not in self._reported and len(self._reported) < _MAX_NOTICES:
            self._reported.add(key)
            yield LogLine(event, text, notice.facts)


def lost(
    child: Child, ending: str, *, pid: int | None, restart_in_s: float | None
) -> LogLine:
    """Return the line about a child that has ended as *ending* says.

    *restart_in_s* is when another one starts; None: never.
    """
    message = ending
    if restart_in_s is not None:
        message = f"{ending}; another one starts in {restart_in_s:.1f} s"
    facts = {"lost_pid": pid, "reason": child.reason, "restart_in_s": restart_in_s}
    if isinstance(child, WorkerChild):
        return LogLine(
            RuntimeEvent.WORKER_LOST, message, {"lost": child.slot + 1, **facts}
        )
    return LogLine(RuntimeEvent.HUB_LOST, message, facts)


def restart_needed(old: LoadedFile, new: LoadedFile) -> Iterator[LogLine]:
    """Yield a line for each key that a reload has changed in vain."""
    for key, is_changed in (
        ("gateway.listen", old.listen != new.listen),
        ("gateway.probes.listen", old.probes != new.probes),
        ("gateway.decision.listen", old.decision != new.decision),
        ("gateway.decision.grpc", old.grpc != new.grpc),
        ("gateway.pidfile", old.pidfile != new.pidfile),
        ("gateway.admin", old.admin != new.admin),
        ("log.format", old.log_format != new.log_format),
    ):
        if is_changed:
            message = f"{key} has changed: that needs a restart"
            yield LogLine(RuntimeEvent.RESTART_NEEDED, message, {"key": key})


def stopping(config: LoadedFile, delay_s: float) -> LogLine:
    """Return the line after a signal to stop; *delay_s*: connections are accepted."""
    message = "stopping: requests in flight are finished"
    if delay_s:
        message = f"stopping: connections are accepted for another {delay_s:g} s"
    return LogLine(
        RuntimeEvent.SHUTDOWN, message, {"delay_s": delay_s, "drain_s": config.drain_s}
    )


def not_reloaded(problems: tuple[str, ...]) -> Iterator[LogLine]:
    """Yield a line for each problem of a file, and one about the outcome."""
    for problem in problems:
        yield LogLine(RuntimeEvent.CONFIG_PROBLEM, problem)
    yield LogLine(
        RuntimeEvent.RELOAD_REFUSED,
        "not reloaded: the old configuration stays in use",
        {"problems": len(problems)},
    )
