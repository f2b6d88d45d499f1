"""The studio in Chromium: editing by words, mask, added sides and variation."""

from __future__ import annotations

import io

import numpy as np
import pytest
from browsing import wait
from PIL import Image
from served import Gate, SlowWorker

pytestmark = pytest.mark.slow


@pytest.fixture
def editor(studio):
    """A studio with an image of 64×64 pixels in the editor."""
    studio.open()
    studio.draw("a red circle", seed="3")
    studio.edit_first()
    return studio


def choose(page, way: str) -> None:
    page.click(f"#ways label:has-text('{way}')")


def chosen(page) -> int:
    """Return the number of tokens that the pill says will be filled again."""
    page.wait_for_selector(".pill:has-text('filled again')")
    return int(page.inner_text(".pill").split()[0])


def stroke(page, start: tuple[float, float], end: tuple[float, float]) -> None:
    """Drag over the image; points are fractions of it."""
    box = page.locator(".easel-canvas").bounding_box()
    # The image is fitted between margins of 20, 66, 20 and 62 pixels.
    width, height = box["width"] - 40, box["height"] - 128
    side = min(width, height)
    left, top = box["x"] + 20 + (width - side) / 2, box["y"] + 66 + (height - side) / 2
    page.mouse.move(left + start[0] * side, top + start[1] * side)
    page.mouse.down()
    page.mouse.move(left + end[0] * side, top + end[1] * side, steps=6)
    page.mouse.up()


def saved_mask(page) -> np.ndarray:
    with page.expect_download() as download:
        page.click("#mask-panel >> text=Save")
    with Image.open(download.value.path()) as image:
        assert image.mode in ("RGB", "RGBA")
        return np.asarray(image.convert("L")) >= 128


def run_edit(studio) -> dict:
    page, before = studio.page, len(studio.results)
    page.press("#prompt", "Control+Enter")
    wait(page, lambda: len(studio.results) > before)
    page.wait_for_selector('#stage-edit [data-act="download"]')
    return studio.jobs[0]


