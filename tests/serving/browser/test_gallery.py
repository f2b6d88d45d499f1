"""The studio in Chromium: the gallery, what its buttons and keys do, and files that are dropped."""

from __future__ import annotations

import io
import json

import pytest
from browsing import wait
from PIL import Image, PngImagePlugin

pytestmark = pytest.mark.slow

SETTINGS = {
    "num_inference_steps": 5,
    "guidance_scale": 1.5,
    "guidance_interval": [0.25, 0.75],
    "budget": "cosine",
    "order": "history:window=8",
    "revision": "token_to_mask:share=0.2",
    "temperature": 0.8,
    "temperature_schedule": "cosine",
    "top_k": 9,
    "top_p": 0.95,
    "reuse": "prompt",
    "reuse_every": 2,
}


def png(**texts: str) -> bytes:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, value in texts.items():
        info.add_text(key, value)
    Image.new("RGB", (64, 64), "teal").save(file, "PNG", pnginfo=info)
    return file.getvalue()


def test_arrows_walk_through_the_gallery(studio):
    page = studio.open()
    for prompt in ("one cat", "two dogs", "a red circle"):
        studio.draw(prompt)
    page.locator("#images .thumb >> nth=0").focus()
    page.keyboard.press("ArrowRight")
    assert page.evaluate("document.activeElement.title") == "two dogs"
    page.keyboard.press("Enter")
    page.wait_for_selector(".frame-image[alt='two dogs'].in")
    assert page.locator(".thumb[aria-current=true]").get_attribute("title") == "two dogs"
    page.locator("#stage").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".frame-image[alt='one cat'].in")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".frame-image[alt='two dogs'].in")


def test_a_deleted_image_comes_back_or_goes_for_good(studio):
    page = studio.open()
    studio.draw("one cat")
    studio.draw("two dogs")
    page.click('[data-act="delete"]')
    wait(page, lambda: studio.thumbs() == 1)
    page.wait_for_selector(".frame-image[alt='one cat'].in")
    page.click(".notice >> text=Undo")
    page.wait_for_selector(".frame-image[alt='two dogs'].in")
    assert studio.thumbs() == 2
    assert len(studio.results) == 2
    page.locator("#images .thumb >> nth=0").focus()
    page.keyboard.press("Delete")
    assert page.evaluate("document.activeElement.title") == "one cat"
    wait(page, lambda: len(studio.results) == 1)
    assert studio.results[0]["prompt"] == "one cat"


def test_a_closed_page_deletes_what_was_deleted(studio):
    page = studio.open()
    studio.draw("one cat")
    page.click('[data-act="delete"]')
    page.goto("about:blank")
    other = studio.new_page()
    wait(other, lambda: studio.results == [])


def test_settings_of_an_image_come_back(studio):
    page = studio.open()
    page.click("#more summary")
    page.fill("#setting-top_k", "9")
    studio.draw("one cat", seed="12", n="2")
    page.fill("#prompt", "two dogs")
    page.fill("#seed", "")
    page.click("#reset-settings")
    page.click("#images .thumb >> nth=0")
    page.click('[data-act="reuse"]')
    assert page.input_value("#prompt") == "one cat"
    assert page.input_value("#seed") == "13"
    assert page.input_value("#n") == "1"
    assert page.input_value("#setting-top_k") == "9"
    assert page.locator("#lock").get_attribute("aria-pressed") == "true"


def test_an_image_is_compared_downloaded_and_explained(studio):
    page = studio.open()
    studio.draw("one cat")
    studio.draw("two dogs", seed="5")
    page.locator("#stage").focus()
    page.keyboard.press("c")
    slider = page.locator(".compare-range")
    assert "one cat" in slider.get_attribute("aria-label")
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "51"
    box = page.locator(".compare").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 0.25, box["y"] + 30)
    assert slider.input_value() == "25"
    studio.screenshot("compare")
    page.click('[data-act="compare"]')
    wait(page, lambda: page.locator(".compare").count() == 0)
    with page.expect_download() as download:
        page.click('[data-act="download"]')
    assert download.value.suggested_filename == "two-dogs-5.png"
    assert download.value.path().read_bytes() == studio.content(studio.results[0])
    page.locator("#stage").focus()
    page.keyboard.press("i")
    facts = page.locator(".facts dd").all_inner_texts()
    assert "two dogs" in facts and "5" in facts


