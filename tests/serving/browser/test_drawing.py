"""The studio in Chromium: drawing, previews, cancellation, the queue, and what survives a reload."""

from __future__ import annotations

import pytest
from browsing import wait
from served import Gate, SlowWorker

pytestmark = pytest.mark.slow


@pytest.fixture
def gated(make_studio, pipe):
    """A studio whose server takes a step only when the gate is open."""
    gate = Gate()
    studio = make_studio(worker=SlowWorker(pipe, gate))
    yield studio, gate
    gate.open.set()


def test_a_typed_prompt_becomes_an_image(studio):
    page = studio.open()
    studio.draw("a red circle left of a blue square")
    assert page.locator(".frame-image").get_attribute("alt") == "a red circle left of a blue square"
    assert "Drawn in" in page.locator("#stage-draw .status").inner_text()
    assert studio.thumbs() == 1
    assert studio.results[0]["prompt"] == "a red circle left of a blue square"


def test_the_first_step_is_shown_before_the_others_are_drawn(gated):
    studio, gate = gated
    page = studio.open()
    page.fill("#prompt", "a red circle")
    page.click("#go")
    wait(page, gate.reached.is_set)
    page.wait_for_selector(".frame canvas")
    gate.open.set()
    page.wait_for_selector(".frame-image.in")


def test_previews_show_candidates_and_filled_tokens(make_studio, pipe):
    studio = make_studio(worker=SlowWorker(pipe, seconds=0.3))
    page = studio.open()
    page.fill("#prompt", "a red circle")
    page.click("#go")
    page.wait_for_selector(".status:has-text('Step')")
    page.wait_for_timeout(400)
    colours = page.evaluate(
        """() => {
            const canvas = document.querySelector('.frame canvas');
            const {data} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            const seen = new Set();
            for (let at = 0; at < data.length; at += 400) seen.add(data.slice(at, at + 3).join());
            return seen.size;
        }"""
    )
    assert colours > 4
    assert int(page.locator("#stage-draw .progress").get_attribute("aria-valuenow")) > 0
    studio.screenshot("preview")


@pytest.mark.parametrize("way", ["button", "key", "queue"])
def test_a_job_is_cancelled_by_itself(make_studio, pipe, way):
    studio = make_studio(worker=SlowWorker(pipe, seconds=0.3))
    page = studio.open()
    page.fill("#prompt", "a red circle")
    page.click("#go")
    page.wait_for_selector("#queue li")
    if way == "button":
        page.click("#stage-draw .status button")
    elif way == "key":
        page.locator("#stage").focus()
        page.keyboard.press("Shift+X")
    else:
        page.click("#queue li [aria-label^=Cancel]")
    page.wait_for_selector(".status:has-text('Cancelled')")
    assert studio.jobs[0]["state"] == "cancelled"
    assert page.locator("#queue li").count() == 0
    assert studio.results == []


def test_others_wait_in_the_queue_and_each_can_be_cancelled(gated):
    studio, gate = gated
    page = studio.open()
    page.fill("#n", "1")
    for prompt in ("one cat", "two dogs and a cat", "a blue square left of a yellow star"):
        page.fill("#prompt", prompt)
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector(f"#queue li:has-text('{prompt}')")
    wait(page, gate.reached.is_set)
    page.wait_for_selector("#queue li:has-text('before this one')")
    studio.screenshot("queue")
    page.click("#queue li:has-text('two dogs') [aria-label^=Cancel]")
    wait(page, lambda: page.locator("#queue li").count() == 2)
    gate.open.set()
    wait(page, lambda: page.locator("#queue li").count() == 0)
    states = {job["prompt"]: job["state"] for job in studio.jobs}
    assert states["two dogs and a cat"] == "cancelled"
    assert sorted(states.values()) == ["cancelled", "completed", "completed"]
    wait(page, lambda: studio.thumbs() == 2)


def test_the_whole_queue_is_cancelled_at_once(gated):
    studio, gate = gated
    page = studio.open()
    for prompt in ("one cat", "two dogs"):
        page.fill("#prompt", prompt)
        page.press("#prompt", "Control+Enter")
        page.wait_for_selector(f"#queue li:has-text('{prompt}')")
    page.click("#cancel-all")
    gate.open.set()
    wait(page, lambda: page.locator("#queue li").count() == 0)
    assert {job["state"] for job in studio.jobs} == {"cancelled"}


def test_a_reload_loses_neither_the_job_nor_the_form(gated):
    studio, gate = gated
    page = studio.open()
    page.click("#presets label >> nth=0")
    page.fill("#prompt", "a red circle")
    page.click("#go")
    wait(page, gate.reached.is_set)
    page.reload()
    page.wait_for_selector("#queue li")
    assert page.input_value("#prompt") == "a red circle"
    assert page.locator("#presets input >> nth=0").is_checked()
    gate.open.set()
    page.wait_for_selector(".frame-image.in")
    page.reload()
    page.wait_for_selector(".frame-image.in")
    assert studio.thumbs() == 1


