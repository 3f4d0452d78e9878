"""The parts of `make bench`, the comparison with rivals: one file each."""
