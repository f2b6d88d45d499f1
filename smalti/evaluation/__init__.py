"""Scoring images: GenEval's protocol over scenes, with a detector of classical vision."""
