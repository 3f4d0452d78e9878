"""`Runner`: when a coroutine is resumed, after our own waits and after asyncio's.

Each test runs on both event loops.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import weakref
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
import uvloop

from gateway import running
from gateway.running import Runner, Turns, Wait, ensure_task, turns_of

PATIENCE_S = 60.0

Test = Callable[..., Coroutine[Any, Any, None]]


def on_both_loops(test: Test) -> Callable[..., None]:
    """Return a test that runs *test* on asyncio's own loop, and on uvloop's."""

    def run(make_loop: Callable[[], asyncio.AbstractEventLoop], **kwargs: Any) -> None:
        with asyncio.Runner(loop_factory=make_loop) as runner:
            errors: list[dict[str, Any]] = []
            runner.get_loop().set_exception_handler(
                lambda _, context: errors.append(context)
            )
            runner.run(asyncio.wait_for(test(**kwargs), PATIENCE_S))
            assert running._current is None
        assert not errors

    signature = inspect.signature(test)
    first = inspect.Parameter("make_loop", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined] # PEP 362
        parameters=[first, *signature.parameters.values()]
    )
    run.__name__, run.__doc__ = test.__name__, test.__doc__
    run.__dict__.update(test.__dict__)  # marks
    loops = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    mark = pytest.mark.parametrize("make_loop", loops.values(), ids=loops)
    marked: Callable[..., None] = mark(run)
    return marked


class Run(Runner):
    """Drives one coroutine, and calls *ends* when it is over."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        coroutine: Coroutine[Any, Any, None],
        ends: Callable[[BaseException | None], object],
    ) -> None:
        super().__init__(loop)
        self._ends = ends
        self._coroutine = coroutine

    def on_coroutine_end(self, error: BaseException | None) -> None:
        self._ends(error)


class Ends:
    """Records the calls of a run's `on_coroutine_end`, in order."""

    def __init__(self) -> None:
        self.errors: list[BaseException | None] = []
        self._is_over = asyncio.Event()

    def __call__(self, error: BaseException | None) -> None:
        self.errors.append(error)
        self._is_over.set()

    @property
    def kinds(self) -> list[type[BaseException] | None]:
        return [None if error is None else type(error) for error in self.errors]

    async def some(self) -> list[type[BaseException] | None]:
        """Wait for the first end; return the types of all errors, None for none."""
        await self._is_over.wait()
        await turns()
        return self.kinds


async def turns(count: int = 5) -> None:
    """Run the loop for *count* turns, so that callbacks and what they schedule run."""
    for _ in range(count):
        await asyncio.sleep(0)


def begin(coroutine: Coroutine[Any, Any, None], ends: Ends) -> Run:
    """Run *coroutine* until it waits for the first time."""
    run = Run(asyncio.get_running_loop(), coroutine, ends)
    run.step()
    return run


# --- the end of a wait -----------------------------------------------------------


@on_both_loops
async def test_ending_a_wait_resumes_the_coroutine_at_once() -> None:
    """It runs without a turn of the loop in between, up to its next wait or its end."""
    said: list[object] = []
    first, second = Wait[int](), Wait[str]()

    async def waiting() -> None:
        said.append("begun")
        said.append(await first)
        said.append(await second)

    ends = Ends()
    begin(waiting(), ends)
    assert said == ["begun"]
    first.end(1)
    assert (said, ends.errors) == (["begun", 1], [])
    second.end("2")
    assert (said, ends.errors) == (["begun", 1, "2"], [None])


@on_both_loops
async def test_a_wait_that_has_ended_does_not_suspend() -> None:
    """Awaiting it gives its value, or raises its error, at once."""
    good, bad = Wait[int](), Wait[int]()
    good.end(1)
    bad.fail(ValueError("bad"))
    said: list[object] = []

    async def waiting() -> None:
        said.append(await good)
        with pytest.raises(ValueError, match="bad"):
            await bad
        said.append("failed")

    ends = Ends()
    begin(waiting(), ends)
    assert (said, ends.errors) == ([1, "failed"], [None])


@on_both_loops
async def test_the_error_of_a_wait_is_raised_in_the_coroutine() -> None:
    """If it isn't caught there, `on_coroutine_end` gets it once; `fail` returns."""
    wait = Wait[None]()
    error = ValueError()

    async def waiting() -> None:
        await wait

    ends = Ends()
    begin(waiting(), ends)
    wait.fail(error)
    assert ends.errors == [error]
    await turns()
    assert ends.errors == [error]


