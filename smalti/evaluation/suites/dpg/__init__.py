"""DPG-Bench: questions about dense prompts, answered by a model for visual questions."""
