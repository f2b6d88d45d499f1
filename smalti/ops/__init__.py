"""Operators over a large vocabulary, as pure functions on tensors."""
