"""Where captioned pictures come from. Every source yields {"image": uint8 (3, H, W), "caption": str}."""
