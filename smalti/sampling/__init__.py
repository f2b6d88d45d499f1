"""Filling a grid of masks: budgets, orders, revision, guidance and the loop that composes them."""
