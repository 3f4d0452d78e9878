"""edge. Blocking calls that may be left behind: nothing waits for them at the end.

A look-up of a name can't be cancelled, and asyncio's own threads are waited for when
the loop ends. So one that hangs would keep the command from ending in time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread(call: Callable[[], _T]) -> _T:
    """Return what *call* returns, or raise what it raises, from a thread of its own."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[_T] = loop.create_future()

    def finish(result: _T | None, error: BaseException | None) -> None:
        if done.done():  # nobody waits for it any more
            return
        if error is not None:
            done.set_exception(error)
        else:
            done.set_result(result)  # type: ignore[arg-type]  # it is what call returned

    def run() -> None:
        result, raised = None, None
        try:
            result = call()
        except Exception as error:  # noqa: BLE001 - raised where it is awaited
            raised = error
        try:
            loop.call_soon_threadsafe(finish, result, raised)
        except RuntimeError:  # the loop has ended
            return

    threading.Thread(target=run, name="doctor", daemon=True).start()
    return await done
