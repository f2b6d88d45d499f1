"""What a model knows of an image: likelihood."""
