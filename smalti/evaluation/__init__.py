"""Scoring pictures: GenEval's protocol over scenes, with a detector of classical vision."""
