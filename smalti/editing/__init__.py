"""Editing of images by their tokens: those that no longer fit are filled again, and pixels are blended."""
