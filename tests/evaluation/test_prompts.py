"""Files of prompts in the forms of benchmarks, and prompts that are rewritten before they are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_runs
import pytest
from benchmark_runs import PROMPTS, Redness, write_prompts
from folders import write_tiny_model

import smalti
from smalti.errors import SmaltiError
from smalti.evaluation.benchmark import PROMPTS_FILE
from smalti.evaluation.prompts import find_prompts
from smalti.evaluation.request import Request
from smalti.evaluation.rewriting import rewrite
from smalti.evaluation.run import evaluate
from smalti.evaluation.subject import Subject


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.txt", "a cat\n\n a dog \n", [{"prompt": "a cat"}, {"prompt": "a dog"}]),
        ("a.json", '[{"prompt": "a cat", "category": "x"}]', [{"prompt": "a cat", "category": "x"}]),
        ("a.json", '{"prompt": "a cat"}\n{"prompt": "a dog"}', [{"prompt": "a cat"}, {"prompt": "a dog"}]),
        ("a.json", '{"prompt": "a cat"}', [{"prompt": "a cat"}]),
        (
            "meta_data.json",
            '{"0a1b": {"category": "people", "prompt": "a man"}}',
            [{"name": "0a1b", "category": "people", "prompt": "a man"}],
        ),
        ("a.jsonl", '{"prompt": "a cat"}', [{"prompt": "a cat"}]),
    ],
)
def test_every_form_is_read(name: str, text: str, expected: list[Any], tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    assert find_prompts(tmp_path / name) == expected


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "3", "a.json must hold a list of prompts"),
        ("a.json", "[3]", "a.json prompt 0: a prompt must be a JSON object"),
        ("a.json", '{"../x": {"prompt": "a"}}', "a name must be the name of a file"),
        ("a.txt", "\n", "a.txt holds no prompts"),
        ("a.csv", "", ""),
    ],
)
def test_what_is_no_list_is_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    place = tmp_path if name.endswith(".csv") else tmp_path / name
    with pytest.raises(SmaltiError, match=message or "holds no files of prompts"):
        find_prompts(place)


def test_prompts_are_rewritten_by_a_file_or_a_command(tmp_path: Path) -> None:
    prompts = [{"prompt": "a cat", "tag": "x"}, {"prompt": "a dog"}]
    lines = [{"prompt": "a cat", "rewritten": "a fat cat"}, {"prompt": "a dog", "rewritten": "a wet dog"}]
    (tmp_path / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = rewrite(str(tmp_path / "texts.jsonl"), prompts)
    assert found == [{**prompts[0], "rewritten": "a fat cat"}, {**prompts[1], "rewritten": "a wet dog"}]
    assert [one["rewritten"] for one in rewrite("command:tr a-z A-Z", prompts)] == ["A CAT", "A DOG"]
    for how, message in (
        (str(tmp_path / "texts.jsonl"), "has no line for the prompt 'a cow'"),
        ("command:false", "--rewrite command cannot be run"),
        ("command:", "--rewrite command cannot be run"),
        ("command:true", "--rewrite command printed nothing for 'a cow'"),
        ("model:", "transformers|--rewrite must be a folder with config.json or a hub id"),
    ):
        with pytest.raises(SmaltiError, match=message):
            rewrite(how, [{"prompt": "a cow"}])
    (tmp_path / "texts.jsonl").write_text('{"prompt": "a cat"}')
    with pytest.raises(SmaltiError, match="line 1: a line must have texts under prompt and rewritten"):
        rewrite(str(tmp_path / "texts.jsonl"), prompts)


def test_a_run_draws_rewritten_prompts_and_says_so(tmp_path: Path) -> None:
    pipe = smalti.load(str(write_tiny_model(tmp_path / "tiny")))
    prompts = write_prompts(tmp_path / "prompts.jsonl")
    subject = Subject.of(pipe, pipe.settings.replaced(num_inference_steps=1))
    drawn: list[str] = []
    draw = Subject.draw_seeds

    def noted(self: Subject, texts: list[str], seeds: Any, *, batch_size: int) -> Any:
        drawn.extend(texts)
        return draw(self, texts, seeds, batch_size=batch_size)

    request = Request(prompts=prompts, save=tmp_path / "kept", rewrite="command:tr a-z A-Z")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Subject, "draw_seeds", noted)
        found = evaluate(Redness(), request, subject)
    assert len(drawn) == PROMPTS and drawn[0] == "A RED CIRCLE"
    assert found.metadata["rewrite"]["how"] == "command:tr a-z A-Z"
    kept = find_prompts(tmp_path / "kept" / PROMPTS_FILE)
    assert kept[0] == {"prompt": "a red circle", "rewritten": "A RED CIRCLE"}
    # A run that goes on keeps its texts, and one with other texts is refused.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("smalti.evaluation.published.rewrite", lambda how, prompts: 1 / 0)
        assert evaluate(Redness(), request, subject).scores == found.scores
    with pytest.raises(
        SmaltiError, match="another run: its rewrite is 'command:tr a-z A-Z', not 'command:cat'"
    ):
        evaluate(Redness(), Request(prompts=prompts, save=tmp_path / "kept", rewrite="command:cat"), subject)
    assert benchmark_runs.PROMPTS == len(kept)
