"""Three ways to draw an image's tokens, on one backbone: masked diffusion, autoregression, continuous diffusion."""
