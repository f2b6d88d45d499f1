"""Helpers of every room: argument checks, atomic files, devices, images, random streams."""
