"""Which targets are left out: after how many failures, for how long, and how many."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.ejection import SLOW_START_S, EjectionRules, Ejections

RULES = EjectionRules(failures=3, eject_s=10, max_eject_s=25, max_ejected=0.5)


def eject(here: Ejections, number: int, now: float) -> float:
    """Let a target fail until it is ejected; return for how long."""
    out_s = None
    for _ in range(RULES.failures):
        out_s = here.failed(number, now)
    assert out_s is not None
    return out_s


def test_failures_in_a_row_eject() -> None:
    """An answer in between begins a new row."""
    here = Ejections(2, RULES)
    assert here.failed(0, 0) is here.failed(0, 0) is None
    here.answered(0, 0)
    assert not here.is_troubled
    assert here.failed(0, 0) is here.failed(0, 0) is None
    assert here.usable() == (0, 1)
    assert here.failed(0, 0) == 10
    assert here.usable() == (1,)
    assert here.is_troubled


def test_one_request_tries_an_ejected_target() -> None:
    """Once its time is over, and no second one until the first has ended."""
    here = Ejections(2, RULES)
    eject(here, 0, now=0)
    assert here.trial(9.9) is None
    assert here.trial(10) == 0
    assert here.trial(10) is None
    assert here.usable() == (1,)
    assert here.answered(0, 10.5)
    assert here.usable() == (0, 1)


def test_a_trial_whose_end_is_never_told_is_followed_by_another() -> None:
    """The client that made it may have gone."""
    here = Ejections(2, RULES)
    eject(here, 0, now=0)
    assert here.trial(10) == 0
    assert here.trial(19.9) is None
    assert here.trial(20) == 0


def test_each_ejection_is_longer_up_to_a_limit() -> None:
    here = Ejections(2, RULES)
    now = 0.0
    lengths = [eject(here, 0, now)]
    for _ in range(3):
        now += lengths[-1]
        assert here.trial(now) == 0
        out_s = here.failed(0, now)
        assert out_s is not None
        lengths.append(out_s)
    assert lengths == [10, 20, 25, 25]


def test_ejections_are_forgotten_with_time() -> None:
    """One for each `eject_s` that the target has served."""
    here = Ejections(2, RULES)
    now = eject(here, 0, 0.0)
    here.trial(now)
    now += here.failed(0, now) or 0
    assert here.trial(now) == 0
    here.answered(0, now)
    assert eject(here, 0, now + 10.5) == 20  # 2 - 1 + 1
    here = Ejections(2, RULES)
    now = eject(here, 0, 0.0)
    here.trial(now)
    here.answered(0, now)
    assert eject(here, 0, now + 1000) == 10


def test_a_request_from_before_decides_nothing() -> None:
    """It was sent before the ejection: its failure isn't one of a trial's."""
    here = Ejections(2, RULES)
    eject(here, 0, now=0)
    assert here.failed(0, 1) is None
    assert not here.answered(0, 1)
    assert here.usable() == (1,)
    assert here.trial(10) == 0


def test_an_answer_in_need_ends_an_ejection() -> None:
    """The others have failed, so the target was asked before its time was over."""
    here = Ejections(2, RULES)
    eject(here, 0, now=0)
    assert here.answered(0, 1, in_need=True)
    assert here.usable() == (0, 1)
    assert here.share(0, 1) == 0.1
    assert eject(here, 1, now=2) == 10
    assert not here.answered(0, 3, in_need=True)


@pytest.mark.parametrize(
    ("targets", "share", "most"),
    [(1, 0.5, 0), (2, 0.5, 1), (3, 0.5, 1), (4, 0.5, 2), (3, 1.0, 2), (1, 1.0, 0)],
)
def test_some_targets_always_stay(targets: int, share: float, most: int) -> None:
    """At most the given part is ejected, and never the last one."""
    rules = EjectionRules(failures=1, eject_s=1, max_eject_s=1, max_ejected=share)
    here = Ejections(targets, rules)
    for number in range(targets):
        here.failed(number, 0)
    assert here.ejected == most
    assert len(here.usable()) == targets - most


def test_a_target_that_is_back_starts_slowly() -> None:
    """With a tenth of its requests, then more, and all after `SLOW_START_S`."""
    here = Ejections(2, RULES)
    assert here.share(0, 0) == 1
    eject(here, 0, now=0)
    here.trial(10)
    here.answered(0, 10)
    shares = [here.share(0, 10 + part * SLOW_START_S) for part in (0, 0.5, 1, 2)]
    assert shares == [0.1, 0.5, 1, 1]
    assert here.is_troubled
    here.answered(1, 10 + SLOW_START_S)
    assert not here.is_troubled


def test_another_worker_ejects() -> None:
    """Until the time that it has told; then one request of this worker is a trial."""
    here = Ejections(2, RULES)
    here.heard(0, 15, 5)
    assert here.usable() == (1,)
    here.answered(1, 6)
    assert here.is_troubled
    assert here.trial(14.9) is None
    assert here.trial(15) == 0
    assert here.answered(0, 15)


def test_another_worker_takes_back_what_it_has_ejected() -> None:
    """The target starts slowly here, too."""
    here = Ejections(2, RULES)
    here.heard(0, 15, 5)
    here.heard(0, None, 6)
    assert here.usable() == (0, 1)
    assert here.share(0, 6) == 0.1


def test_what_a_worker_has_found_itself_stays() -> None:
    """Another may prolong an ejection, not shorten it or end it."""
    here = Ejections(2, RULES)
    eject(here, 0, now=0)
    here.heard(0, None, 1)
    here.heard(0, 2, 1)
    assert here.usable() == (1,)
    assert here.trial(9.9) is None
    here.heard(0, 20, 9.9)
    assert here.trial(19.9) is None
    assert here.trial(20) == 0


@pytest.mark.parametrize("until", [1e12, 100.0])
def test_another_worker_can_eject_no_more_than_this_one(until: float) -> None:
    """Not the last target, nor for longer than `max_eject`; not for times gone by."""
    here = Ejections(2, RULES)
    here.heard(0, until, 0)
    here.heard(1, until, 0)
    assert here.usable() == (1,)
    assert here.trial(RULES.max_eject_s) == 0
    here = Ejections(2, RULES)
    here.heard(0, 1, 1)
    assert here.usable() == (0, 1)


@given(
    st.integers(1, 5),
    st.lists(
        st.tuples(
            st.sampled_from(["failed", "answered", "trial", "heard", "heard back"]),
            st.integers(0, 4),
            st.floats(0, 40),
        ),
        max_size=60,
    ),
)
def test_in_any_order_of_events(
    targets: int, events: list[tuple[str, int, float]]
) -> None:
    """A target is always usable; an ejected one is tried again in bounded time."""
    here = Ejections(targets, RULES)
    now = 0.0
    for what, number, passed in events:
        now += passed
        match what:
            case "failed":
                out_s = here.failed(number % targets, now)
                assert out_s is None or 0 < out_s <= RULES.max_eject_s
            case "answered":
                here.answered(number % targets, now)
            case "heard":
                here.heard(number % targets, now + 10 * passed, now)
            case "heard back":
                here.heard(number % targets, None, now)
            case _:
                tried = here.trial(now)
                assert tried is None or here.is_ejected(tried)
        assert here.usable()
        assert len(here.usable()) + here.ejected == targets
        assert here.ejected <= targets * RULES.max_ejected
    ejected = here.ejected
    tried_again = {here.trial(now + RULES.max_eject_s) for _ in range(targets)}
    assert len(tried_again - {None}) == ejected


def test_targets_that_stay_keep_their_state() -> None:
    """New ones begin without failures; numbers are those of the new order."""
    here = Ejections(3, RULES)
    eject(here, 1, now=0)
    here.failed(2, 0)
    here.failed(2, 0)
    other = here.renumbered([2, None, 1, None])
    assert other.usable() == (0, 1, 3)
    assert other.is_troubled
    assert other.failed(0, 1) == 10
    assert other.failed(1, 1) is None
    assert other.trial(10) == 2


@pytest.mark.parametrize(("before", "usable"), [([0, 1], (1,)), ([0, 1, 2], (1, 2))])
def test_no_more_than_the_greatest_part_stays_ejected(
    before: list[int | None], usable: tuple[int, ...]
) -> None:
    """When the targets that were well have left, ejected ones are taken back."""
    here = Ejections(4, RULES)
    eject(here, 0, now=0)
    eject(here, 1, now=0)
    assert here.renumbered(before).usable() == usable
