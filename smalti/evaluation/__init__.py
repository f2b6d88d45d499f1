"""Measuring models: suites, drawing and reading sets of images, controls."""
