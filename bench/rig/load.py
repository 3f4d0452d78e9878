"""The load: wrk on its own core, every answer checked while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.client import Failed
from bench.rig.processes import LOAD_CORE, cpu

_SCRIPT = """
local wanted = os.getenv("BENCH_HAS")
local length = tonumber(os.getenv("BENCH_LENGTH") or "")
local file = io.open(os.getenv("BENCH_MESSAGE"), "rb")
local message = file:read("*a")
file:close()
-- wrk calls init once in each thread, and then format for the one request it sends.
function init(args) wrk.format = function() return message end end
local bad = 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
  if status ~= 200 or (length and #body ~= length)
    or (wanted and not body:find(wanted, 1, true)) then
    bad = bad + 1
    wrk.thread:set("bad", bad)
  end
end
function done(summary, latency)
  local wrong = 0
  for _, thread in ipairs(threads) do wrong = wrong + (thread:get("bad") or 0) end
  local errors = summary.errors
  io.write("RESULT " .. string.format(
    '{"requests": %d, "seconds": %f, "wrong": %d, "errors": %d,' ..
    ' "p50_us": %d, "p99_us": %d}',
    summary.requests, summary.duration / 1e6, wrong,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50), latency:percentile(99)) .. "\\n")
end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One run against one proxy."""

    requests: int
    per_s: float
    cpu_us: float
    """CPU time of the proxy's process tree for each request."""
    user_us: float
    system_us: float
    """The parts of `cpu_us`: user and system time."""
    busy: float
    """CPU seconds of the process tree for each second; 1 is a whole core."""
    p50_us: int
    p99_us: int
    wrong: int
    """Answers with another status, or another body than expected."""
    errors: int


def run(
    port: int,
    message: bytes,
    *,
    pids: Sequence[int],
    seconds: float,
    connections: int,
    folder: Path,
    has: str | None = None,
    length: int | None = None,
    cores: Sequence[int] = (LOAD_CORE,),
    is_tls: bool = False,
) -> Sample:
    """Send *message*, a whole request, for *seconds*; return the cost to *pids*.

    An answer is right if its status is 200, its body contains *has* and is *length*
    bytes long. None means that any body or length is right.

    Raises:
        Failed: wrk has no result; the text says why.
    """
    script = folder / "check.lua"
    script.write_text(_SCRIPT)
    sent = folder / "message"
    sent.write_bytes(message)
    command = [
        "taskset",
        "-c",
        ",".join(map(str, cores)),
        "wrk",
        f"-t{min(len(cores), connections)}",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        f"-s{script}",
        f"{'https' if is_tls else 'http'}://127.0.0.1:{port}/",
    ]
    told_to = {"BENCH_MESSAGE": sent, "BENCH_HAS": has, "BENCH_LENGTH": length}
    before, begun = cpu(pids), time.monotonic()
    ended = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": os.environ["PATH"],
            **{
                name: str(value) for name, value in told_to.items() if value is not None
            },
        },
    )
    used, took_s = cpu(pids).since(before), time.monotonic() - begun
    match = re.search(r"^RESULT (.*)$", ended.stdout, re.MULTILINE)
    if match is None:
        raise Failed(f"wrk has no result: {ended.stdout}{ended.stderr}")
    result = json.loads(match[1])
    requests = max(1, result["requests"])
    return Sample(
        requests=result["requests"],
        per_s=result["requests"] / result["seconds"],
        cpu_us=used.total_s / requests * 1e6,
        user_us=used.user_s / requests * 1e6,
        system_us=used.system_s / requests * 1e6,
        busy=used.total_s / took_s,
        p50_us=result["p50_us"],
        p99_us=result["p99_us"],
        wrong=result["wrong"],
        errors=result["errors"],
    )
