"""Settings that must precede every import: threads, Triton's interpreter where there is no GPU, no network."""

from __future__ import annotations

import os

# Threads that compete for the cores make small tensors several times slower, so each process has one.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import torch  # noqa: E402

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
