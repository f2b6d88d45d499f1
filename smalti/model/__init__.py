"""The denoiser: configuration, backbone, token embedding and prompt."""
