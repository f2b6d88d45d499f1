"""Preparing an archive of sprites: packages, catalogues, rendering, assembling."""
