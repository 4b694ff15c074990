"""Benchmarks: ratios in one run, against references that run beside."""
