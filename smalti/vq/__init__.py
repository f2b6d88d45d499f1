"""The image tokenizer: VQGAN encoder and decoder around an IBQ codebook."""
