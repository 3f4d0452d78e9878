"""The parts of `make bench`, which compares with rivals; a file per part."""
