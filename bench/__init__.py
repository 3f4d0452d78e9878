"""Benchmarks that compare the gateway with other proxies ("rivals") in one run.

`make bench` (or `python -m bench`) installs the rivals, measures all programs in turn
and writes the report to `bench/results/`. Nothing here is part of the gateway.

`parts/` has the comparisons with the rivals: `requests`, `bodies`, `idle`, `routes`,
`latency`, `scaling`, `sockets`, `growth`; `__main__` runs them, and `scripts.startup`.
`scripts/` has the measurements without rivals, each with a make target. `rig/` is what
both use: `stage` (the common set-up), `rivals` (how each rival is configured), `builds`
(which build of it runs), `interpreter` (which Python runs the gateway), `loads` (the
requests), `load`, `pace`, `client` and `frames` (how they are sent), `processes` (their
CPU time and memory), and `report`, `goals` and `plot` (the results).
"""
