"""The studio in Chromium: accessibility by axe on every view, keyboard, keys of the server, phones, themes."""

from __future__ import annotations

import re

import pytest
from browsing import wait
from chromium import PHONE

pytestmark = pytest.mark.slow

TOUCH = {"has_touch": True, "is_mobile": True}
LOOKS = {
    "desktop": {},
    "dark": {"context": {"color_scheme": "dark"}},
    "phone": {"size": PHONE, "context": TOUCH},
}


@pytest.mark.parametrize("look", LOOKS)
def test_axe_finds_nothing_serious(make_studio, look):
    studio = make_studio(**LOOKS[look])
    page = studio.open()
    found = {"empty": studio.violations()}
    studio.screenshot(f"{look}-empty")
    studio.draw("a red circle", seed="3")
    page.click('[data-act="info"]')
    page.click("#more summary")
    found["drawn"] = studio.violations()
    page.click("#more summary")
    page.click('[data-act="compare"]')
    page.click('[data-act="edit"]')
    page.wait_for_selector(".source-name")
    page.fill("#prompt", "one cat")
    page.wait_for_selector(".pill:has-text('filled again')")
    found["words"] = studio.violations()
    studio.screenshot(f"{look}-words")
    for way in ("Mask", "Extend", "Vary"):
        page.click(f"#ways label:has-text('{way}')")
        found[way] = studio.violations()
        studio.screenshot(f"{look}-{way.lower()}")
    page.press("#prompt", "Control+Enter")
    wait(page, lambda: len(studio.results) == 2)
    page.wait_for_selector('#stage-edit [data-act="download"]')
    found["edited"] = studio.violations()
    page.click('#stage-edit [data-act="compare"]')
    found["compared"] = studio.violations()
    page.click(".tabs >> text=Gallery")
    found["gallery"] = studio.violations()
    studio.screenshot(f"{look}-gallery")
    page.click("#show-keys")
    found["keys"] = studio.violations()
    page.keyboard.press("Escape")
    studio.drop(studio.content(studio.results[0]))
    page.wait_for_selector("#file-dialog[open]")
    found["dropped"] = studio.violations()
    assert {name: list for name, list in found.items() if list} == {}


def test_everything_has_a_name_and_can_be_reached_by_tab(studio):
    page = studio.open()
    studio.draw()
    page.locator(".skip").focus()
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                "(({id, dataset, className}) => id || dataset.act || dataset.view || className)(document.activeElement)"
            )
        )
    for wanted in (
        "gallery",
        "theme",
        "prompt",
        "go",
        "seed",
        "roll",
        "lock",
        "n",
        "edit",
        "delete",
        "thumb",
    ):
        assert wanted in seen, f"{wanted} is not among {seen}"


def test_the_skip_link_leads_to_the_prompt(studio):
    page = studio.open()
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "prompt"
    assert page.url.endswith("#draw")


def test_progress_is_told_to_those_who_do_not_see_it(studio):
    page = studio.open()
    page.evaluate(
        """() => {
            window.told = [];
            new MutationObserver(() => window.told.push(document.querySelector('#live').textContent))
                .observe(document.querySelector('#live'), {childList: true, characterData: true, subtree: true});
        }"""
    )
    studio.draw()
    wait(page, lambda: any(text.startswith("Drawn") for text in page.evaluate("window.told")))


def test_the_list_of_keys_is_what_works(studio):
    page = studio.open()
    page.locator("#stage").focus()
    page.keyboard.press("?")
    page.wait_for_selector("#keys-dialog[open]")
    studio.screenshot("keys")
    page.keyboard.press("Escape")
    page.keyboard.press("2")
    wait(page, lambda: page.url.endswith("#edit"))
    page.keyboard.press("3")
    wait(page, lambda: page.url.endswith("#gallery"))
    page.keyboard.press("1")
    wait(page, lambda: page.url.endswith("#draw"))
    page.wait_for_selector("#prompt")  # the page follows its address a moment later
    page.keyboard.press("s")
    seed = page.input_value("#seed")
    assert re.fullmatch(r"\d+", seed)
    page.keyboard.press("l")
    assert page.locator("#lock").get_attribute("aria-pressed") == "true"
    page.keyboard.press("p")
    page.keyboard.type("l?s1")  # letters are letters in a field
    assert page.input_value("#prompt") == "l?s1"
    assert page.locator("#lock").get_attribute("aria-pressed") == "true"
    assert page.input_value("#seed") == seed


