"""Benchmark suites, one file or folder each."""
