"""Training of the image tokenizer and of the denoiser: configuration, loop, checkpoints."""
