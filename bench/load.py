"""The load: wrk on its own core, every answer checked while it runs."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from bench.processes import LOAD_CORE, cpu_s

_SCRIPT = """
local user = os.getenv("BENCH_USER")
local bad = 0
local threads = {}
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
  if status ~= 200 or not body:find('"user":"' .. user .. '"', 1, true) then
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
    """CPU of the proxy's whole process tree for each request."""
    p50_us: int
    p99_us: int
    wrong: int
    """Answers with another status, or another user than the token's."""
    errors: int


def run(
    url: str,
    *,
    pids: Iterable[int],
    token: str | None,
    user: str,
    seconds: float,
    connections: int,
    folder: Path,
) -> Sample:
    """Load *url* for *seconds* and return what it cost the processes *pids*.

    Raises:
        RuntimeError: wrk failed; the text says how.
    """
    script = folder / "check.lua"
    script.write_text(_SCRIPT)
    command = [
        "taskset",
        "-c",
        str(LOAD_CORE),
        "wrk",
        "-t1",
        f"-c{connections}",
        f"-d{max(1, round(seconds))}s",
        f"-s{script}",
    ]
    if token is not None:
        command.append(f"-HAuthorization: Bearer {token}")
    before = sum(map(cpu_s, pids))
    ended = subprocess.run(
        [*command, url],
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": "/usr/bin:/bin:/usr/local/bin", "BENCH_USER": user},
    )
    used = sum(map(cpu_s, pids)) - before
    found = re.search(r"^RESULT (.*)$", ended.stdout, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"wrk said: {ended.stdout}{ended.stderr}")
    told = json.loads(found[1])
    requests = max(1, told["requests"])
    return Sample(
        requests=requests,
        per_s=requests / told["seconds"],
        cpu_us=used / requests * 1e6,
        p50_us=told["p50_us"],
        p99_us=told["p99_us"],
        wrong=told["wrong"],
        errors=told["errors"],
    )
