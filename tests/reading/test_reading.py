"""What a model reads from an image: labels, phrases, and which image reads best."""

from __future__ import annotations

import json
from inspect import signature

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import golden_tokenizer

from smalti.cli.classify import classify as label_command
from smalti.cli.ground import ground as ground_command
from smalti.cli.main import main
from smalti.editing.grounded import THRESHOLD
from smalti.errors import SmaltiError
from smalti.model.spans import find_phrase, prompt_ids
from smalti.reading.attention import attention_maps, check_attention
from smalti.reading.calibration import calibration_error, fit_temperature
from smalti.reading.candidates import bounds
from smalti.reading.classification import MASKS, Classification, classify
from smalti.reading.grounding import PASSES, ground, merged, similarity
from smalti.reading.likelihood import log_probabilities
from smalti.reading.masks import reading_masks
from smalti.reading.ranking import best_of, prompt_gain
from smalti.reading.regions import boxes, parts, region, scaled, sharpened

LABELS = ["a red circle", "a blue square left of a yellow star", "two dogs"]


def test_masks_have_fixed_counts_and_share_prefixes():
    masks = reading_masks(8, 8, 6, ratios=(0.5, 1.0), seed=1)
    assert masks.sum(dim=(1, 2)).tolist() == [64, 48, 56, 40, 60, 44]
    assert torch.equal(masks[:3], reading_masks(8, 8, 3, ratios=(0.5, 1.0), seed=1))
    assert not torch.equal(masks[1:], reading_masks(8, 8, 6, ratios=(0.5, 1.0), seed=2)[1:])
    with pytest.raises(SmaltiError, match="ratios must be two rising numbers"):
        reading_masks(8, 8, 2, ratios=(0.9, 0.5))


def test_bounds_are_weighted_log_likelihoods(pipe, tokens):
    """L / m times the sum over the masked tokens, the mean over masks that all labels share."""
    found = classify(pipe.components, tokens, LABELS, masks=4, drop=False)
    masks = reading_masks(8, 8, 4)
    for label, value in zip(LABELS, found.log_likelihoods, strict=True):
        prompt = pipe.components.prompts([label], 64, 64)
        values = log_probabilities(pipe.denoiser, prompt, tokens, masks).double().sum(dim=(1, 2))
        expected = (values * 64 / masks.sum(dim=(1, 2))).mean()
        assert value == pytest.approx(float(expected), abs=1e-3)
    assert sum(found.probabilities) == pytest.approx(1) and found.passes == 12 and found.masks == (4, 4, 4)
    assert found.label == found.ranked()[0][0]


def test_a_label_that_cannot_win_is_dropped(pipe, tokens, monkeypatch):
    """Its bound stays comparable, and the winner is the one that all masks would choose."""
    levels = {0: -1.0, 1: -5.0, 2: -1.02}

    def pretend(denoiser, prompt, tokens, masks, *, at_once):
        noise = torch.rand(len(masks), 1, 1, generator=torch.Generator().manual_seed(len(masks))) * 0.5
        return (levels[prompt] - noise) * masks

    monkeypatch.setattr("smalti.reading.candidates.log_probabilities", pretend)
    reports = []
    found = bounds(
        pipe.components, tokens, [0, 1, 2], reading_masks(8, 8, 16), report=lambda *now: reports.append(now)
    )
    assert found.masks.tolist() == [16, 4, 16] and found.passes == 36 == reports[-1][0]
    assert reports[-1][1] == 48
    whole = bounds(pipe.components, tokens, [0, 1, 2], reading_masks(8, 8, 16), drop=False)
    assert found.values.argmax() == whole.values.argmax() == 0
    assert float(found.values[0] - found.values[1]) == pytest.approx(256, rel=1e-6)


def test_temperature_and_calibration_error():
    sure = Classification(("a", "b"), (1.0, 0.0), (3.0, 0.0), (1, 1), 2, 1.0)
    truths = [0, 0, 0, 0, 1]
    temperature = fit_temperature([sure] * 5, truths)
    assert 1 / (1 + np.exp(-3 / temperature)) == pytest.approx(0.8, abs=1e-4)
    assert calibration_error([1.0] * 5, [True] * 4 + [False]) == pytest.approx(0.2)
    with pytest.raises(SmaltiError, match="truths must be one for each"):
        fit_temperature([sure], [])


