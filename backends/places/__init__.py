"""The kinds of destinations: one module for each URL scheme, which makes a `Place` from a URL."""
