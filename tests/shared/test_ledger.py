"""What is to be sent is what this gateway has and the stream lacks."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from gateway.session.deny_list import UserDenial, UserScope
from gateway.shared.entries import SharedDenials
from gateway.shared.ledger import TRIM_MARGIN_S, DenialLedger, EntryEnds

NOW = 1_700_000_000.0
HOUR = 3600.0


def user(name: str, before: float = NOW, until: float = NOW + HOUR) -> UserDenial:
    return UserDenial(UserScope(name), before, until)


def some(*handles: str, users: tuple[UserDenial, ...] = ()) -> SharedDenials:
    return SharedDenials(dict.fromkeys(handles, NOW + HOUR), users)


def test_new_denials_are_taken_once() -> None:
    """A denial that was sent isn't missing."""
    here = DenialLedger()
    here.deny(some("a", users=(user("u"),)), NOW)
    assert here.waiting == 2
    taken = here.take()
    assert taken == some("a", users=(user("u"),))
    assert (here.waiting, here.take()) == (0, SharedDenials())
    here.sent(taken, NOW)
    assert not here.missing(NOW)


def test_what_was_lost_is_missing_after_the_next_reading() -> None:
    """This gateway's own at once; those of others, too, if anyone asks."""
    here = DenialLedger()
    here.know(some("inherited"), NOW)
    here.deny(some("mine", users=(user("u"),)), NOW)
    here.take()  # and the connection is lost
    assert here.read(some("theirs"), NOW) == some("theirs")
    here.begin()
    assert here.missing(NOW, own_only=True) == some("mine", users=(user("u"),))
    everything = some("inherited", "mine", "theirs", users=(user("u"),))
    assert here.missing(NOW) == everything
    assert not here.read(some("mine", "theirs"), NOW)
    assert here.missing(NOW, own_only=True) == some(users=(user("u"),))


def test_news_are_reported_once_and_longer_ones_again() -> None:
    """A denial that ends later, or is about later sessions, is news."""
    here = DenialLedger()
    first = some("a", users=(user("u"),))
    assert here.read(first, NOW) == first
    assert not here.read(first, NOW)
    assert not here.read(SharedDenials({"a": NOW + 1}, (user("u", NOW - 1),)), NOW)
    longer = SharedDenials({"a": NOW + 2 * HOUR}, (user("u", NOW + 1),))
    assert here.read(longer, NOW) == longer
    assert not here.read(SharedDenials({"over": NOW}, (user("x", until=NOW),)), NOW)


def test_denials_that_are_over_are_not_sent_again() -> None:
    here = DenialLedger()
    here.deny(some("a", users=(user("u"),)), NOW)
    here.begin()
    assert here.missing(NOW + HOUR - 1)
    assert not here.missing(NOW + HOUR)


def test_it_is_bounded() -> None:
    """The oldest are forgotten, as in every deny-list."""
    here = DenialLedger(max_sessions=3)
    for number in range(10):
        here.deny(some(f"h{number}", users=(user(f"u{number}"),)), NOW)
    assert here.waiting == 6
    assert len({**here.missing(NOW).ends}) + len(here.missing(NOW).users) == 3


names = st.sampled_from("abcdef")
ends = st.dictionaries(names, st.sampled_from([NOW + 1, NOW + 2, NOW + 3]), max_size=3)


class TwoGateways(RuleBasedStateMachine):
    """Two ledgers and a stream that may lose anything at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.stream: list[SharedDenials] = []
        self.here = [DenialLedger(), DenialLedger()]
        self.knows: list[dict[str, float]] = [{}, {}]
        self.place = [0, 0]
        self.made: dict[str, float] = {}

    def _know(self, who: int, news: SharedDenials) -> None:
        for handle, until in news.ends.items():
            assert until > self.knows[who].get(handle, 0.0), "no news"
            self.knows[who][handle] = until

    @rule(who=st.integers(0, 1), denied=ends)
    def deny(self, who: int, denied: dict[str, float]) -> None:
        self.here[who].deny(SharedDenials(denied), NOW)
        for handle, until in denied.items():
            for known in (self.knows[who], self.made):
                known[handle] = max(until, known.get(handle, 0.0))

    @rule(who=st.integers(0, 1), arrives=st.booleans())
    def send(self, who: int, arrives: bool) -> None:
        taken = self.here[who].take()
        if arrives:
            self.stream.append(taken)
            self.here[who].sent(taken, NOW)

    @rule(who=st.integers(0, 1))
    def read(self, who: int) -> None:
        for entry in self.stream[self.place[who] :]:
            self._know(who, self.here[who].read(entry, NOW))
        self.place[who] = len(self.stream)

    @rule(kept=st.integers(0, 3))
    def lose(self, kept: int) -> None:
        del self.stream[kept:]
        self.place = [min(place, len(self.stream)) for place in self.place]

    @rule(who=st.integers(0, 1))
    def connect(self, who: int) -> None:
        """As `Sharing` does: read all, send what is missing."""
        ledger = self.here[who]
        ledger.begin()
        ledger.take()
        for entry in self.stream:
            self._know(who, ledger.read(entry, NOW))
        missing = ledger.missing(NOW, own_only=True)
        self.stream.append(missing)
        ledger.sent(missing, NOW)
        self.place[who] = len(self.stream)

    def teardown(self) -> None:
        for who in (0, 1):
            self.connect(who)
        for who in (0, 1):
            self.read(who)
            assert self.knows[who] == self.made
        later = DenialLedger()
        for entry in self.stream:
            later.read(entry, NOW)
        assert not [
            handle
            for handle, until in later.missing(NOW - 1e9).ends.items()
            if self.made[handle] != until
        ]


TestTwoGateways = TwoGateways.TestCase


def test_the_stream_is_kept_from_the_first_entry_that_matters() -> None:
    """Until its denials have ended, with a margin for clocks that differ."""
    ends_of = EntryEnds()
    assert ends_of.needed_from(NOW) is None
    ends_of.add("1-0", SharedDenials({"long": NOW + 1000}))
    ends_of.add("2-0", SharedDenials({"short": NOW + 10}))
    ends_of.add("3-0", SharedDenials({"longer": NOW + 2000}))
    assert ends_of.needed_from(NOW + 1000 + TRIM_MARGIN_S - 1) == "1-0"
    assert ends_of.needed_from(NOW + 1000 + TRIM_MARGIN_S) == "3-0"
    assert ends_of.needed_from(NOW + 2000 + TRIM_MARGIN_S) == "3-0"


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=60), st.integers(0, 6000))
def test_no_entry_that_matters_is_trimmed(lives: list[int], later: int) -> None:
    """In any order of ends."""
    ends_of = EntryEnds()
    for number, life in enumerate(lives):
        ends_of.add(f"{number}-0", SharedDenials({"h": NOW + life}))
    needed = ends_of.needed_from(NOW + later)
    assert needed is not None
    dropped = lives[: int(needed.partition("-")[0])]
    assert all(life <= later for life in dropped)


@pytest.mark.parametrize("count", [100_000])
def test_it_remembers_few_entries(count: int) -> None:
    """One for each minute at most, over all the time that a denial may last."""
    ends_of = EntryEnds()
    for number in range(count):
        ends_of.add(f"{number}-0", SharedDenials({"h": NOW + number * 0.01}))
    assert len(ends_of._rising) <= 20