def pixels(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def test_words_choose_tokens_and_sliders_refine_them(editor):
    page = editor.page
    assert page.input_value("#source_prompt") == "a red circle"
    page.wait_for_selector(".pill:has-text('Change the words')")
    page.fill("#prompt", "a blue square left of a yellow star")
    few = chosen(page)
    requests = []
    page.on("request", lambda request: requests.append((request.method, request.url)))
    page.locator("#edit-threshold").fill("0.02")
    wait(page, lambda: requests and chosen(page) > few)
    assert all(method == "GET" and "threshold=0.02" in url for method, url in requests)
    page.click("#words label:has-text('By share')")
    page.locator("#edit-share").fill("0.5")
    wait(page, lambda: chosen(page) == 32)
    editor.screenshot("words")
    job = run_edit(editor)
    assert job["operation"] == "edit"
    assert job["request"]["share"] == 0.5 and job["request"]["source_prompt"] == "a red circle"
    assert job["region"]["chosen"] == 32


def test_before_tokens_and_after(editor):
    page = editor.page
    page.fill("#prompt", "a blue square left of a yellow star")
    chosen(page)
    run_edit(editor)
    names = page.locator(".triptych button").all_inner_texts()
    assert names == ["Before", "Tokens", "After"]
    assert page.locator(".triptych button[aria-pressed=true]").inner_text() == "After"
    editor.screenshot("after")
    page.click(".triptych >> text=Tokens")
    page.wait_for_selector(".pill:has-text('filled again')")
    page.locator("#stage").focus()
    page.keyboard.press("q")
    assert page.locator(".triptych button[aria-pressed=true]").inner_text() == "Before"
    page.keyboard.press("a")
    page.keyboard.press("c")
    page.wait_for_selector(".easel .compare img")
    page.keyboard.press("ArrowLeft")
    assert page.locator(".easel .compare-range").input_value() == "49"


def test_another_way_starts_from_the_image_again(editor):
    page = editor.page
    choose(page, "Vary")
    run_edit(editor)
    assert page.get_attribute(".panel-button:has-text('After')", "aria-pressed") == "true"
    choose(page, "Mask")
    stroke(page, (0.1, 0.1), (0.4, 0.1))
    assert chosen(page) > 0


def test_a_painted_mask_changes_its_tokens_and_nothing_else(editor):
    page = editor.page
    before = pixels(editor.content(editor.results[0]))
    choose(page, "Mask")
    page.fill("#prompt", "a blue square left of a yellow star")
    page.locator("#edit-brush").fill("8")
    stroke(page, (0.1, 0.1), (0.4, 0.1))
    assert chosen(page) > 0
    page.click("#more summary")
    page.uncheck("[name=blend]")  # no fading, so that the outside is the same bit for bit
    mask = saved_mask(page)
    assert mask.shape == (64, 64) and mask.any() and not mask.all()
    editor.screenshot("mask")
    job = run_edit(editor)
    region = np.array([[letter == "1" for letter in row] for row in job["region"]["rows"]])
    outside = ~np.kron(region, np.ones((8, 8), dtype=bool))
    after = pixels(editor.content(editor.results[0]))
    assert outside.any()
    assert (after[outside] == before[outside]).all()
    # The mask is there for the next run.
    page.click(".triptych >> text=Before")
    assert (saved_mask(page) == mask).all()


def test_strokes_are_undone_redone_and_erased(editor):
    page = editor.page
    choose(page, "Mask")
    page.locator("#edit-brush").fill("8")
    stroke(page, (0.2, 0.2), (0.6, 0.2))
    first = saved_mask(page)
    stroke(page, (0.2, 0.7), (0.6, 0.7))
    both = saved_mask(page)
    assert both.sum() > first.sum()
    page.locator(".easel-canvas").focus()
    page.keyboard.press("Control+z")
    assert (saved_mask(page) == first).all()
    page.locator(".easel-canvas").focus()
    page.keyboard.press("Control+Shift+z")
    assert (saved_mask(page) == both).all()
    page.locator(".easel-canvas").focus()
    page.keyboard.press("e")
    stroke(page, (0.2, 0.7), (0.6, 0.7))
    assert (saved_mask(page) == first).all()
    page.click("#mask-panel >> text=Invert")
    assert (saved_mask(page) == ~first).all()
    page.click("#mask-panel >> text=Clear")
    assert not saved_mask(page).any()
    page.click("[aria-label=Undo]")
    assert (saved_mask(page) == ~first).all()


def test_snapping_marks_whole_blocks_and_can_be_off(editor):
    page = editor.page
    choose(page, "Mask")
    page.locator("#edit-brush").fill("4")
    stroke(page, (0.3, 0.3), (0.5, 0.3))
    blocks = saved_mask(page).reshape(8, 8, 8, 8).mean(axis=(1, 3))
    assert set(np.unique(blocks)) == {0.0, 1.0}
    page.locator("#stage").focus()
    page.keyboard.press("n")
    page.click("#mask-panel >> text=Clear")
    stroke(page, (0.3, 0.3), (0.5, 0.3))
    free = saved_mask(page)
    assert 0 < free.sum() < 200
    # Beyond the edge is as good as at it.
    stroke(page, (0.9, 0.9), (1.02, 1.02))
    assert saved_mask(page)[-1, -1]


def test_rectangles_by_pointer_and_by_numbers(editor):
    page = editor.page
    choose(page, "Mask")
    page.locator("#stage").focus()
    page.keyboard.press("r")
    stroke(page, (0.26, 0.26), (0.49, 0.49))
    expected = np.zeros((64, 64), dtype=bool)
    expected[16:32, 16:32] = True
    assert (saved_mask(page) == expected).all()
    page.click("#mask-panel summary")
    for name, value in {"left": 40, "top": 40, "width": 8, "height": 16}.items():
        page.fill(f"#rectangle-{name}", str(value))
    page.click("#mask-panel >> text=Mark")
    expected[40:56, 40:48] = True
    marked = saved_mask(page)
    assert (marked & expected == expected).all()


def test_the_mask_is_painted_by_keyboard(editor):
    page = editor.page
    choose(page, "Mask")
    page.locator(".easel-canvas").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    first = saved_mask(page)
    assert first[0, 0] and not first[-1, -1]
    page.locator(".easel-canvas").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#live:has-text('Row 1')", state="attached")
    page.keyboard.press("Shift+ArrowDown")
    assert saved_mask(page).sum() > first.sum()


def test_a_mask_is_loaded_and_survives_a_reload(editor, tmp_path):
    page = editor.page
    choose(page, "Mask")
    for name, mode in (("white", "L"), ("alpha", "RGBA")):
        image = Image.new(mode, (64, 64), 0 if mode == "L" else (9, 9, 9, 255))
        image.paste(255 if mode == "L" else (9, 9, 9, 0), (8, 8, 24, 40))
        image.save(tmp_path / f"{name}.png")
        with page.expect_request("**/api/selections"):
            page.set_input_files("#mask-file", str(tmp_path / f"{name}.png"))
        expected = np.zeros((64, 64), dtype=bool)
        expected[8:40, 8:24] = True
        assert (saved_mask(page) == expected).all()
    page.wait_for_timeout(900)  # the mask is kept when nothing has changed for a moment
    with page.expect_request("**/api/selections"):
        page.reload()
    assert (saved_mask(page) == expected).all()


def test_the_image_is_zoomed_and_moved(editor):
    page = editor.page
    choose(page, "Mask")
    page.locator("#stage").focus()
    for _ in range(4):
        page.keyboard.press("+")
    page.locator("#edit-brush").fill("2")
    page.keyboard.press("n")
    box = page.locator(".easel-canvas").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] + 60, middle[1])
    page.mouse.up()
    close = saved_mask(page)
    assert 0 < close.sum() < 20  # 60 pixels of the screen are few of the image
    editor.screenshot("zoomed")
    page.locator("#stage").focus()
    page.keyboard.press("h")
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(middle[0] - 200, middle[1])
    page.mouse.up()
    page.keyboard.press("b")
    page.mouse.move(*middle)
    page.mouse.wheel(0, -200)
    page.mouse.down()
    page.mouse.move(middle[0] + 5, middle[1])
    page.mouse.up()
    columns = np.flatnonzero(saved_mask(page).any(axis=0))
    assert columns.max() > np.flatnonzero(close.any(axis=0)).max()
    page.keyboard.press("0")


