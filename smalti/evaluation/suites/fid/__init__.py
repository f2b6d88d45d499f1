"""FID and CLIP-FID: the Fréchet distance between drawn images and a set of real ones."""
