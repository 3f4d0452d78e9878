"""Measures the gateway against what people use today, side by side in one run.

`make bench` (or `python -m bench`) sets the rivals up, runs everyone in turn and
writes a table to `bench/results/`. Nothing here is part of the gateway.
"""
