"""Sources of captioned images, and images as token shards. A sample is {"image": uint8 (3, H, W), "caption": str}."""
