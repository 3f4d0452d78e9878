"""When changed files are to be loaded again, and who is told to look."""

from __future__ import annotations

import pytest

from gateway.process.admin_messages import WatchFiles
from gateway.process.plan_watch import HubWatch
from gateway.process.watching import WatchState, look

CASES: dict[str, tuple[str, str]] = {
    "nothing changes": ("AAAA", "...."),
    "a change is seen twice before it counts": ("ABB", "..x"),
    "it is asked for once, though the load takes its time": ("BBBBB", ".x..."),
    "half a file isn't loaded": ("ABCDD", "....x"),
    "a change that is undone at once": ("ABAA", "...."),
    "a change that is undone while it is loaded": ("BBAABB", ".x...x"),
    "another change while it is loaded": ("BBCC", ".x.x"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_content_is_asked_for_once_when_it_is_stable(name: str) -> None:
    """`x`: a reload is asked for. `A` is what was loaded."""
    found, expected = CASES[name]
    state, asked = WatchState("A"), ""
    for content in found:
        state, is_wanted = look(state, content)
        asked += "x" if is_wanted else "."
    assert asked == expected


def test_a_hub_is_told_once_and_a_new_one_again() -> None:
    """One that watches is told when there is nothing left to watch."""
    first = WatchFiles(("=:a",), "1", 5.0)
    watch = HubWatch(None)
    assert list(watch.told(3)) == []
    assert not watch.may_ask(3)
    watch.want(first)
    assert list(watch.told(3)) == [first]
    assert list(watch.told(3)) == []
    assert list(watch.told(4)) == [first]
    assert not watch.may_ask(3)
    assert watch.may_ask(4)
    watch.want(None)
    assert list(watch.told(4)) == [WatchFiles((), "", 5.0)]
    assert list(watch.told(4)) == []
    assert list(watch.told(5)) == []
