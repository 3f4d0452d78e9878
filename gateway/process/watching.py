"""PURE. When changed files are to be loaded again.

The files are compared by their content. A content is asked for once: what has been
loaded, or refused, isn't loaded again before it has changed. It must be the same in two
looks, so that a file that is just being written isn't read in the middle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class WatchState:
    """What is known of the files, as digests of their content."""

    loaded: str
    """What was loaded or refused last."""
    seen: str | None = None
    """What the last look has found."""
    asked: str | None = None
    """What a reload was asked for last."""


def look(state: WatchState, found: str) -> tuple[WatchState, bool]:
    """Return the state after a look that has *found* this, and whether to reload."""
    is_wanted = found == state.seen and found not in (state.loaded, state.asked)
    if is_wanted:
        return replace(state, asked=found), True
    asked = None if found == state.loaded else state.asked
    return replace(state, seen=found, asked=asked), False