def test_a_server_with_keys_asks_once(make_studio):
    studio = make_studio(keys=["a-key-of-one-user-1"])
    page = studio.page
    page.goto(studio.server.url)
    page.wait_for_selector("#access-dialog[open]")
    assert studio.violations() == []
    page.fill("#access-key", "a-key-of-nobody-at-all")
    page.keyboard.press("Enter")
    page.wait_for_selector("#access-hint:has-text('key')")
    page.wait_for_selector("#access-key")
    wait(page, lambda: page.input_value("#access-key") == "")
    page.fill("#access-key", "a-key-of-one-user-1")
    page.keyboard.press("Enter")
    page.wait_for_selector("#presets input", state="attached")
    page.fill("#prompt", "one cat")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector(".frame-image.in")
    page.wait_for_selector("#images .thumb img.in")
    page.reload()
    page.wait_for_selector(".frame-image.in")
    assert page.locator("#access-dialog[open]").count() == 0
    assert "a-key" not in page.evaluate("JSON.stringify(localStorage)")


@pytest.mark.parametrize("view", ["draw", "edit", "gallery"])
def test_a_phone_has_one_column_and_targets_for_fingers(make_studio, view):
    studio = make_studio(size=PHONE, context=TOUCH)
    page = studio.open()
    studio.draw("a red circle")
    if view == "edit":
        page.click('[data-act="edit"]')
        page.click("#ways label:has-text('Mask')")
    elif view == "gallery":
        page.tap(".tabs >> text=Gallery")
    page.wait_for_timeout(300)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    small = page.evaluate(
        """() => [...document.querySelectorAll('button, select, .tabs a, .segments label, summary')]
            .filter((element) => element.checkVisibility())
            .map((element) => [element.getBoundingClientRect(), element.outerHTML.slice(0, 90)])
            .filter(([box]) => box.width > 0 && (box.height < 32 || box.width < 32))
            .map(([, html]) => html)"""
    )
    assert small == []


def test_every_view_of_a_phone_begins_with_its_image(make_studio):
    studio = make_studio(size=PHONE, context=TOUCH)
    page = studio.open()
    studio.draw("a red circle", n="10")
    page.tap(".tabs >> text=Gallery")
    wait(page, lambda: page.locator("#gallery-title").bounding_box()["y"] > 50)
    wait(page, lambda: page.locator("#images .thumb img.in").count() == 10)
    page.evaluate("scrollTo(0, 1e6)")
    left = page.evaluate("scrollY")
    assert left > 0
    page.tap("#images .thumb >> nth=8")
    wait(page, lambda: page.evaluate("scrollY") == 0)
    page.tap(".tabs >> text=Gallery")
    wait(page, lambda: page.evaluate("scrollY") == left)
    page.tap(".tabs >> text=Draw")
    page.tap('[data-act="edit"]')
    page.click("#ways label:has-text('Vary')")
    page.tap("#go")
    wait(page, lambda: page.evaluate("scrollY") == 0)


def test_fingers_paint_the_mask_and_two_of_them_zoom(make_studio):
    studio = make_studio(size=PHONE, context=TOUCH)
    page = studio.open()
    studio.draw("a red circle")
    page.click('[data-act="edit"]')
    page.click("#ways label:has-text('Mask')")
    page.evaluate("scrollTo(0, 0)")
    box = page.locator(".easel-canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    client = studio.context.new_cdp_session(page)

    def touch(kind: str, *points: tuple[float, float]) -> None:
        found = [{"x": a, "y": b, "id": index} for index, (a, b) in enumerate(points)]
        client.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": found})

    touch("touchStart", (x - 40, y))
    for step in range(5):
        touch("touchMove", (x - 40 + 16 * step, y))
    touch("touchEnd")
    page.wait_for_selector(".pill:has-text('filled again')")
    chosen = page.inner_text(".pill")
    touch("touchStart", (x - 20, y), (x + 20, y))
    for step in range(5):
        touch("touchMove", (x - 20 - 12 * step, y), (x + 20 + 12 * step, y))
    touch("touchEnd")
    studio.screenshot("pinched")
    page.wait_for_timeout(600)
    assert page.inner_text(".pill") == chosen
    assert not page.locator("[aria-label=Undo]").is_disabled()
    page.click("[aria-label=Undo]")
    assert page.locator("[aria-label=Undo]").is_disabled()


def test_the_theme_is_kept(studio):
    page = studio.open()
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    page.click("#theme")
    page.click("#theme")
    assert page.evaluate(ground) != light
    page.reload()
    page.wait_for_selector("#presets input", state="attached")
    assert page.evaluate(ground) != light


def test_less_motion_is_respected(make_studio):
    studio = make_studio(context={"reduced_motion": "reduce"})
    studio.open()
    studio.draw()
    assert studio.page.locator(".frame-image.in").count() == 1


def test_nothing_comes_from_elsewhere(studio):
    page, hosts = studio.page, set()
    page.on(
        "request",
        lambda request: hosts.add(request.url.split("/")[2]) if request.url.startswith("http") else None,
    )
    studio.open()
    studio.draw()
    assert hosts == {studio.server.url.split("/")[2]}