@pytest.mark.parametrize("conditioning", ["sequence", "cross_attention"])
def test_attention_is_that_of_the_layers(conditioning):
    """The shares of all ids and all positions of the sequence sum to 1; hooks leave nothing behind."""
    from tiny import tiny_denoiser, tiny_prompts

    denoiser = tiny_denoiser(conditioning=conditioning)
    prompt = tiny_prompts(denoiser, ["a red circle"], (8, 8))
    grid = torch.zeros(8, 8, dtype=torch.int64)
    width = prompt.ids.shape[1]
    maps = attention_maps(denoiser, prompt, grid, torch.ones(1, 8, 8, dtype=torch.bool), torch.arange(width))
    assert maps.shape == (8, 8, width)
    assert torch.allclose(maps.sum(-1), torch.ones(8, 8), atol=1e-5)
    assert not any(module._forward_pre_hooks for module in denoiser.modules())
    denoiser.layers[0]._compiled_call_impl = print
    with pytest.raises(SmaltiError, match="attention maps need a model that is not compiled"):
        check_attention(denoiser)


def test_places_of_a_phrase():
    tokenizer, prompt = golden_tokenizer(), "a blue square left of a yellow star"
    assert find_phrase(prompt, "A  yellow STAR") == (22, 35)
    for phrase in ("a yell", "dogs", "star a"):
        with pytest.raises(SmaltiError, match="phrase must be in the prompt"):
            find_phrase(prompt, phrase)
    from tiny import SHORT

    from smalti.model.prompt import RELEASE_TEMPLATE, build_prompts

    for template in (SHORT, RELEASE_TEMPLATE):
        ids = build_prompts([prompt], template, tokenizer, height=64, width=64, slots=4).ids[0].tolist()
        found = prompt_ids(prompt, template, tokenizer, height=64, width=64)
        assert "".join(prompt[start:end] for _, start, end in found) == prompt
        plain = tokenizer.encode(prompt)
        # The first id may hold a blank of the template.
        assert [ids[index] for index, _, _ in found][1:] == plain[1:]


def test_maps_of_phrases(pipe, tokens):
    prompt = "a blue square left of a yellow star"
    likely = ground(pipe.components, tokens, prompt, ["a blue square", "star"], masks=3)
    assert [one.without for one in likely] == ["left of a yellow star", "a blue square left of a yellow"]
    alone = ground(pipe.components, tokens, prompt, ["star"], masks=3)[0]
    assert torch.equal(alone.values, likely[1].values) and alone.drop is not None
    looked = ground(pipe.components, tokens, prompt, ["star"], by="attention")[0]
    both = ground(pipe.components, tokens, prompt, ["star"], masks=3, by="merged")[0]
    assert torch.allclose(both.values, merged(alone.values, looked.values))
    whole = ground(pipe.components, tokens, "two dogs", ["two dogs"], masks=2)[0]
    assert whole.without == "" and bool(whole.drop.isfinite().all())
    assert similarity(alone.values, alone.values) == pytest.approx(1)


def test_regions_follow_the_edges():
    pixels = torch.full((3, 64, 64), 200, dtype=torch.uint8)
    pixels[:, 20:44, 12:36] = 10
    coarse = torch.zeros(8, 8)
    coarse[2:6, 1:5] = 1.0
    coarse[3:5, 2:4] = 2.0
    sharp = sharpened(scaled(coarse), pixels)
    chosen = region(sharp, 0.5)
    true = pixels[0] == 10
    assert float((chosen & true).sum() / (chosen | true).sum()) > 0.9
    assert boxes(true) == [(12, 20, 36, 44)]
    two = torch.zeros(300, 300, dtype=torch.bool)
    two[:10, :10] = two[200:, 200:] = True
    assert boxes(two) == [(200, 200, 300, 300), (0, 0, 10, 10)]
    assert boxes(region(two.float(), 0.5)) == [(200, 200, 300, 300)]
    assert not boxes(torch.zeros(4, 4, dtype=torch.bool)) and int(parts(torch.ones(2, 2) > 0).max()) == 1


def test_the_best_of_several(pipe, tokens):
    grids = torch.stack([tokens, tokens.flip(0), tokens.flip(1), tokens.T])
    prompts = [LABELS[0]] * 2 + [LABELS[1]] * 2
    best, gains = best_of(pipe.components, grids, prompts, 2)
    assert gains[3] == pytest.approx(prompt_gain(pipe.components, tokens.T.contiguous(), LABELS[1]))
    assert best == [int(gains[1] > gains[0]), 2 + int(gains[3] > gains[2])]