def test_a_second_tab_sees_the_job_and_its_image(gated):
    studio, gate = gated
    page = studio.open()
    other = studio.new_page()
    other.goto(studio.server.url)
    other.wait_for_selector("#presets input", state="attached")
    page.fill("#prompt", "a red circle")
    page.click("#go")
    other.wait_for_selector("#queue li")
    gate.open.set()
    other.wait_for_selector("#images .thumb img.in", state="attached")


def test_several_images_are_shown_together_and_one_by_one(studio):
    page = studio.open()
    studio.draw(n="4", seed="7")
    wait(page, lambda: page.locator(".frame-image.in").count() == 4)
    studio.screenshot("four")
    assert [result["seed"] for result in reversed(studio.results)] == [7, 8, 9, 10]
    page.click(".frame >> nth=2")
    page.wait_for_selector('[data-act="download"]')
    assert page.locator(".frame:visible").count() == 1
    page.click('[data-act="info"]')
    assert "9" in page.locator(".facts dd").all_inner_texts()
    page.click('[data-act="back"]')
    wait(page, lambda: page.locator(".frame:visible").count() == 4)


def test_seeds_are_rolled_or_locked(studio):
    page = studio.open()
    studio.draw()
    studio.draw()
    rolled = [result["seed"] for result in studio.results]
    assert rolled[0] != rolled[1]
    page.click("#lock")
    assert page.locator("#lock").get_attribute("aria-pressed") == "true"
    studio.draw()
    studio.draw()
    locked = studio.results
    assert locked[0]["seed"] == locked[1]["seed"] == rolled[0]
    assert studio.content(locked[0]) == studio.content(locked[1])
    page.click("#roll")
    assert page.input_value("#seed") != str(rolled[0])


def test_the_largest_seed_is_exact(studio):
    studio.open()
    studio.draw(seed=str(2**63 - 1))
    assert studio.results[0]["seed"] == 2**63 - 1
    studio.page.reload()
    studio.page.click('[data-act="reuse"]')
    assert studio.page.input_value("#seed") == str(2**63 - 1)


def test_settings_reach_the_server_and_can_be_reset(studio):
    page = studio.open()
    page.click("#more summary")
    page.fill("#setting-num_inference_steps", "5")
    page.fill("#setting-guidance_interval", "0.25")
    page.select_option("#setting-draw", "argmax")
    page.fill("#setting-order", "random")
    page.press("#setting-order", "Tab")
    page.fill("#negative_prompt", "blue")
    page.fill("#setting-guidance_scale", "1.5")
    page.select_option("#output_format", "webp")
    studio.draw()
    job = studio.jobs[0]
    assert job["negative_prompt"] == "blue"
    assert (
        job["settings"]
        | {
            "num_inference_steps": 5,
            "guidance_interval": [0.25, 1.0],
            "draw": "argmax",
            "order": "random",
            "guidance_scale": 1.5,
        }
        == job["settings"]
    )
    assert studio.results[0]["format"] == "webp"
    assert page.inner_text("#changed") == "5 changed"
    page.click("#reset-settings")
    assert page.input_value("#setting-order") == ""


def test_another_size_is_drawn(studio):
    page = studio.open()
    page.select_option("#size", "own")
    page.fill("#own-width", "96")
    page.fill("#own-height", "64")
    page.press("#own-height", "Tab")
    studio.draw()
    assert studio.results[0]["size"] == "96x64"


def test_an_error_is_said_at_its_field_in_the_servers_words(studio):
    page = studio.open()
    page.click("#more summary")
    page.fill("#setting-order", "sideways")
    page.press("#setting-order", "Tab")
    page.fill("#prompt", "a red circle")
    page.click("#go")
    page.wait_for_selector("#form-error:not([hidden])")
    assert "sideways" in page.inner_text("#form-error")
    assert page.locator("#setting-order").get_attribute("aria-invalid") == "true"
    assert page.locator(".field:has(#setting-order) #form-error").is_visible()
    studio.screenshot("error")
    page.fill("#setting-order", "")
    page.fill("#prompt", "")
    page.press("#prompt", "Control+Enter")
    wait(page, lambda: "prompt" in page.inner_text("#form-error"))
    assert page.evaluate("document.activeElement.id") == "prompt"


def test_a_server_that_goes_away_and_comes_back(gated):
    studio, gate = gated
    page = studio.open()
    page.route("**/api/jobs", lambda route: route.abort())
    page.fill("#prompt", "a red circle")
    page.click("#go")
    page.wait_for_selector("#form-error:has-text('does not answer')")
    page.unroute("**/api/jobs")
    gate.open.set()
    studio.draw()


def test_a_job_that_the_server_forgot_leaves_the_queue(gated):
    studio, gate = gated
    page = studio.open()
    page.fill("#prompt", "one cat")
    page.click("#go")
    page.wait_for_selector("#queue li")
    page.route("**/api/jobs/**", lambda route: route.fulfill(status=404, json={"error": {"message": "gone"}}))
    page.route("**/api/jobs?**", lambda route: route.fulfill(json={"object": "list", "data": []}))
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.wait_for_selector(".status:has-text('gone')")
    assert page.locator("#queue li").count() == 0
    gate.open.set()
