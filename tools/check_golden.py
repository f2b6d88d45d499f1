"""Measure how closely a device reproduces the recorded outputs of the reference implementation (tests/data/golden)."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import smalti
from smalti.generation.settings import GenerationSettings

GOLDEN = Path(__file__).parent.parent / "tests" / "data" / "golden"
ORDERS = {"stratified": "stratified", "mmada": "confidence"}
"""Orders by the name that the reference code gives them."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu", help="PyTorch device")
    parser.add_argument(
        "--dtype", default="float32", choices=["float32", "bfloat16"], help="dtype of the denoiser"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    arguments = parser.parse_args()
    cases = json.loads((GOLDEN / "expected.json").read_text())
    common = cases.pop("common")
    expected = load_file(GOLDEN / "expected.safetensors")
    pipe = smalti.load(GOLDEN, device=arguments.device, dtype=getattr(torch, arguments.dtype))
    agreement = {}
    for name, case in cases.items():
        case = {**common, **case}
        settings = settings_of(pipe.settings, case)
        out = pipe(case["prompt"], settings=settings, seed=0, output_type="tokens")
        same = out.tokens.cpu().flatten() == expected[f"tokens_{name}"].flatten()
        agreement[name] = round(float(same.float().mean()), 6)
    if arguments.json:
        print(json.dumps({"device": arguments.device, "dtype": arguments.dtype, "agreement": agreement}))
        return
    print(f"{'case':36} share of equal tokens on {arguments.device}, {arguments.dtype}")
    for name, share in agreement.items():
        print(f"{name:36} {share:.6f}")


def settings_of(own: GenerationSettings, case: dict[str, Any]) -> GenerationSettings:
    """Return the settings of a recorded case, on top of the model's own."""
    threshold = case.get("edit_threshold", 0.0)
    return own.replaced(
        num_inference_steps=case["n_steps"],
        budget=f"shift:{case['shift']}",
        order=ORDERS[case.get("confidence_policy", "stratified")],
        revision=f"threshold:{threshold}" if threshold else "none",
        draw="argmax",
        guidance_scale=case.get("guidance_scale", 0.0),
        guidance_interval=tuple(case.get("cfg_interval", (0.0, 1.0))),
        final="release",
    )


if __name__ == "__main__":
    main()
