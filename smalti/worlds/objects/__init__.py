"""A world of real things: sprites that other people drew, composed into captioned scenes."""
