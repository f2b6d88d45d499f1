"""Fitting a model to a device: memory arithmetic, loading modes, quantization, streaming, compiling."""
