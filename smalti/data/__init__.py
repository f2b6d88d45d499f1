"""Sources of captioned images and token caches. A sample is {"image": uint8 (3, H, W), "caption": str}."""
