"""What scripts share that measure rivals in turn: their options, and how they end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from bench.rig import client, interpreter
from bench.rig.processes import LOAD_CORE, DidNotStart, PortInUse
from bench.rig.rivals import Rival, Stage
from bench.rig.stage import NotVerified, Turns, in_turn, install, opened, say

T = TypeVar("T")


def parsed(module: str, text: str | None, *, seconds: float) -> argparse.Namespace:
    """Return `rounds` and `seconds` of the command line of *module*; *text* is its
    help, and *seconds* the default."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}",
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument(
        "--seconds",
        type=float,
        default=seconds,
        help=f"of a load; default {seconds:g}",
    )
    return parser.parse_args()


def measured(
    rivals: Sequence[Rival],
    measure: Callable[[Stage, Rival, tuple[int, ...]], T],
    *,
    rounds: int,
) -> Turns[T]:
    """Return what *measure* has returned for each of *rivals*, on a stage of its own.

    Raises:
        SystemExit: 1, and one line on standard error: nothing can be measured. 130: it
            was interrupted.
    """
    # A signal that stops this process must stop its children, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        install()
        python = interpreter.choose()
        say(f"the gateway runs on {python}")
        os.sched_setaffinity(0, {LOAD_CORE})
        with (
            tempfile.TemporaryDirectory() as folder,
            opened(Path(folder), python) as stage,
        ):
            return in_turn(
                rivals,
                stage,
                rounds=rounds,
                measure=lambda rival, pids: measure(stage, rival, pids),
            )
    except (PortInUse, NotVerified, DidNotStart, client.Failed) as exc:
        print(f"error: {exc}", file=sys.stderr)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        raise SystemExit(130) from None
