"""The slowest exchange is cut, first among clients that hold more than their share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.places import ClientWait, PlaceLimits, slowest

LIMITS = PlaceLimits(max_connections=8, max_waiting=4, share=0.5)

WAITS = st.builds(
    ClientWait,
    client=st.sampled_from([None, "a", "b", "c"]),
    size=st.integers(0, 10_000),
    waited_s=st.floats(0, 100),
)


@pytest.mark.parametrize(
    ("waits", "index"),
    [
        ([("a", 500, 10.0), ("b", 400, 10.0), ("c", 600, 10.0)], 1),
        ([("a", 100, 1.0), ("b", 900, 10.0)], 1),
        # Not yet judged: its rate says nothing.
        ([("a", 0, 0.5), ("b", 9000, 10.0)], 1),
        ([("a", 0, 0.1), ("b", 0, 0.5), ("c", 0, 0.2)], 1),
        # Above its share of two, though the others are slower.
        ([("a", 900, 10.0), ("b", 1, 10.0), ("a", 800, 10.0), ("c", 1, 10.0)], 2),
        # No share of its own: a proxy isn't one client.
        ([(None, 900, 10.0), (None, 800, 10.0), (None, 700, 10.0), ("c", 1, 10.0)], 3),
    ],
    ids=["rate", "not bytes", "grace", "all in grace", "share", "no share"],
)
def test_the_exchange_that_is_cut(
    waits: list[tuple[str | None, int, float]], index: int
) -> None:
    assert slowest([ClientWait(*wait) for wait in waits], LIMITS) == [index]


@given(st.lists(WAITS, min_size=1, max_size=12))
def test_nobody_below_its_share_is_cut_while_another_is_above(
    waits: list[ClientWait],
) -> None:
    def count(client: str | None) -> int:
        return sum(wait.client == client for wait in waits)

    (index,) = slowest(waits, LIMITS)
    cut = waits[index]
    over = {wait.client for wait in waits if wait.client and count(wait.client) >= 2}
    assert not over or cut.client in over
    rivals = [wait for wait in waits if not over or wait.client in over]
    judged = [wait for wait in rivals if wait.waited_s >= 1]
    if judged:
        assert cut.size / cut.waited_s == min(w.size / w.waited_s for w in judged)
    else:
        assert cut.waited_s == max(wait.waited_s for wait in rivals)


@given(st.lists(WAITS, max_size=12), st.integers(1, 12))
def test_a_ranking_is_what_one_cut_after_the_other_would_be(
    waits: list[ClientWait], most: int
) -> None:
    """Apart from clients that come below their share by a cut."""
    everyone = PlaceLimits(8, 4, share=1000)
    ranking = slowest(waits, everyone, most)
    left = dict(enumerate(waits))
    for index in ranking:
        (first,) = slowest(list(left.values()), everyone)
        assert left[list(left)[first]] == waits[index]
        del left[list(left)[first]]
    assert len(ranking) == min(most, len(waits))


@pytest.mark.parametrize(
    ("connections", "scarce_at"), [(1, 1), (7, 7), (8, 7), (16, 14), (256, 224)]
)
def test_an_eighth_of_the_connections_is_for_clients_below_their_share(
    connections: int, scarce_at: int
) -> None:
    assert PlaceLimits(connections, 1).scarce_at == scarce_at


@pytest.mark.parametrize(
    ("held", "limit", "share", "is_over"),
    [(3, 8, 0.5, False), (4, 8, 0.5, True), (7, 8, 1.0, False), (0, 1, 0.5, False)],
)
def test_a_share_is_a_part_of_the_limit(
    held: int, limit: int, share: float, *, is_over: bool
) -> None:
    assert PlaceLimits(1, 1, share).is_over_share(held, limit) is is_over
