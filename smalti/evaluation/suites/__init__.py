"""Suites, one file or folder each."""
