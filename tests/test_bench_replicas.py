"""What the load over several gateways judges, and how far a long step is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bench.rig.ended import Answer, Judge, Session
from bench.rig.progress import EVERY_S, Progress

GOOD = Answer(status=200, user="ann", gateway=1, worker=7, sent_at=10.0, got_at=10.1)
REFUSED = replace(GOOD, status=401, user="", sent_at=10.2, got_at=10.3)


def session(ended_at: float | None = None, ended_by: int | None = None) -> Session:
    return Session("token", "ann", ended_at=ended_at, ended_by=ended_by)


def judged(one: Session, *answers: Answer) -> Judge:
    judge = Judge()
    for answer in answers:
        judge.judge(one, answer)
    return judge


@pytest.mark.parametrize(
    ("answer", "others", "unexpected"),
    [
        (GOOD, 0, 0),
        (replace(GOOD, user="bob"), 1, 0),
        (replace(GOOD, user=""), 1, 0),
        (REFUSED, 0, 1),
        (replace(GOOD, status=503), 0, 1),
        (replace(GOOD, status=0), 0, 1),
    ],
)
def test_a_session_that_lives_is_its_users(
    answer: Answer, others: int, unexpected: int
) -> None:
    """Each request is accepted, for nobody else."""
    judge = judged(session(), answer)
    assert (judge.others, judge.unexpected) == (others, unexpected)
    assert len(judge.faults) == others + unexpected


@pytest.mark.parametrize(
    ("answer", "here_s", "elsewhere_s"),
    [
        (replace(GOOD, sent_at=9.0), 0, 0),
        (replace(GOOD, sent_at=9.5), 0, 0),
        (replace(GOOD, sent_at=9.75), 0, 0.25),
        (replace(GOOD, sent_at=9.75, gateway=2), 0.25, 0),
        (REFUSED, 0, 0),
    ],
)
def test_the_last_acceptance_after_a_sign_out(
    answer: Answer, here_s: float, elsewhere_s: float
) -> None:
    """It counts from the sign-out's answer: a request may have been sent before."""
    one = session(9.5, ended_by=2)
    judge = judged(one, answer, REFUSED)
    assert (one.here_s, one.elsewhere_s) == (here_s, elsewhere_s)
    assert judge.unexpected == 0


@pytest.mark.parametrize(
    ("later", "count"),
    [
        (replace(GOOD, sent_at=10.4), 1),
        (replace(GOOD, sent_at=10.4, worker=8), 0),
        (replace(GOOD, sent_at=10.25), 0),
    ],
)
def test_a_worker_never_accepts_what_it_has_refused(later: Answer, count: int) -> None:
    """Another one may, and one whose refusal wasn't there when the request was sent."""
    assert judged(session(9.5, 2), REFUSED, later).after_message == count


def test_progress_is_said_now_and_then() -> None:
    """With an estimate from what is done; nothing in a short step."""
    times = [EVERY_S * turn for turn in (0, 0.5, 1, 1.1, 3)]
    lines: list[str] = []
    progress = Progress(3_000, "requests", clock=iter(times).__next__, say=lines.append)
    for done in (500, 1_000, 1_100, 2_000):
        progress.note(done)
    assert lines == [
        "  1,000 of 3,000 requests, about 20 s left",
        "  2,000 of 3,000 requests, about 15 s left",
    ]


def test_progress_knows_nothing_before_the_first_part() -> None:
    times, lines = iter([0.0, EVERY_S * 2]), list[str]()
    progress = Progress(10, "users", clock=times.__next__, say=lines.append)
    progress.note(0)
    assert not lines
