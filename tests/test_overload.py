"""A worker that is late refuses some requests, and says so."""

from __future__ import annotations

import asyncio
import logging
from typing import cast

import pytest
from faults import until

from gateway import config, overload
from gateway.decide import Decider
from gateway.shedding import Shedding


class FakeDecider:
    """The part of a decider that is set."""

    def __init__(self) -> None:
        self.shedding: Shedding | None = None


def test_begin_and_end_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    """In between the share changes without a line; afterwards nothing is refused."""
    decider = FakeDecider()
    judge = overload.Judge(Shedding(0.1, 0.9), cast("Decider", decider))
    shares = []
    with caplog.at_level(logging.WARNING, logger="gateway"):
        for least_s in (0.0, 0.2, 0.2, *(0.0,) * 9):
            judge(least_s)
            shares.append(0.0 if decider.shedding is None else decider.shedding.share)
    assert shares[:3] == pytest.approx([0.0, 0.2, 0.4])
    assert decider.shedding is None
    codes = [vars(record)["event"].code for record in caplog.records]
    assert codes == ["overloaded", "overload_over"]


async def test_nothing_is_watched_unless_it_is_asked_for() -> None:
    before = asyncio.all_tasks()
    async with overload.watching(None, cast("Decider", FakeDecider())):
        assert asyncio.all_tasks() == before


async def test_the_loop_is_watched_until_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each judgment of the loop's delay reaches the decider; no task is left behind."""
    decider, before = FakeDecider(), asyncio.all_tasks()
    monkeypatch.setattr("gateway.observe.loop_lag._JUDGED_S", 0.0)
    settings = config.OverloadConfig(lag=1e-9, max_share=0.7)
    async with overload.watching(settings, cast("Decider", decider)):
        await until(lambda: decider.shedding is not None)
    assert asyncio.all_tasks() == before
