"""The commands of `smalti`, one a file. PyTorch is imported when a command runs, not when help is shown."""
