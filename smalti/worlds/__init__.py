"""Captioned images that Smalti composes itself, one subfolder per world."""
