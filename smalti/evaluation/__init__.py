"""Measurement of models: suites, generated sets of images, folders of images, controls."""
