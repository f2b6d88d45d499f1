"""Editing pictures by their tokens: which no longer fit, filling those again, and bringing pixels together."""
