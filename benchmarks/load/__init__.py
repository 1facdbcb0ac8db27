"""A load generator: many users at once, who answered each of them, how fast, and what failed. `python -m benchmarks.load --help`."""
