"""The command line: what it writes, what it prints where, and its exit codes."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import typer
from folders import write_tiny_model
from PIL import Image
from safetensors.torch import load_file
from tiny import GOLDEN, golden_expectations
from typer.testing import CliRunner

import smalti
from smalti.cli import output
from smalti.cli.app import app
from smalti.cli.commands import COMMANDS
from smalti.cli.main import main
from smalti.editing.picture import open_picture

PROMPT = "a red circle left of a blue square"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def run(tmp_path, monkeypatch, capfd):
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main([str(argument) for argument in arguments])
        return code, *capfd.readouterr()

    return call


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def test_one_picture(run, folder, tmp_path):
    code, out, err = run("generate", PROMPT, "-o", "a.png", "--seed", 4, "--steps", 3, "--model", folder)
    assert (code, out, err) == (0, "", "")
    assert names(tmp_path) == ["a.png"]
    expected = smalti.load(folder)(PROMPT, seed=4, num_inference_steps=3)
    with Image.open("a.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.images[0]))
        assert image.text["prompt"] == PROMPT and image.text["seed"] == "4"
        assert json.loads(image.text["settings"]) == expected.settings.to_dict()
        assert image.text["model"] == "tiny" and image.text["Software"] == f"Smalti {smalti.__version__}"


def test_several_pictures_in_small_batches(run, folder, tmp_path):
    arguments = ["generate", PROMPT, "a star", "-n", 2, "--seed", 7, "--steps", 4, "--model", folder]
    arguments += ["--frames", "f.gif", "--save-tokens", "t.npy", "--json", "--revise", "threshold:0.05"]
    code, out, err = run(*arguments, "-o", "p.png", "--batch-size", 3)
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["images"] == [f"p-{index}.png" for index in range(4)]
    assert report["frames"] == [f"f-{index}.gif" for index in range(4)]
    assert names(tmp_path) == sorted([*report["images"], *report["frames"], "t.npy"])
    assert report["prompts"] == [PROMPT, PROMPT, "a star", "a star"] and report["seeds"] == [7, 8, 7, 8]
    assert list(report["seconds"]) == ["load", "prompt", "denoise", "decode", "total"]
    assert report["seconds"]["total"] >= report["seconds"]["load"] > 0
    assert 50 < report["peak_memory_mb"] < 10_000
    assert (
        report["settings"]["num_inference_steps"] == 4 and report["settings"]["revision"] == "threshold:0.05"
    )
    assert (report["model"], report["device"], report["dtype"]) == ("tiny", "cpu", "float32")
    pipe = smalti.load(folder)
    settings = pipe.settings.replaced(num_inference_steps=4, revision="threshold:0.05")
    expected = pipe([PROMPT, "a star"], num_images_per_prompt=2, seed=7, settings=settings)
    tokens = np.load("t.npy")
    assert tokens.dtype == np.int32 and np.array_equal(tokens, expected.tokens.numpy())
    assert report["tokens_edited"] == sum(expected.tokens_edited) > 0
    with Image.open("f-3.gif") as animation:
        assert animation.is_animated and animation.n_frames <= 5 and animation.info["loop"] == 0
    with Image.open("p-3.png") as image:
        assert np.array_equal(np.asarray(image), np.asarray(expected.images[3]))


def test_passes_and_masks_set_again_are_reported(run, folder):
    line = ["generate", PROMPT, "a star", "--save-tokens", "t.npy", "--json", "--model", folder, "--seed", 0]
    budget = "adaptive:threshold=0.4,floor=0.02,ceiling=0.5"
    code, out, err = run(*line, "--revise", "token_to_mask:0.5", "--budget", budget, "--steps", 12)
    assert (code, err) == (0, "")
    report = json.loads(out)
    pipe = smalti.load(folder)
    settings = pipe.settings.replaced(num_inference_steps=12, revision="token_to_mask:0.5", budget=budget)
    expected = pipe([PROMPT, "a star"], seed=0, settings=settings)
    assert report["passes"] == expected.passes and all(1 <= number <= 12 for number in expected.passes)
    assert report["tokens_remasked"] == sum(expected.tokens_remasked) > 0 == report["tokens_edited"]
    assert np.array_equal(np.load("t.npy"), expected.tokens.numpy())
    report = json.loads(run(*line, "--budget", "adaptive:threshold=0,ceiling=1")[1])
    assert report["passes"] == [1, 1] and report["tokens_remasked"] == 0


def test_every_option_is_a_setting(run, folder):
    options = {
        "--steps": 5,
        "--guidance": 1.5,
        "--guidance-schedule": "rising:power=2",
        "--budget": "adaptive:threshold=0.8,floor=0.1,ceiling=0.5",
        "--order": "confidence:temperature=0.75,schedule=cosine",
        "--revise": "running_confidence:0.25",
        "--refinement": "rare:share=0.5,frequency=0.01",
        "--draw": "argmax",
        "--temperature": 0.8,
        "--temperature-schedule": "linear",
        "--top-k": 20,
        "--top-p": 0.9,
        "--final": "release",
        "--reuse": "prompt",
        "--reuse-every": 2,
        "--guidance-passes": "skip:every=3",
        "--steer": "none",
        "--height": 32,
        "--width": 96,
    }
    given = [part for pair in options.items() for part in pair]
    given += ["--guidance-interval", 0.25, 0.75]
    code, out, _ = run("generate", PROMPT, "--save-tokens", "t.npy", "--json", "--model", folder, *given)
    assert code == 0
    report = json.loads(out)
    values = list(options.values())
    assert list(report["settings"].values()) == [5, 1.5, [0.25, 0.75], *values[2:]]
    assert np.load("t.npy").shape == (4, 12)
    assert report["images"] == []


@pytest.mark.parametrize("case", ["argmax_confident_8_cfg3_edit", "argmax_confident_8_cfg_interval"])
def test_golden(run, case):
    settings = golden_expectations()[case]
    options = ["--final", "release", "--draw", "argmax", "--steps", 8, "--order", "confidence"]
    options += ["--budget", "shift:5", "--height", 1024, "--width", 1024]
    options += ["--guidance", settings["guidance_scale"]]
    threshold = settings.get("edit_threshold")
    options += ["--revise", f"threshold:{threshold}" if threshold else "none"]
    if "cfg_interval" in settings:
        options += ["--guidance-interval", *settings["cfg_interval"]]
    code, out, err = run("generate", PROMPT, "--model", GOLDEN, "--save-tokens", "t.npy", "--json", *options)
    assert (code, err) == (0, "" if threshold else "smalti: --final has no effect without --revise\n")
    expected = load_file(GOLDEN / "expected.safetensors")[f"tokens_{case}"]
    tokens = np.load("t.npy")
    assert tokens.shape == (64, 64) and np.array_equal(tokens.flatten(), expected.flatten().numpy())
    assert json.loads(out)["tokens_edited"] == settings["total_edited"]


GENERATE = ["generate", PROMPT, "-o", "a.png", "--model", "MODEL"]
BAD_LINES = {
    "--steps must be a whole number of at least 1, not 0": [*GENERATE, "--steps", 0],
    "--steps must be at most 64, the number of tokens, not 65": [*GENERATE, "--steps", 65],
    "'--steps'": [*GENERATE, "--steps", "many"],
    "--guidance must be a finite number of at least 0 and at most 10000, not -1.0": [
        *GENERATE,
        "--guidance",
        -1,
    ],
    "--guidance must be a finite number of at least 0 and at most 10000, not nan": [
        *GENERATE,
        "--guidance",
        "nan",
    ],
    "--guidance-interval must be two rising numbers from 0 to 1, not (0.5, 0.25)": [
        *GENERATE,
        "--guidance-interval",
        0.5,
        0.25,
    ],
    "'--guidance-interval' requires 2 arguments": [*GENERATE, "--guidance-interval", 0.5],
    "--revise 'threshold': threshold must be a finite number above 0": [*GENERATE, "--revise", "threshold:2"],
    "--revise must be 'none' or 'threshold' or": [*GENERATE, "--revise", "rcr"],
    "--budget 'adaptive': threshold must be": [*GENERATE, "--budget", "adaptive:1.5"],
    "--budget 'adaptive' cannot have 'shift=2'; its parameters are threshold, floor, ceiling": [
        *GENERATE,
        "--budget",
        "adaptive:shift=2",
    ],
    "--order must be 'confidence' or": [*GENERATE, "--order", "raster"],
    "--order 'stratified' needs a square grid": [*GENERATE, "--order", "stratified", "--width", 32],
    "--order 'halton' cannot have 'schedule=linear'; it has no parameters": [
        *GENERATE,
        "--order",
        "halton:schedule=linear",
    ],
    "--negative-prompt needs guidance": [*GENERATE, "--negative-prompt", "a star", "--guidance", 0],
    "--top-p": [*GENERATE, "--top-p", 0],
    "--height must be a multiple of 16 pixels, not 60": [*GENERATE, "--height", 60],
    "-n must be a whole number": [*GENERATE, "-n", 0],
    "--batch-size": [*GENERATE, "--batch-size", 0],
    "--seed": [*GENERATE, "--seed", -1],
    "--seed must be a whole number from 0": [*GENERATE, "--seed", 2**64],
    "dtype must be float32 or": [*GENERATE, "--dtype", "int8"],
    "quantize must be 'int8' or 'int4' or 'fp8', not 'int2'": [*GENERATE, "--quantize", "int2"],
    "offload must be 'layers', not 'all'": [*GENERATE, "--offload", "all"],
    "memory must be a size such as 8GB": [*GENERATE, "--memory", "8"],
    "memory must be at least": [*GENERATE, "--memory", "1MB"],
    "revision is for models on the Hugging Face hub": [*GENERATE, "--revision", "main"],
    "device must be one that PyTorch has here": [*GENERATE, "--device", "toaster"],
    "prompt must not be empty": ["generate", " ", "-o", "a.png", "--model", "MODEL"],
    "prompt must be at most 2048 text tokens": ["generate", "red " * 5000, "-o", "a.png", "--model", "MODEL"],
    "Missing argument 'PROMPT'": ["generate"],
    "nothing to write": ["generate", PROMPT, "--model", "MODEL"],
    "-o must name a .png or .jpg or .jpeg or .webp file, not 'a.bmp'": ["generate", PROMPT, "-o", "a.bmp"],
    "-o cannot be written: a.png/b:": ["generate", PROMPT, "-o", "a.png/b"],
    "--frames must name a .gif file": ["generate", PROMPT, "--frames", "a.png"],
    "--save-tokens must name a .npy file": ["generate", PROMPT, "--save-tokens", "a.txt"],
    "-o cannot be written: none/a.png: No such file": ["generate", PROMPT, "-o", "none/a.png"],
    "-o cannot be written: /proc/a.png": ["generate", PROMPT, "-o", "/proc/a.png"],
    "model must be a folder that exists, a bundled model (objects, scenes), or a name on the Hugging Face hub": [
        "generate",
        PROMPT,
        "-o",
        "a.png",
        "--model",
        "none",
    ],
    "holds neither model.safetensors": ["generate", PROMPT, "-o", "a.png", "--model", "folder.png"],
    "No such option: --colour": [*GENERATE, "--colour", "red"],
    "No such command 'draw'": ["draw"],
    "nvidia/NL-Diffusion-Image: config.json is not in the Hugging Face cache": [
        "info",
        "nvidia/NL-Diffusion-Image",
    ],
    "none.yaml does not exist": ["train-tokenizer", "none.yaml"],
    "unknown key colour": ["train-tokenizer", "config.yaml"],
    "Missing argument 'CONFIG'": ["train"],
}


@pytest.mark.parametrize("expected", BAD_LINES)
def test_bad_input_is_one_line_and_exit_code_2(run, folder, tmp_path, expected):
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "config.yaml").write_text(
        "colour: red\noutput: x\nloop: {steps: 1, batch_size: 1}\nmodel: {ch: 8}\n"
    )
    (tmp_path / "a.png").write_bytes(b"old")
    before = names(tmp_path)
    code, out, err = run(*(folder if part == "MODEL" else part for part in BAD_LINES[expected]))
    assert (code, out) == (2, "")
    assert err.startswith("smalti: ") and err.count("\n") == 1
    assert expected in err
    assert names(tmp_path) == before and (tmp_path / "a.png").read_bytes() == b"old"


def test_full_disk_keeps_the_old_picture(run, folder, tmp_path):
    (tmp_path / "a.png").write_bytes(b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
    try:
        code, out, err = run("generate", PROMPT, "-o", "a.png", "--steps", 1, "--model", folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (code, out) == (2, "")
    assert err == "smalti: cannot write a.png: File too large\n"
    assert names(tmp_path) == ["a.png"] and (tmp_path / "a.png").read_bytes() == b"old"


@pytest.mark.parametrize(
    "error, code, message",
    [
        (KeyboardInterrupt(), 130, ""),
        (OSError(5, "Input/output error"), 2, "smalti: [Errno 5] Input/output error\n"),
        (RuntimeError("not enough memory: you tried\nto allocate"), 2, "smalti: out of memory: draw fewer"),
        (MemoryError(), 2, "smalti: out of memory: draw fewer"),
    ],
)
def test_other_ends(run, folder, monkeypatch, error, code, message):
    def fail(*args, **options):
        raise error

    monkeypatch.setattr("smalti.load", fail)
    found, out, err = run(*[folder if part == "MODEL" else part for part in GENERATE])
    assert (found, out) == (code, "")
    assert err.startswith(message) and err.count("\n") == (1 if message else 0)


@pytest.mark.slow
def test_process(folder, tmp_path):
    line = [sys.executable, "-m", "smalti", "generate", PROMPT, "--model", str(folder)]
    root = Path(smalti.__file__).parents[1]

    def process(*arguments):
        environment = {"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [*line, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment
        )

    done = process("-o", "a.png", "--steps", "2", "--json")
    assert (done.returncode, done.stderr) == (0, "") and json.loads(done.stdout)["images"] == ["a.png"]
    done = process("-o", "a.png", "--steps", "0")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "smalti: --steps must be a whole number of at least 1, not 0\n"


@pytest.mark.parametrize(
    "command",
    ["", "generate", "info", "train", "train-tokenizer", "evaluate"],
)
def test_help(command):
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0 and "Usage" in result.output


HEAVY = ("torch", "numpy", "PIL", "safetensors", "pydantic", "tokenizers")


def printed(code):
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(smalti.__file__).parents[1], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("main(['--help'])", (*HEAVY, "typer")),
        ("import smalti.cli.app", HEAVY),
        ("main(['info', '--help'])", HEAVY[:4]),
    ],
)
def test_help_is_light(line, absent):
    found = f"print([one for one in {absent} if one in sys.modules])"
    assert printed(f"import sys; from smalti.cli.main import main; {line}; {found}") == "[]"


def test_a_command_imports_no_other():
    code = "import sys, typer; from smalti.cli.app import app; typer.main.get_command(app).commands['info']; "
    code += "print([one for one in ('smalti.cli.edit', 'smalti.cli.info') if one in sys.modules])"
    assert printed(code) == "['smalti.cli.info']"


def test_table_of_commands(run):
    group = typer.main.get_command(app)
    assert list(group.commands) == list(COMMANDS) and len(group.commands) == len(COMMANDS)
    for name, listed in COMMANDS.items():
        found = group.commands[name]
        assert (found.name, " ".join(found.help.split("\n\n")[0].split())) == (name, listed.summary)
    assert {one for param in group.params for one in param.opts} == {"--version"}
    _, out, _ = run("--help")
    text = " ".join(out.replace("│", " ").split())
    for words in (
        *COMMANDS,
        *(listed.summary.replace("`", "") for listed in COMMANDS.values()),
        "--version",
        "--help",
    ):
        assert words in text
    assert run() == (0, out, "")
    assert run("generat")[0] == 2


def test_version_and_no_command(run):
    assert run("--version") == (0, f"smalti {smalti.__version__}\n", "")
    code, out, _ = run()
    assert code == 0 and "generate" in out


@pytest.mark.parametrize("name", ["objects", "scenes"])
def test_info_of_a_bundled_model(run, name):
    code, out, _ = run("info", name, "--json")
    assert code == 0 and json.loads(out)["parameters"]["total"] > 9_000_000


def test_info(run, folder):
    code, out, err = run("info", folder)
    assert (code, err) == (0, "")
    assert "2 layers, width 32" in out and "64 codes, 8×8 pixels per token" in out
    code, out, _ = run("info", GOLDEN, "--json")
    report = json.loads(out)
    assert report["parameters"]["unused"] > 0 and report["image_tokenizer"]["config"]["codebook_size"] == 512
    assert [row["precision"] for row in report["memory"]] == ["float32", "bfloat16", "int8", "int4"]
    assert all(row["computed"] and row["total"] > row["working"] > 0 for row in report["memory"])
    code, out, _ = run("info", folder / "vq")
    assert code == 0 and "64 of dimension 8" in out
    code, _, err = run("info", folder.parent)
    assert code == 2 and "config.json" in err


def test_train_reads_the_configuration(run, tmp_path, monkeypatch):
    seen = []

    def train(config):
        seen.append(config)
        return {"step": 7}

    monkeypatch.setattr("smalti.training.tokenizer.train_tokenizer", train)
    (tmp_path / "c.yaml").write_text("output: x\nmodel: {ch: 8}\nloop: {steps: 5, batch_size: 2}\n")
    assert run("train-tokenizer", "c.yaml", "loop.steps=7", "seed=3") == (0, "", "")
    assert (seen[0].loop.steps, seen[0].seed, seen[0].loop.batch_size) == (7, 3, 2)
    assert run("train-tokenizer", "c.yaml", "loop.steps=8")[0] == 130  # it was stopped before its last step


def test_progress_is_for_terminals_only(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert output.shows_progress(False) and not output.shows_progress(True)
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert not output.shows_progress(False)


def test_peak_memory_grows():
    before = output.peak_memory_mb("cpu")
    held = torch.ones(40_000_000)
    assert output.peak_memory_mb("cpu") >= before and held.numel()


def test_memory_says_what_it_chose(run, folder, monkeypatch):
    monkeypatch.setattr("smalti.storage.loading.has_bf16", lambda device: True)
    monkeypatch.setattr("smalti.common.devices.has_bf16", lambda device: True)
    line = ["generate", PROMPT, "-o", "a.png", "--model", folder, "--steps", 2, "--memory", "2GB"]
    code, out, err = run(*line)
    assert (code, out, err) == (0, "", "smalti: --memory 2GB: bfloat16\n")
    report = json.loads(run(*line, "--json")[1])
    assert (report["mode"], report["dtype"]) == ("bfloat16", "bfloat16")


def test_the_suffix_chooses_the_format(run, folder, tmp_path):
    for suffix, kind in ((".jpg", "JPEG"), (".webp", "WEBP"), (".png", "PNG")):
        line = ["generate", PROMPT, "-o", f"a{suffix}", "--seed", 3, "--steps", 2, "--model", folder]
        assert run(*line)[0] == 0
        picture = open_picture(tmp_path / f"a{suffix}")
        with Image.open(tmp_path / f"a{suffix}") as image:
            assert image.format == kind
        assert (picture.text["prompt"], picture.text["seed"]) == (PROMPT, "3")
        assert run(*line, "--no-metadata")[0] == 0
        assert not {"prompt", "seed", "smalti-tokens"} & set(open_picture(tmp_path / f"a{suffix}").text)
        # An edit reads the prompt back, whatever the format.
        assert run("vary", f"a{suffix}", "-o", "b.png", "--model", folder, "--steps", 2)[0] == 2
        assert run(*line)[0] == 0
        assert run("vary", f"a{suffix}", "-o", "b.png", "--model", folder, "--steps", 2)[0] == 0


def test_a_folder_takes_every_image_and_loses_none(run, folder, tmp_path):
    line = [
        "generate",
        PROMPT,
        "two stars!",
        "-o",
        "out",
        "--seed",
        3,
        "--steps",
        1,
        "--model",
        folder,
        "--json",
    ]
    wanted = ["a-red-circle-left-of-a-blue-square-3.png", "two-stars-3.png"]
    code, out, _ = run(*line)
    assert code == 0 and json.loads(out)["images"] == [f"out/{name}" for name in wanted]
    assert names(tmp_path / "out") == wanted
    assert run(*line)[0] == 0
    assert names(tmp_path / "out") == sorted(
        [*wanted, *(name.replace("3.png", "3-2.png") for name in wanted)]
    )


def test_rules_are_listed(run):
    code, out, err = run("generate", "--order", "list")
    assert (code, err) == (0, "") and "history:window=4,temperature=0.0" in out
    assert [line for line in out.splitlines() if line.startswith("halton")] == ["halton"]
    assert "token_to_mask" in run("edit", "--revise", "list")[1]


def test_unknown_words_get_one_line(run, folder, tmp_path):
    copy = tmp_path / "mine"
    shutil.copytree(folder, copy)
    line = ["generate", "a red dragon", "-o", "a.png", "--steps", 1, "--model", copy]
    assert run(*line)[2] == ""
    (copy / "words.txt").write_text("a\nred\ncircle\n")
    code, _, err = run(*line)
    assert code == 0 and err == "smalti: the model mine has never seen these words in training: dragon\n"
    code, _, err = run("vary", "a.png", "a red wolf", "-o", "b.png", "--steps", 1, "--model", copy)
    assert code == 0 and err == "smalti: the model mine has never seen these words in training: wolf\n"


def test_a_command_that_fails_leaves_no_folder(run, folder, tmp_path):
    assert run("generate", PROMPT, "-o", "new/deep", "--model", "nosuch")[0] == 2
    assert run("generate", PROMPT, "-o", "new", "--frames", "x.mp4", "--model", folder)[0] == 2
    assert names(tmp_path) == []
    code, _, err = run("generate", PROMPT, "-o", "new/deep", "--seed", 1, "--steps", 1, "--model", folder)
    assert (code, err) == (0, "") and len(names(tmp_path / "new" / "deep")) == 1


def test_an_edit_reads_the_prompt_of_any_format(run, folder):
    for suffix in (".png", ".jpg", ".webp"):
        line = ["generate", PROMPT, "-o", f"a{suffix}", "--seed", 3, "--steps", 4, "--model", folder]
        assert run(*line)[0] == 0
        edit = ["edit", f"a{suffix}", "a star", "-o", "b.png", "--share", 0.3, "--steps", 2, "--json"]
        assert json.loads(run(*edit, "--model", folder)[1])["source_prompt"] == PROMPT
