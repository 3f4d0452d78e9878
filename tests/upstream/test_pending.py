"""The queue of requests that wait for a place: whose turn it is, and who is refused."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.upstream.pending import PendingQueue


def filled(most: int, *items: str) -> tuple[PendingQueue[str], list[str]]:
    """Return a queue with *items*, and those that were refused.

    `a1` is an item of the client `a`; `A1` is a critical one of it. `-1` has no client.
    """
    queue: PendingQueue[str] = PendingQueue(most)
    refused = []
    for item in items:
        client = None if item.startswith("-") else item[0].lower()
        lost = queue.add(item, client, is_critical=item[0].isupper())
        if lost is not None:
            refused.append(lost)
    return queue, refused


def drained(queue: PendingQueue[str]) -> list[str]:
    items = []
    while (item := queue.next()) is not None:
        items.append(item)
    return items


def test_equals_go_in_the_order_of_their_arrival() -> None:
    queue, refused = filled(4, "a1", "b1", "c1", "-1")
    assert len(queue) == 4
    assert drained(queue) == ["a1", "b1", "c1", "-1"]
    assert not refused
    assert len(queue) == 0


def test_clients_take_turns() -> None:
    """One with many requests delays another's first one by one request."""
    queue, _ = filled(9, "a1", "a2", "a3", "a4", "b1", "c1", "b2")
    assert drained(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_requests_without_a_client_are_not_one_client() -> None:
    """They come from many users behind one address, who must not share one turn."""
    queue, _ = filled(9, "-1", "-2", "a1", "-3", "a2")
    assert drained(queue) == ["-1", "-2", "a1", "-3", "a2"]


def test_critical_requests_come_before_all_others() -> None:
    queue, _ = filled(9, "a1", "b1", "A2", "C1", "A3")
    assert drained(queue) == ["A2", "C1", "A3", "a1", "b1"]


def test_a_full_queue_refuses_the_new_request_of_the_busiest_client() -> None:
    queue, refused = filled(3, "a1", "a2", "b1", "a3")
    assert refused == ["a3"]
    assert drained(queue) == ["a1", "b1", "a2"]


def test_a_full_queue_takes_the_place_from_the_busiest_client() -> None:
    """From its last request: the others have waited longer."""
    queue, refused = filled(4, "a1", "a2", "b1", "a3", "c1", "d1", "e1")
    assert refused == ["a3", "a2", "e1"]
    assert drained(queue) == ["a1", "b1", "c1", "d1"]


def test_a_critical_request_takes_the_place_of_another() -> None:
    """Whoever that is; among themselves, critical ones are as fair as all others."""
    queue, refused = filled(2, "b1", "c1", "A1", "A2", "A3", "D1")
    assert refused == ["b1", "c1", "A3", "A2"]
    assert drained(queue) == ["A1", "D1"]


def test_others_never_take_the_place_of_a_critical_request() -> None:
    queue, refused = filled(2, "A1", "A2", "b1")
    assert refused == ["b1"]
    assert drained(queue) == ["A1", "A2"]


def test_nothing_waits_in_a_queue_without_room() -> None:
    queue, refused = filled(0, "a1", "B1")
    assert refused == ["a1", "B1"]
    assert drained(queue) == []


def test_a_request_that_has_left_has_no_turn() -> None:
    """Leaving twice is harmless, and its place is free."""
    queue, refused = filled(3, "a1", "a2", "b1")
    queue.remove("a1")
    queue.remove("a1")
    assert queue.add("c1", "c") is None
    assert drained(queue) == ["a2", "b1", "c1"]
    assert not refused


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "next", "remove"]),
            st.sampled_from("abcd"),
            st.booleans(),
        ),
        max_size=80,
    ),
    st.integers(0, 6),
)
def test_any_order_of_operations(steps: list[tuple[str, str, bool]], most: int) -> None:
    """It never has more than its most, and loses none but those that it returns."""
    queue: PendingQueue[int] = PendingQueue(most)
    inside: dict[int, bool] = {}
    for number, (what, client, is_critical) in enumerate(steps):
        if what == "add":
            inside[number] = is_critical
            lost = queue.add(number, client, is_critical=is_critical)
            if lost is not None:
                assert is_critical or not inside[lost]
                del inside[lost]
        elif what == "next":
            item = queue.next()
            assert (item is None) == (not inside)
            if item is not None:
                assert inside[item] == any(inside.values())
                del inside[item]
        elif inside:
            item = min(inside)
            queue.remove(item)
            del inside[item]
        assert len(queue) == len(inside) <= most
