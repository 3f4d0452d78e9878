"""Measures the gateway against what people use today, side by side in one run.

`make bench` (or `python -m bench`) sets the rivals up, runs everyone in turn and
writes the report to `bench/results/`. Nothing here is part of the gateway.

`__main__` runs the parts: `requests`, `bodies`, `idle`, `routes`, `latency`, `scaling`,
`sockets`, `growth`, `startup`. They use `stage` (the common set-up), `rivals` (how
each rival is configured), `builds` (which build of it runs), `interpreter` (which
Python runs the gateway), `loads` (the requests), `load`, `pace`, `client` and `frames`
(how they are sent) and `processes` (their cost). `report` writes the result, `goals`
judges it, `plot` draws it.
"""