KINDS = [ValueError, asyncio.CancelledError, KeyboardInterrupt, SystemExit]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("when", ["at once", "after a wait"])
@on_both_loops
async def test_an_error_of_the_coroutine_reaches_on_end(
    kind: type[BaseException], when: str
) -> None:
    """Any exception reaches it, and never the caller that resumed the coroutine."""
    wait = Wait[None]()

    async def failing() -> None:
        if when != "at once":
            await wait
        raise kind

    ends = Ends()
    begin(failing(), ends)
    wait.end(None)
    await turns()
    assert ends.kinds == [kind]


@pytest.mark.parametrize("again", ["end", "fail"])
@on_both_loops
async def test_a_wait_ended_twice_resumes_once(again: str) -> None:
    """The second end doesn't affect the coroutine's next wait."""
    first, second = Wait[int](), Wait[int]()
    said: list[int] = []

    async def waiting() -> None:
        said.append(await first)
        said.append(await second)

    ends = Ends()
    begin(waiting(), ends)
    first.end(1)
    first.end(3) if again == "end" else first.fail(ValueError())
    assert (said, ends.errors) == ([1], [])
    second.end(2)
    assert (said, ends.errors) == ([1, 2], [None])


@pytest.mark.parametrize("how", ["end", "fail"])
@on_both_loops
async def test_ending_a_wait_after_a_cancellation_resumes_nothing(how: str) -> None:
    """Neither a coroutine that goes on after its cancellation, nor one that ended."""
    for goes_on in (True, False):
        wait, next_one = Wait[int](), Wait[int]()
        said: list[object] = []

        async def waiting(
            wait: Wait[int], next_one: Wait[int], said: list[object], goes_on: bool
        ) -> None:
            try:
                await wait
            except asyncio.CancelledError:
                said.append("cancelled")
                if goes_on:
                    said.append(await next_one)
                raise

        ends = Ends()
        begin(waiting(wait, next_one, said, goes_on), ends).cancel()
        wait.end(1) if how == "end" else wait.fail(ValueError())
        assert said == ["cancelled"]
        assert ends.errors == [] if goes_on else ends.kinds == [asyncio.CancelledError]
        next_one.end(2)
        assert said == (["cancelled", 2] if goes_on else ["cancelled"])
        assert ends.kinds == [asyncio.CancelledError]


# --- one run within another --------------------------------------------------------


@on_both_loops
async def test_a_run_may_end_the_wait_of_another() -> None:
    """The other one runs first. Then the first goes on, up to a wait of its own."""
    inner_waits, outer_waits = Wait[None](), Wait[None]()
    said: list[str] = []

    async def inner() -> None:
        await inner_waits
        said.append("inner")

    async def outer() -> None:
        inner_waits.end(None)
        said.append("outer")
        await outer_waits
        said.append("outer again")

    inner_ends, outer_ends = Ends(), Ends()
    begin(inner(), inner_ends)
    begin(outer(), outer_ends)
    assert said == ["inner", "outer"]
    assert (inner_ends.errors, outer_ends.errors) == ([None], [])
    outer_waits.end(None)
    assert said == ["inner", "outer", "outer again"]
    assert outer_ends.errors == [None]


@on_both_loops
async def test_the_failure_of_an_inner_run_does_not_affect_the_outer_one() -> None:
    """The same holds if the inner run is cancelled: the outer one goes on."""
    never, failing = Wait[None](), Wait[None]()
    said: list[str] = []

    async def waits_for(wait: Wait[None]) -> None:
        await wait

    first_ends, second_ends, outer_ends = Ends(), Ends(), Ends()
    cancelled = begin(waits_for(never), first_ends)
    begin(waits_for(failing), second_ends)

    async def outer() -> None:
        failing.fail(ValueError())
        cancelled.cancel()
        said.append("outer")
        await ensure_task()  # the current run is still the outer one
        assert asyncio.current_task() is not None
        said.append("in a task")

    begin(outer(), outer_ends)
    assert first_ends.kinds == [asyncio.CancelledError]
    assert second_ends.kinds == [ValueError]
    assert said == ["outer"]
    assert await outer_ends.some() == [None]
    assert said == ["outer", "in a task"]


@on_both_loops
async def test_a_task_can_end_the_wait_of_a_run() -> None:
    """The run isn't mistaken for the task that resumes it."""
    wait = Wait[None]()
    tasks: list[asyncio.Task[Any] | None] = []

    async def waiting() -> None:
        await wait
        await ensure_task()
        tasks.append(asyncio.current_task())

    ends = Ends()
    begin(waiting(), ends)
    mine = asyncio.current_task()
    wait.end(None)
    assert asyncio.current_task() is mine
    assert await ends.some() == [None]
    assert tasks[0] not in (None, mine)


