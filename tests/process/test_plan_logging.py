"""What is logged: an operator's word reaches everyone, and ends with a reload."""

from __future__ import annotations

from dataclasses import replace

from checked_services import loaded
from hypothesis import given
from hypothesis import strategies as st

from gateway.admin.bodies import LOG_LEVELS, LOG_REQUESTS, LogChange
from gateway.events import Severity
from gateway.process.admin_messages import LogAs, LogChangeWanted
from gateway.process.plan_events import LoadedFile, Send, WriteFrom
from gateway.process.plan_logging import LoggingPlan
from gateway.process.plan_state import Child, ChildPlace

INFO, WARNING, ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


def config(level: Severity = INFO, generation: int = 1) -> LoadedFile:
    return replace(loaded(generation), log_level=level)


def child(number: int) -> Child:
    return Child(number=number, name="a", place=ChildPlace(), since=0, drain_s=1)


HUB, WORKERS = child(1), [child(2), child(3)]


def wanted(
    number: int, level: str | None = None, requests: str | None = None
) -> LogChangeWanted:
    return LogChangeWanted(number, LogChange(level, requests))


def test_with_the_defaults_nobody_is_told_anything() -> None:
    """Not at the start, not after a reload, and no hub that replaces another."""
    here = LoggingPlan(config())
    for hub in (1, 1, 2):
        assert not [*here.direct(child(hub))]
        assert not [*here.begin()]
    assert not [*here.reloaded(config(), HUB, WORKERS)]


def test_a_change_reaches_everyone_and_is_answered_last() -> None:
    """The supervisor, all workers, and the hub; later ones, too, when they begin."""
    here = LoggingPlan(config())
    now = LogAs(WARNING, True, False)
    assert [*here.change(wanted(7, "warning"), HUB, WORKERS)] == [
        *(WriteFrom(WARNING), Send(2, now), Send(3, now)),
        Send(1, replace(now, number=7)),
    ]
    assert [*here.begin()] == [now]
    assert not [*here.direct(HUB)]
    assert [*here.direct(child(9))] == [now]


def test_what_a_change_does_not_name_stays() -> None:
    """Each of the two can be set, and given back to the file, by itself."""
    here = LoggingPlan(config(ERROR))
    for change, expected in (
        (wanted(1, requests="all"), LogAs(ERROR, False, True)),
        (wanted(1, "info"), LogAs(INFO, True, True)),
        (wanted(1, requests="configured"), LogAs(INFO, True, False)),
        (wanted(1, "error"), LogAs(ERROR, True, False)),
        (wanted(1, "configured"), LogAs(ERROR, False, False)),
    ):
        *_, answer = here.change(change, HUB, WORKERS)
        assert answer == Send(1, replace(expected, number=1))
    assert not [*here.begin()]


def test_a_repeated_change_is_answered_and_told_to_nobody_else() -> None:
    """What is in force already needs no message."""
    here = LoggingPlan(config())
    [*here.change(wanted(1, "error", "all"), HUB, WORKERS)]
    again = [*here.change(wanted(2, "error", "all"), HUB, WORKERS)]
    assert again == [Send(1, LogAs(ERROR, True, True, 2))]


def test_a_reload_ends_what_an_operator_has_set() -> None:
    """All are told, those that drain and the new ones alike."""
    here = LoggingPlan(config())
    [*here.change(wanted(1, "error", "all"), HUB, WORKERS)]
    now = LogAs(WARNING)
    assert [*here.reloaded(config(WARNING), HUB, WORKERS)] == [
        *(WriteFrom(WARNING), Send(2, now), Send(3, now), Send(1, now)),
    ]
    assert not [*here.begin()]
    assert [*here.direct(child(9))] == [now]


class Heard:
    """What a child logs: what its file says, until it is told something else."""

    def __init__(self, level: Severity) -> None:
        self.now = LogAs(level)

    def said(self) -> tuple[Severity, bool]:
        return self.now.least, self.now.all_requests


@given(
    st.lists(
        st.one_of(
            st.builds(
                LogChange,
                st.none() | st.sampled_from(LOG_LEVELS),
                st.none() | st.sampled_from(LOG_REQUESTS),
            ),
            st.sampled_from(Severity),
            st.sampled_from(["worker", "hub"]),
        ),
        max_size=20,
    )
)
def test_all_log_alike(events: list[LogChange | Severity | str]) -> None:
    """In any order of changes, reloads and new children, all log as the last word says.

    A reload is a severity: its file's. Its workers have begun before it takes over.
    """
    level = INFO
    here = LoggingPlan(config(level))
    hub, last, supervisor = 1, 2, level
    heard = {1: Heard(INFO), 2: Heard(level)}
    for event in events:
        told: list[Send | WriteFrom] = []
        last += 1
        workers = [child(number) for number in heard if number != hub]
        match event:
            case LogChange():
                told += here.change(LogChangeWanted(1, event), child(hub), workers)
            case Severity():
                heard[last] = Heard(event)
                told += [Send(last, message) for message in here.begin()]
                level = event
                everyone = [*workers, child(last)]
                told += here.reloaded(config(level), child(hub), everyone)
            case "worker":
                heard[last] = Heard(level)
                told += [Send(last, message) for message in here.begin()]
            case _:
                del heard[hub]
                hub = last
                heard[hub] = Heard(INFO)
                told += [Send(hub, message) for message in here.direct(child(hub))]
        for one in told:
            match one:
                case Send(number, message):
                    assert isinstance(message, LogAs)
                    heard[number].now = message
                case WriteFrom(least):
                    supervisor = least
        assert {each.said() for each in heard.values()} == {heard[hub].said()}
        assert supervisor is heard[hub].now.least
        if not heard[hub].now.is_least_set:
            assert supervisor is level
