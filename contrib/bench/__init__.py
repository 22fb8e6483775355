"""The benchmark: `make bench`, or `python -m contrib.bench`."""
