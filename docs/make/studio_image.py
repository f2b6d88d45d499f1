"""Take the README's screenshot of the studio: docs/images/studio.png.

python docs/make/studio_image.py [--model FOLDER] [--out DIR]

It needs Chromium and Playwright, as the browser tests do. The script draws `PROMPTS`, prompt k with seed k,
and takes the screenshot in the middle of `LAST`, with seed 1, once 30 % of its tokens are filled.
"""

from __future__ import annotations

import argparse
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "tests" / "support"), str(ROOT / "benchmarks")]
from chromium import FLAGS, find_chromium  # noqa: E402
from serving import Server  # noqa: E402

PROMPTS = [
    "a red circle left of a blue square",
    "three yellow stars",
    "a green heart above a black ring",
    "a purple arrow and an orange diamond",
    "two blue crescents",
    "a yellow heart",
    "a white cross above a red triangle",
    "four green squares",
]
LAST = "a yellow heart above a black ring"
SHARE = 0.3
SIZE = {"width": 1360, "height": 850}
IMAGES = Path(__file__).parent.parent / "images"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="scenes", help="name or folder of a model; by default scenes")
    parser.add_argument("--out", type=Path, default=IMAGES, help="folder of the image")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    server = Server(options.model)
    content = screenshot(server.url)
    server.stop()
    with Image.open(BytesIO(content)) as image:
        image.convert("RGB").save(options.out / "studio.png", optimize=True)
    print(options.out / "studio.png")


def screenshot(url: str) -> bytes:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=list(FLAGS))
        page = browser.new_page(viewport=SIZE)
        page.set_default_timeout(300_000)
        page.goto(url)
        for number, prompt in enumerate(PROMPTS):
            page.fill("#seed", str(number))
            page.fill("#prompt", prompt)
            page.press("#prompt", "Control+Enter")
            page.wait_for_selector(f"#images li:nth-child({number + 1}) img.in")
            page.wait_for_selector("#queue-section", state="hidden")
        page.click("#presets label:has-text('Quality')")
        page.fill("#seed", "1")
        page.fill("#prompt", LAST)
        page.press("#prompt", "Control+Enter")
        page.evaluate("document.activeElement.blur()")
        while filled(page) < SHARE:
            page.wait_for_timeout(5)
        content: bytes = page.screenshot()
        browser.close()
        return content


def filled(page: Any) -> float:
    """Return the share of the tokens that the status says are filled."""
    words = page.inner_text("#stage-draw .status").split()
    return (
        int(words[words.index("of", 3) - 1]) / int(words[words.index("of", 3) + 1])
        if "tokens" in words
        else 0.0
    )


if __name__ == "__main__":
    main()