# --- futures and tasks of asyncio ----------------------------------------------------


@pytest.mark.parametrize("waits_before", [False, True])
@pytest.mark.parametrize("is_done", ["before", "at once", "later"])
@pytest.mark.parametrize("fails", [False, True])
@on_both_loops
async def test_a_coroutine_that_awaits_a_future_goes_on_as_a_task(
    waits_before: bool, is_done: str, fails: bool
) -> None:
    """It may be done before, at once or later. In a task a wait works like a future.

    `on_coroutine_end` is called once.
    """
    loop = asyncio.get_running_loop()
    before, after, again = Wait[int](), Wait[int](), Wait[int]()
    foreign: asyncio.Future[int] = loop.create_future()
    said: list[object] = []

    async def waiting() -> None:
        if waits_before:
            said.append(await before)
        try:
            said.append(await foreign)
        except ValueError:
            said.append("failed")
        said.append(await after)
        said.append(await again)
        assert asyncio.current_task() is not None or is_done == "before"

    def be_done() -> None:
        foreign.set_exception(ValueError()) if fails else foreign.set_result(2)

    if is_done == "before":
        be_done()
    ends = Ends()
    begin(waiting(), ends)
    before.end(1)
    if is_done == "at once":
        be_done()
    elif is_done == "later":
        await turns()
        be_done()
    await turns()
    expected: list[object] = [1] if waits_before else []
    expected.append("failed" if fails else 2)
    assert said == expected
    after.end(3)
    again.end(4)
    assert await ends.some() == [None]
    assert said == [*expected, 3, 4]


@on_both_loops
async def test_a_wait_in_a_task_may_be_ended_twice() -> None:
    """A second end, or one after the task was cancelled, isn't an error."""
    first, second = Wait[int](), Wait[int]()

    async def waiting() -> int:
        return await first

    task = asyncio.create_task(waiting())
    await turns()
    first.end(1)
    first.end(1)
    assert await task == 1

    async def cancelled() -> None:
        await second

    task_2 = asyncio.create_task(cancelled())
    await turns()
    task_2.cancel()
    second.end(1)
    await turns()
    assert task_2.cancelled()
    second.fail(ValueError())


@on_both_loops
async def test_a_plain_task_can_await_a_wait() -> None:
    """It gets values and errors as from a future, in a later turn of the loop."""
    good, bad = Wait[int](), Wait[int]()

    async def waiting(wait: Wait[int]) -> int:
        return await wait

    tasks = [asyncio.create_task(waiting(wait)) for wait in (good, bad)]
    await turns()
    good.end(1)
    bad.fail(ValueError("bad"))
    assert not tasks[0].done()
    assert await tasks[0] == 1
    with pytest.raises(ValueError, match="bad"):
        await tasks[1]


@on_both_loops
async def test_a_timeout_works_after_ensure_task() -> None:
    """`asyncio.timeout` needs a task. It ends a wait; the next wait works as usual."""
    never, last = Wait[None](), Wait[None]()
    is_late = asyncio.Event()

    async def waiting() -> None:
        await ensure_task()
        await ensure_task()  # once is enough
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await never
        is_late.set()
        await last

    ends = Ends()
    begin(waiting(), ends)
    await is_late.wait()
    never.end(None)
    last.end(None)
    assert await ends.some() == [None]


@pytest.mark.parametrize("kind", [ValueError, asyncio.CancelledError])
@on_both_loops
async def test_an_error_in_a_task_reaches_on_end_once(
    kind: type[BaseException],
) -> None:
    """asyncio doesn't log it as an exception that was never retrieved."""

    async def failing() -> None:
        await ensure_task()
        raise kind

    ends = Ends()
    begin(failing(), ends)
    assert await ends.some() == [kind]
    gc.collect()


# --- cancellation --------------------------------------------------------------------

PLACES = [
    "a wait",
    "a wait in a task",
    "asyncio's",
    "asyncio's, adopted",
    "ensure_task",
]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("turns_before", [0, 1, 2, 5])
@on_both_loops
async def test_a_cancellation_is_raised_where_the_coroutine_waits(
    place: str, turns_before: int
) -> None:
    """The coroutine may await more while it cleans up, and ends once.

    The same holds before the first step of its new task. That happens if a client
    leaves, or the drain ends, while its request becomes a task.
    """
    loop = asyncio.get_running_loop()
    wait, cleaned = Wait[None](), Wait[None]()
    foreign: asyncio.Future[None] = loop.create_future()
    said: list[str] = []

    async def waiting() -> None:
        try:
            if place == "ensure_task":
                await ensure_task()
                await foreign
            if place == "asyncio's, adopted":
                await asyncio.sleep(0)
            if place == "a wait in a task":
                await ensure_task()
            if place.startswith("a wait"):
                await wait
            else:
                await foreign
        except asyncio.CancelledError:
            said.append("cancelled")
            await cleaned
            said.append("cleaned")
            raise

    ends = Ends()
    run = begin(waiting(), ends)
    await turns(turns_before)
    run.cancel()
    await turns()
    assert (said, ends.errors) == (["cancelled"], [])
    cleaned.end(None)
    assert await ends.some() == [asyncio.CancelledError]
    assert said == ["cancelled", "cleaned"]


