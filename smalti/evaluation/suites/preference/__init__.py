"""Scores that networks give to an image and its prompt: similarity by CLIP, and what people prefer."""
