"""Captioned images that Smalti composes itself, one subfolder a world."""