@pytest.fixture
def run(tmp_path, monkeypatch, capfd, folder):
    """Run a command line in a folder with an image of the tiny model: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    assert (
        main(["generate", LABELS[1], "-o", "a.png", "--steps", "2", "--seed", "1", "--model", str(folder)])
        == 0
    )

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([*map(str, arguments), "--model", str(folder)])
        return code, *capfd.readouterr()

    return call


def test_commands_write_what_the_pipeline_finds(run, pipe, tmp_path):
    Image.new("RGB", (90, 40), "red").save("wide.png")
    (tmp_path / "labels.txt").write_text("two dogs\none cat\n")
    code, out, _ = run(
        "classify", "a.png", "wide.png", "--labels", "labels.txt", "--labels", "a red circle", "--json"
    )
    report = json.loads(out)["images"]
    assert code == 0 and [row["image"] for row in report] == ["a.png", "wide.png"]
    expected = pipe.classify("wide.png", ["two dogs", "one cat", "a red circle"])
    assert report[1]["label"] == expected.label and report[1]["passes"] == expected.passes
    assert run("classify", "a.png", "--labels", "two dogs,one cat")[1].count("%") == 2
    code, out, _ = run("ground", "a.png", "a yellow star", "-o", "where.png", "--json", "--masks", 2)
    found = pipe.ground("a.png", ["a yellow star"], masks=2)
    report = json.loads(out)
    assert code == 0 and report["phrases"] == [found.phrases[0].to_dict()]
    with Image.open("where.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(found.overlay()))
    wide = pipe.ground("wide.png", ["dogs"], prompt="two dogs", by="merged", masks=1)
    assert wide.phrases[0].map.shape == (40, 90) == wide.phrases[0].region.shape


def test_generate_keeps_the_best(run, pipe):
    line = ["generate", "two dogs", "-o", "best.png", "--steps", 2, "--seed", 4]
    report = json.loads(run(*line, "--best-of", 3, "--json")[1])
    drawn = pipe("two dogs", seed=4, num_images_per_prompt=3, num_inference_steps=2)
    best, gains = best_of(pipe.components, drawn.tokens, drawn.prompts, 3)
    assert report["seeds"] == [drawn.seeds[best[0]]] and report["scores"] == [round(gains[best[0]], 5)]
    with Image.open("best.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(drawn.images[best[0]]))
        assert image.text["seed"] == str(report["seeds"][0])


BAD_LINES = {
    "--labels must name at least two labels": ["classify", "a.png"],
    "--labels must be a list of at least two texts, not 1: 'a'": ["classify", "a.png", "--labels", "a"],
    "--labels must differ, but 'a' and 'A' are the same": ["classify", "a.png", "--labels", "a,b,A"],
    "--labels must be texts that are not blank": ["classify", "a.png", "--labels", "a,,b"],
    "--template must hold {} once": ["classify", "a.png", "--labels", "a,b", "--template", "c"],
    "--masks must be a whole number from 1 to 4096": ["classify", "a.png", "--labels", "a,b", "--masks", 0],
    "--temperature must be a finite number above 0": [
        "classify",
        "a.png",
        "--labels",
        "a,b",
        "--temperature",
        0,
    ],
    "image: text.png is not a readable image": ["classify", "text.png", "--labels", "a,b"],
    "none.txt does not exist": ["classify", "a.png", "--labels", "none.txt"],
    "phrase must be in the prompt": ["ground", "a.png", "a dog"],
    "phrase must not be given twice": ["ground", "a.png", "star", "Star"],
    "plain.png does not say what it shows: name --prompt": ["ground", "plain.png", "star"],
    "--by must be 'likelihood' or 'attention' or 'merged'": ["ground", "a.png", "star", "--by", "eye"],
    "-o must name a .png file": ["ground", "a.png", "star", "-o", "b.jpg"],
    "-o must name another file than IMAGE": ["ground", "a.png", "star", "-o", "a.png"],
    "--threshold must be a finite number": ["ground", "a.png", "star", "--threshold", 2],
    "--best-of must be a whole number from 1": ["generate", "two dogs", "-o", "b.png", "--best-of", 0],
    "--score must be 'likelihood', not 'taste'": ["generate", "two dogs", "-o", "b.png", "--score", "taste"],
}


def test_bad_lines_are_one_line(run, tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "plain.png")
    (tmp_path / "text.png").write_text("not an image")
    for message, line in BAD_LINES.items():
        code, out, err = run(*line)
        assert (code, out) == (2, ""), message
        assert err.startswith("smalti: ") and err.count("\n") == 1 and message in err, (message, err)
        assert len(err) < 300


def test_commands_have_the_defaults_of_the_functions():
    label, find = (
        {name: one.default for name, one in signature(command).parameters.items()}
        for command in (label_command, ground_command)
    )
    assert label["masks"] == MASKS
    assert (find["masks"], find["threshold"]) == (PASSES, THRESHOLD)
