"""Filling a grid of masks: schedules, orders, editing, guidance and the loop that composes them."""
