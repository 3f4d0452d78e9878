"""What the parts and scripts use: rivals, loads, upstreams, processes, reports."""
