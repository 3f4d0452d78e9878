"""Measures the gateway against what people use today, side by side in one run.

`make bench` (or `python -m bench`) sets the rivals up, runs everyone in turn and
writes the report to `bench/results/`. Nothing here is part of the gateway.

`__main__` runs the parts: `requests`, `bodies`, `idle`, `routes`, `latency`, `scaling`,
`sockets`, `growth`. They stand on `stage` (what is there for all of them), `rivals`
(who is measured), `interpreter` (with which Python), `load`, `pace`, `client` and
`frames` (what is sent) and `processes` (what it cost); `report` says what came of it.
"""
