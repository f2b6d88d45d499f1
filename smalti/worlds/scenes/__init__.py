"""A world of flat shapes on plain backgrounds, with captions."""
