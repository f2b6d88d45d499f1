"""Smalti inside other programs and libraries."""