def test_older_images_are_shown_on_demand(studio):
    page = studio.open()
    for start in range(0, 50, 10):
        studio.draw(n="10", seed=str(start))
    page.reload()
    wait(page, lambda: studio.thumbs() == 40)
    page.click(".tabs >> text=Gallery")
    page.click("#older")
    wait(page, lambda: studio.thumbs() == 50)
    assert page.locator("#older").is_hidden()


def test_the_gallery_is_a_view_with_actions(studio):
    page = studio.open()
    studio.draw("one cat")
    page.keyboard.press("Escape")
    page.click(".tabs >> text=Gallery")
    page.wait_for_selector(".thumb-actions")
    studio.screenshot("gallery")
    page.click(".thumb-actions [aria-label^='Use settings']")
    wait(page, lambda: page.url.endswith("#draw"))
    page.go_back()
    page.click(".thumb-actions [aria-label^='Edit']")
    page.wait_for_selector(".source-name")
    assert page.input_value("#source_prompt") == "one cat"


def test_the_gallery_fills_while_a_job_is_drawn_elsewhere(studio):
    page = studio.open()
    page.fill("#prompt", "a red circle")
    page.fill("#n", "10")
    page.press("#prompt", "Control+Enter")
    # The view changes as soon as the page knows the job, so its events are no longer followed.
    page.wait_for_selector(".frames[data-count='10']")
    page.evaluate("location.hash = 'gallery'")
    wait(page, lambda: page.locator("#images .thumb img.in").count() == 10)


@pytest.mark.parametrize("file", ["png", "jpeg", "webp", "compressed"])
def test_a_dropped_image_brings_every_setting_back(studio, file):
    page = studio.open()
    fields = {**SETTINGS, "prompt": "zwei Füchse – 狐", "seed": 2**62 + 1, "negative_prompt": "blue"}
    if file in ("jpeg", "webp"):
        fields["output_format"] = file
    kind = {"content-type": "application/json"}
    answer = page.request.post(f"{studio.server.url}/api/jobs", data=json.dumps(fields), headers=kind)
    assert answer.status == 202, answer.text()
    wait(page, lambda: studio.results)
    content = studio.content(studio.results[0])
    if file == "compressed":
        with Image.open(io.BytesIO(content)) as image:
            info, again = PngImagePlugin.PngInfo(), io.BytesIO()
            for key, value in image.text.items():
                info.add_text(key, value, zip=True)
            image.save(again, "PNG", pnginfo=info)
            content = again.getvalue()
    page.fill("#prompt", "something else")
    studio.drop(content, kind=f"image/{fields.get('output_format', 'png')}")
    page.wait_for_selector("#file-dialog[open]")
    assert page.input_value("#prompt") == "something else"  # not before the person says so
    studio.screenshot("dropped")
    page.click("#file-dialog >> text=Use its settings")
    assert page.input_value("#prompt") == fields["prompt"]
    assert page.input_value("#seed") == str(fields["seed"])
    page.press("#prompt", "Control+Enter")
    wait(page, lambda: len(studio.results) == 2)
    first, second = reversed(studio.jobs)
    assert second["settings"] == first["settings"]
    assert second["negative_prompt"] == "blue"
    if "output_format" not in fields:
        assert studio.content(studio.results[0]) == studio.content(studio.results[1])


def test_a_dropped_image_without_texts_can_be_edited(studio):
    page = studio.open()
    studio.drop(png())
    page.wait_for_selector("#file-dialog:has-text('does not say how it was made')")
    assert page.locator("#file-dialog >> text=Use its settings").count() == 0
    page.click("#file-dialog >> text=Edit this image")
    page.wait_for_selector(".source-name:has-text('64 × 64')")


@pytest.mark.parametrize(
    "content",
    [b"not an image", png()[:60], png(prompt="one cat", settings="{no json", seed="x")],
    ids=["text", "cut", "odd"],
)
def test_damaged_files_are_no_problem(studio, content):
    page = studio.open()
    studio.drop(content)
    page.wait_for_selector("#file-dialog[open]")
    if content.endswith(b"\xaeB`\x82"):
        page.click("#file-dialog >> text=Use its settings")
        assert page.input_value("#prompt") == "one cat"
    else:
        page.click("#file-dialog >> text=Edit this image")
        page.wait_for_selector(".notice-error:has-text('cannot be read as an image')")


def test_other_files_are_refused_in_words(studio):
    page = studio.open()
    studio.drop(b"%PDF", "paper.pdf", "application/pdf")
    page.wait_for_selector(".notice-error:has-text('paper.pdf is not a PNG, JPEG or WebP image')")