def test_sides_are_extended_by_dragging_and_by_keys(editor):
    page = editor.page
    choose(page, "Extend")
    handle = page.locator(".handle-right").bounding_box()
    x, y = handle["x"] + handle["width"] / 2, handle["y"] + handle["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 150, y, steps=4)
    page.mouse.up()
    right = int(page.input_value("#grow-2"))
    assert right > 0 and right % 8 == 0
    assert chosen(page) > 0
    page.locator(".handle-top").focus()
    page.keyboard.press("ArrowUp")
    top = int(page.input_value("#grow-1"))
    assert top >= 8
    page.keyboard.press("Shift+ArrowUp")
    assert int(page.input_value("#grow-1")) == top + 1
    page.fill("#grow-1", "8")
    page.press("#grow-1", "Tab")
    editor.screenshot("extend")
    job = run_edit(editor)
    assert job["request"]["grow"] == [0, 8, right, 0]
    assert editor.results[0]["size"] == f"{64 + right}x72"
    page.click('#stage-edit [data-act="compare"]')
    page.wait_for_selector(".easel .compare img")


def test_an_image_is_varied(editor):
    page = editor.page
    page.click(".tabs >> text=Draw")
    page.click('#stage-draw [data-act="vary"]')
    page.wait_for_selector("#vary-panel:visible")
    assert page.inner_text("#go-text") == "Vary"
    page.locator("#edit-strength").fill("0.25")
    page.fill("#n", "2")
    job = run_edit(editor)
    assert job["operation"] == "variation" and job["request"]["strength"] == 0.25
    wait(page, lambda: len(editor.results) == 3)
    assert page.locator(".triptych button").all_inner_texts()[2:] == ["After 1", "After 2"]


def test_editing_goes_on_with_the_result(editor):
    page = editor.page
    page.fill("#prompt", "one cat")
    chosen(page)
    run_edit(editor)
    page.click('#stage-edit [data-act="edit"]')
    wait(page, lambda: page.input_value("#source_prompt") == "one cat")
    assert page.locator(".triptych").is_hidden()


def test_settings_of_an_edit_come_back_with_its_image(editor):
    page = editor.page
    page.fill("#prompt", "one cat")
    page.locator("#edit-threshold").fill("0.1")
    chosen(page)
    run_edit(editor)
    page.fill("#prompt", "two dogs")
    page.locator("#edit-threshold").fill("0.9")
    choose(page, "Vary")
    page.click('#stage-edit [data-act="reuse"]')
    wait(page, lambda: page.input_value("#prompt") == "one cat")
    assert page.input_value("#source_prompt") == "a red circle"
    assert page.input_value("#edit-threshold") == "0.1"
    assert page.locator("#ways input[value=words]").is_checked()


def test_settings_of_an_edit_come_back_with_its_mask(editor):
    page = editor.page
    choose(page, "Mask")
    page.fill("#prompt", "one cat")
    page.locator("#edit-brush").fill("8")
    stroke(page, (0.1, 0.1), (0.4, 0.1))
    painted = saved_mask(page)
    chosen(page)
    run_edit(editor)
    page.click(".triptych >> text=Before")
    page.click("#mask-panel >> text=Clear")
    page.fill("#prompt", "two dogs")
    choose(page, "Vary")
    page.click(".triptych >> text=After")
    page.click('#stage-edit [data-act="reuse"]')
    wait(page, lambda: page.input_value("#prompt") == "one cat")
    assert page.locator("#ways input[value=mask]").is_checked()
    chosen(page)
    assert np.array_equal(saved_mask(page), painted)


def test_a_mask_that_the_server_has_lost_is_said(editor):
    page = editor.page
    choose(page, "Mask")
    page.fill("#prompt", "one cat")
    stroke(page, (0.1, 0.1), (0.4, 0.1))
    chosen(page)
    job = run_edit(editor)
    editor.server.service.store.delete(job["mask"], "")
    page.click('#stage-edit [data-act="reuse"]')
    page.wait_for_selector("text=The server no longer has the mask")
    assert not saved_mask(page).any()


def test_an_edit_survives_a_reload_and_can_be_cancelled(make_studio, pipe):
    gate = Gate()
    gate.open.set()
    studio = make_studio(worker=SlowWorker(pipe, gate))
    page = studio.open()
    studio.draw("a red circle")
    studio.edit_first()
    choose(page, "Vary")
    gate.open.clear()
    gate.reached.clear()
    page.press("#prompt", "Control+Enter")
    wait(page, gate.reached.is_set)
    # The worker may be faster than the answer that tells the page its job.
    page.wait_for_selector("#stage-edit .status button:visible")
    page.reload()
    page.wait_for_selector("#stage-edit .status button:visible")
    assert page.locator(".source-name").is_visible()
    page.click("#stage-edit .status button")
    gate.open.set()
    page.wait_for_selector("#stage-edit .status:has-text('Cancelled')")
    assert studio.jobs[0]["state"] == "cancelled"


def test_what_is_missing_is_said(studio):
    page = studio.open("edit")
    page.fill("#prompt", "one cat")
    page.click("#go")
    page.wait_for_selector("#form-error:has-text('Open an image first')")
    page.goto(f"{studio.server.url}/#draw")
    studio.draw("a red circle")
    studio.edit_first()
    choose(page, "Mask")
    page.click("#go")
    page.wait_for_selector("#form-error:has-text('The mask is empty')")
    choose(page, "Words")
    page.click("#go")
    page.wait_for_selector("#form-error:has-text('the same')")