@pytest.mark.parametrize("turns_before", [0, 3])
@on_both_loops
async def test_an_awaited_task_is_cancelled_too(turns_before: int) -> None:
    """As with asyncio's own tasks."""
    was_cancelled = asyncio.Event()

    async def child() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            was_cancelled.set()
            raise

    async def waiting() -> None:
        await task

    task = asyncio.create_task(child())
    await turns()
    ends = Ends()
    run = begin(waiting(), ends)
    await turns(turns_before)
    run.cancel()
    assert await ends.some() == [asyncio.CancelledError]
    assert was_cancelled.is_set()


@pytest.mark.parametrize(
    "goes_on_to", ["wait", "asyncio", "ensure_task", "end", "fail"]
)
@on_both_loops
async def test_a_running_coroutine_is_cancelled_at_its_next_wait(
    goes_on_to: str,
) -> None:
    """If it ends or fails before another wait, the cancellation has no effect."""
    wait = Wait[None]()
    foreign = asyncio.get_running_loop().create_future()
    said: list[str] = []

    async def cancels_itself() -> None:
        run.cancel()
        said.append("goes on")
        try:
            if goes_on_to == "wait":
                await wait
            elif goes_on_to == "asyncio":
                await foreign
            elif goes_on_to == "ensure_task":
                await ensure_task()
                await foreign
            elif goes_on_to == "fail":
                raise ValueError
        except asyncio.CancelledError:
            said.append("cancelled")
            raise

    ends = Ends()
    run = Run(asyncio.get_running_loop(), cancels_itself(), ends)
    run.step()
    await turns()
    if goes_on_to in ("end", "fail"):
        assert ends.kinds == [None if goes_on_to == "end" else ValueError]
        assert said == ["goes on"]
    else:
        assert ends.kinds == [asyncio.CancelledError]
        assert said == ["goes on", "cancelled"]


@on_both_loops
async def test_an_inner_run_may_cancel_the_outer_one() -> None:
    """The outer coroutine goes on, and is cancelled at its next wait."""
    inner_waits, never = Wait[None](), Wait[None]()
    said: list[str] = []

    async def inner() -> None:
        await inner_waits
        outer_run.cancel()
        said.append("inner")

    async def outer() -> None:
        inner_waits.end(None)
        said.append("outer")
        await never

    inner_ends, outer_ends = Ends(), Ends()
    begin(inner(), inner_ends)
    outer_run = Run(asyncio.get_running_loop(), outer(), outer_ends)
    outer_run.step()
    assert said == ["inner", "outer"]
    assert inner_ends.errors == [None]
    assert await outer_ends.some() == [asyncio.CancelledError]


@on_both_loops
async def test_a_coroutine_that_is_cancelled_before_its_start_never_runs() -> None:
    """`on_coroutine_end` is called with CancelledError."""
    said: list[str] = []

    async def never() -> None:
        said.append("begun")

    ends = Ends()
    Run(asyncio.get_running_loop(), never(), ends).cancel()
    await turns()
    assert (said, ends.kinds) == ([], [asyncio.CancelledError])


@pytest.mark.parametrize("is_adopted", [False, True])
@on_both_loops
async def test_a_cancellation_after_the_end_has_no_effect(is_adopted: bool) -> None:
    """A client may leave just when its reply is complete."""

    async def ending() -> None:
        if is_adopted:
            await ensure_task()

    ends = Ends()
    run = begin(ending(), ends)
    assert await ends.some() == [None]
    run.cancel()
    run.cancel()
    await turns()
    assert ends.errors == [None]


@pytest.mark.parametrize("is_adopted", [False, True])
@on_both_loops
async def test_a_caught_cancellation_does_not_end_the_coroutine(
    is_adopted: bool,
) -> None:
    """The coroutine goes on, and ends without an error."""
    wait, last = Wait[None](), Wait[int]()
    said: list[int] = []

    async def stubborn() -> None:
        if is_adopted:
            await ensure_task()
        with pytest.raises(asyncio.CancelledError):
            await wait
        said.append(await last)

    ends = Ends()
    run = begin(stubborn(), ends)
    await turns()
    run.cancel()
    await turns()
    wait.end(None)
    last.end(1)
    assert await ends.some() == [None]
    assert said == [1]


