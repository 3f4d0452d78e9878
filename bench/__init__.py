"""Measures the gateway and the common alternatives side by side in one run.

`make bench` (or `python -m bench`) sets the rivals up, runs everyone in turn and
writes the report to `bench/results/`. Nothing here is part of the gateway.

`parts/` is what is compared with the rivals: `requests`, `bodies`, `idle`, `routes`,
`latency`, `scaling`, `sockets`, `growth`; `__main__` runs them, and `scripts.startup`.
`scripts/` has what is measured without rivals, each file with a make target. `rig/` is
what both use: `stage` (the common set-up), `rivals` (how each rival is configured),
`builds` (which build of it runs), `interpreter` (which Python runs the gateway),
`loads` (the requests), `load`, `pace`, `client` and `frames` (how they are sent),
`processes` (their cost), and `report`, `goals` and `plot` (what is made of it all).
"""
