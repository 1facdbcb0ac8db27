"""What a request costs, ours and theirs: `python -m benchmarks`. See docs/benchmarks.md for the method and its limits."""