# --- reference cycles --------------------------------------------------------------


class Payload:
    """An object that a request holds."""


class Fault(Exception):
    """An error of a request."""


@contextmanager
def collector_off() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


HOW_IT_ENDS = [
    *("well", "raises", "wait fails", "wait fails, handled", "cancelled"),
    *("cancelled, handled", "foreign fails", "first foreign fails"),
    "foreign is cancelled",
]


@pytest.mark.parametrize("is_adopted", [False, True])
@pytest.mark.parametrize("how", HOW_IT_ENDS)
@on_both_loops
async def test_no_reference_cycle_is_left(how: str, is_adopted: bool) -> None:
    """The objects of an ended coroutine are freed without the garbage collector."""
    loop = asyncio.get_running_loop()

    async def work(
        payload: Payload, wait: Wait[None], foreign: list[asyncio.Future[None]]
    ) -> None:
        if is_adopted:
            await ensure_task()
        try:
            if how == "first foreign fails":
                await foreign.pop()
            await wait
            if how.startswith("foreign"):
                await foreign.pop()
            if how == "raises":
                raise Fault
        except (Fault, asyncio.CancelledError):
            if "handled" not in how:
                raise

    async def once() -> list[weakref.ref[Any]]:
        payload, faults = Payload(), [Fault()]
        left: list[weakref.ref[Any]] = [weakref.ref(payload), weakref.ref(faults[0])]
        wait = Wait[None]()
        foreign = loop.create_future()
        is_over = asyncio.Event()
        run = Run(loop, work(payload, wait, [foreign]), lambda _: is_over.set())
        run.step()
        await turns()
        if how.startswith("wait fails"):
            wait.fail(faults.pop())
        elif how.startswith("cancelled"):
            run.cancel()
        elif how == "first foreign fails":
            foreign.set_exception(faults.pop())
        else:
            wait.end(None)
        await turns()
        if how == "foreign fails":
            foreign.set_exception(faults.pop())
        elif how == "foreign is cancelled":
            foreign.cancel()
        await is_over.wait()
        return left

    with collector_off():
        left = await once()
        await turns()
        assert [ref() for ref in left if ref() is not None] == []


# --- what is put off ------------------------------------------------------------


@on_both_loops
async def test_one_step_runs_in_each_turn() -> None:
    """Whatever is put off, others run between two steps, and the order is kept."""
    loop = asyncio.get_running_loop()
    happened: list[str] = []
    done = asyncio.Event()

    def other() -> None:
        happened.append("other")
        if not done.is_set():
            loop.call_soon(other)

    turns = Turns(loop)
    loop.call_soon(other)
    for name in "abc":
        turns.put_off(partial(happened.append, name))
    turns.put_off(done.set)
    await done.wait()
    assert "".join(happened).replace("other", "-").strip("-") == "a-b-c"


@on_both_loops
async def test_steps_of_several_take_turns() -> None:
    """A connection with many steps lets one with a single step go before them."""
    happened: list[str] = []
    turns = Turns(asyncio.get_running_loop())

    def many(left: int) -> None:
        happened.append("many")
        if left:
            turns.put_off(lambda: many(left - 1))

    turns.put_off(lambda: many(3))
    turns.put_off(lambda: happened.append("one"))
    while len(happened) < 5:
        await turns.next()
    assert happened == ["many", "one", "many", "many", "many"]


async def test_a_step_that_fails_stops_no_other() -> None:
    """The error is the loop's to report; the steps behind it run."""
    loop = asyncio.get_running_loop()
    errors: list[object] = []
    loop.set_exception_handler(lambda _, context: errors.append(context["exception"]))
    turns = Turns(loop)
    failure = ZeroDivisionError()

    def fail() -> None:
        raise failure

    turns.put_off(fail)
    await turns.next()
    assert errors == [failure]


async def test_a_waiter_that_is_cancelled_is_passed_over() -> None:
    """A tunnel that ends while it waits for its turn leaves nothing behind."""
    turns = Turns(asyncio.get_running_loop())
    waiting = asyncio.ensure_future(turns.next())
    await asyncio.sleep(0)
    waiting.cancel()
    await turns.next()
    assert waiting.cancelled()


@on_both_loops
async def test_each_loop_has_one() -> None:
    """All connections of a loop share its turns."""
    loop = asyncio.get_running_loop()
    assert turns_of(loop) is turns_of(loop)
