"""What checks have found: it reaches whom it concerns, over reloads and new hubs."""

from __future__ import annotations

from dataclasses import replace

from checked_services import check, loaded
from hypothesis import given
from hypothesis import strategies as st

from gateway.process.messages import Message
from gateway.process.plan_events import LoadedFile
from gateway.process.plan_state import Child, ChildPlace, Generation, WorkerChild
from gateway.process.plan_targets import MAX_EJECTED, SharedEjections, TargetStates
from gateway.process.target_messages import CheckTargets, TargetEjected, TargetsDown

A, B = "http://a:80", "http://b:80"
CHECK = check(service="up", targets=(A, B))


def checked(generation: int, *targets: str) -> LoadedFile:
    """Return a configuration that checks these *targets* of one service; or nothing."""
    checks = (replace(CHECK, targets=targets),) if targets else ()
    return loaded(generation, *checks)


def hub(number: int) -> Child:
    return Child(number=number, name="hub", place=ChildPlace(), since=0, drain_s=1)


def worker(number: int, of: LoadedFile) -> WorkerChild:
    return WorkerChild(
        number=number,
        name="worker",
        place=ChildPlace(),
        since=0,
        drain_s=1,
        generation=Generation(of, ()),
        slot=0,
    )


def test_without_checks_nobody_is_told_anything() -> None:
    """Not at the start, not after a reload, and no hub that replaces another."""
    here = TargetStates()
    for number, generation in ((1, 1), (1, 2), (2, 2)):
        assert not [*here.direct(hub(number), checked(generation))]
    assert not [*here.found(TargetsDown("up", (A,)), checked(2), [])]
    assert not [*here.known(checked(2))]


def test_a_hub_is_told_once_what_to_check() -> None:
    """And what is known already; a configuration without checks ends them."""
    here, of = TargetStates(), checked(1, A, B)
    assert [*here.direct(hub(1), of)] == [
        *(CheckTargets(None), CheckTargets(of.checks[0]))
    ]
    assert not [*here.direct(hub(1), of)]
    down = TargetsDown("up", (A,))
    assert not [*here.found(down, of, [])]
    expected = [CheckTargets(None), down, CheckTargets(of.checks[0])]
    assert [*here.direct(hub(2), of)] == expected
    assert [*here.direct(hub(2), checked(2))] == [CheckTargets(None)]
    assert not [*here.direct(hub(2), checked(3))]
    assert [*here.direct(hub(2), checked(4, A, B))] == expected[::2]


def test_workers_are_told_of_any_address_of_names_that_they_look_up() -> None:
    """The supervisor looks nothing up: it can't tell which addresses a name has."""
    of = loaded(1, replace(CHECK, resolve_s=10.0))
    here, down = TargetStates(), TargetsDown("up", ("http://10.0.0.1:80",))
    (sent,) = here.found(down, of, [worker(7, of)])
    assert sent.message == down
    assert [*here.known(of)] == [down]


def test_workers_are_told_of_the_targets_that_their_file_checks() -> None:
    """One of a file without checks would never hear that a target is up again."""
    here, old, new, none = (
        *(TargetStates(), checked(1, A, B), checked(2, B), checked(3)),
    )
    workers = [worker(7, old), worker(8, new), worker(9, none)]
    sent = [*here.found(TargetsDown("up", (A,)), old, workers)]
    told: dict[int, Message] = {send.child: send.message for send in sent}
    assert told == {7: TargetsDown("up", (A,)), 8: TargetsDown("up", ())}
    assert [*here.known(old)] == [TargetsDown("up", (A,))]
    assert [*here.known(new)] == [TargetsDown("up", ())]
    assert not [*here.known(none)]


targets = st.lists(st.sampled_from([A, B]), unique=True, max_size=2).map(tuple)


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("found"), targets),
            st.tuples(st.just("reload"), targets),
            st.tuples(st.just("hub"), targets),
        ),
        max_size=30,
    )
)
def test_the_last_word_counts(events: list[tuple[str, tuple[str, ...]]]) -> None:
    """A worker that starts knows what one that has run since the same file knows."""
    here, serving, number = TargetStates(), checked(1, A, B), 1
    [*here.direct(hub(number), serving)]
    running: set[str] = set()
    for generation, (what, named) in enumerate(events, start=2):
        match what:
            case "found":
                one = worker(1, serving)
                for send in here.found(TargetsDown("up", named), serving, [one]):
                    assert isinstance(send.message, TargetsDown)
                    running = {*send.message.targets}
            case "reload":
                serving = checked(generation, *named)
                running = {t for known in here.known(serving) for t in known.targets}
                assert running <= {*named}
                [*here.direct(hub(number), serving)]
            case _:
                number += 1
                [*here.direct(hub(number), serving)]
        new = {t for known in here.known(serving) for t in known.targets}
        assert new == running


def test_an_ejection_is_told_to_all_other_workers() -> None:
    here, of = SharedEjections(), checked(1)
    one, other = worker(7, of), worker(8, of)
    told = TargetEjected("up", A, 20.0)
    sent = [*here.add(told, one, [one, other], 10.0)]
    assert [(send.child, send.message) for send in sent] == [(8, told)]
    assert [*here.live(19.9)] == [told]
    assert not [*here.live(20.0)]


@given(
    st.lists(
        st.tuples(
            st.sampled_from([A, B]),
            st.none() | st.floats(0, 100),
            st.floats(0, 20),
        ),
        max_size=20,
    )
)
def test_the_last_that_was_told_counts(
    events: list[tuple[str, float | None, float]],
) -> None:
    """A new worker is told of each target what was told last, if it isn't over."""
    here, one, now = SharedEjections(), worker(1, checked(1)), 0.0
    last: dict[str, float | None] = {}
    for target, until, passed in events:
        now += passed
        last[target] = until
        assert not [*here.add(TargetEjected("up", target, until), one, [one], now)]
        live = {told.target: told.until for told in here.live(now)}
        assert live == {t: at for t, at in last.items() if at is not None and at > now}


def test_what_is_kept_is_bounded() -> None:
    """Those that are over make room; others are relayed without being kept."""
    here, of = SharedEjections(), checked(1)
    one, other = worker(1, of), worker(2, of)

    def add(name: str, until: float, now: float) -> int:
        told = TargetEjected("up", name, until)
        return len([*here.add(told, one, [one, other], now)])

    for number in range(MAX_EJECTED + 10):
        assert add(str(number), 10.0, 0.0) == 1
    assert len([*here.live(0.0)]) == MAX_EJECTED
    assert add("new", 30.0, 20.0) == 1
    assert [told.target for told in here.live(20.0)] == ["new"]
