"""Adapter folders: what is written is read, what does not fit is refused in one line, merging."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from adapters import write_adapter
from folders import write_tiny_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import TEXTS, tiny_prompts
from typer.testing import CliRunner

import smalti
from smalti.cli.app import app
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.model.lora import LINEARS, AdapterShape, adapted_layers
from smalti.storage.adapters import ADAPTER, base_fingerprint, read_adapter, save_adapter
from smalti.storage.folder import load_denoiser, save_denoiser
from smalti.storage.merging import merge_model

KINDS = ["lora", "rslora", "dora"]
TOKENS = torch.arange(128).view(2, 8, 8) % 64


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny", downsample=True)


@pytest.fixture(scope="module")
def adapter(base, tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("adapter") / "one", base)


@torch.no_grad()
def logits(denoiser, texts=TEXTS[:2]):
    hidden = denoiser(TOKENS, tiny_prompts(denoiser, list(texts), (8, 8))).flatten(0, 1)

    def product(hidden, weight, low_rank=None):
        found = hidden @ weight.T
        return found if low_rank is None else low_rank.add_to(found, hidden)

    return denoiser.gen_predictor.run(product, hidden).float()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(kind, base, tmp_path):
    folder = write_adapter(tmp_path / "a", base, kind)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", ADAPTER]
    pipe, plain = smalti.load(base, adapter=folder), smalti.load(base)
    names = {name for name, _ in adapted_layers(pipe.denoiser)}
    assert len(names) == 2 * 7 + 2
    assert not any(
        parameter.requires_grad
        for name, parameter in pipe.denoiser.named_parameters()
        if ".adapters." in name
    )
    assert (logits(pipe.denoiser) - logits(plain.denoiser)).abs().max() > 0.1
    again = smalti.load(base, adapter=[folder, str(folder)], adapter_scale=[0.25, 0.75])
    if kind != "dora":
        torch.testing.assert_close(logits(again.denoiser), logits(pipe.denoiser), rtol=1e-4, atol=1e-4)
    assert pipe.components.name == "tiny + a" and again.components.name == "tiny + 0.25 × a + 0.75 × a"
    off = smalti.load(base, adapter=folder, adapter_scale=0)
    torch.testing.assert_close(logits(off.denoiser), logits(plain.denoiser))


def test_the_files_are_in_pefts_layout(base, tmp_path):
    config = json.loads((write_adapter(tmp_path / "a", base, "dora") / "adapter_config.json").read_text())
    assert (
        config["peft_type"] == "LORA"
        and config["use_dora"]
        and (config["r"], config["lora_alpha"]) == (3, 6.0)
    )
    assert config["target_modules"] == sorted([*LINEARS, "downsample_gen.downsample.conv", "gen_predictor"])
    tensors = load_file(tmp_path / "a" / ADAPTER)
    prefix = "base_model.model."
    assert tensors[prefix + "layers.1.mlp.down_proj.lora_A.weight"].shape == (3, 48)
    assert tensors[prefix + "layers.1.mlp.down_proj.lora_B.weight"].shape == (32, 3)
    assert tensors[prefix + "downsample_gen.downsample.conv.lora_A.weight"].shape == (3, 32, 2, 2)
    assert tensors[prefix + "downsample_gen.downsample.conv.lora_magnitude_vector"].shape == (1, 32, 1, 1)
    assert tensors[prefix + "gen_predictor.lora_magnitude_vector"].shape == (64,)
    assert len(tensors) == 3 * 16
    with safe_open(tmp_path / "a" / ADAPTER, framework="np") as file:
        assert file.metadata() == {"format": "pt", "smalti_base": base_fingerprint(base)}


@pytest.mark.parametrize("prefix", ["", "diffusion_model.", "base_model.model.encoder."])
def test_names_of_other_programs(prefix, base, adapter, tmp_path):
    rewrite(adapter, tmp_path / "a", lambda name: prefix + name.removeprefix("base_model.model."))
    found, expected = (smalti.load(base, adapter=one).denoiser for one in (tmp_path / "a", adapter))
    assert torch.equal(logits(found), logits(expected))


def test_ranks_and_alphas_by_module(base, adapter, tmp_path):
    """Updates of one rank less in one layer, with a factor of its own."""
    tensors = load_file(adapter / ADAPTER)
    name = "base_model.model.layers.0.mlp.up_proj.lora_"
    tensors[name + "A.weight"] = tensors[name + "A.weight"][:2].contiguous()
    tensors[name + "B.weight"] = tensors[name + "B.weight"][:, :2].contiguous()
    patterns = {"rank_pattern": {"layers.0.mlp.up_proj": 2}, "alpha_pattern": {"^layers.0.mlp.up_proj": 5.0}}
    copy_adapter(adapter, tmp_path / "a", tensors, **patterns)
    stored = read_adapter(tmp_path / "a")
    assert stored.config.scale_of("layers.0.mlp.up_proj") == 2.5
    assert (
        stored.config.scale_of("layers.1.mlp.up_proj") == stored.config.scale_of("xlayers.0.mlp.up_proj") == 2
    )
    assert len(list(adapted_layers(smalti.load(base, adapter=tmp_path / "a").denoiser))) == 16


@pytest.mark.parametrize(
    "options", [{"quantize": "int8"}, {"quantize": "int4"}, {"dtype": "bfloat16"}], ids=str
)
def test_other_ways_to_load(options, base, adapter):
    if "quantize" in options:
        pytest.importorskip("torchao")
    pipe, plain = smalti.load(base, adapter=adapter, **options), smalti.load(base, adapter=adapter)
    found, expected = logits(pipe.denoiser), logits(plain.denoiser)
    assert (found - expected).norm() / expected.norm() < 0.5
    assert pipe("a red circle", seed=0, num_inference_steps=2).images[0].size == (64, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_merging(kind, base, tmp_path):
    """The merged model is the adapted one, up to bf16; it is a model like others."""
    folders = [
        write_adapter(tmp_path / name, base, kind, seed=seed, size=0.1) for name, seed in (("a", 1), ("b", 2))
    ]
    (folders[1] / "words.txt").write_text("zebra\n")
    (base / "words.txt").write_text("circle\n")
    merge_model(base, folders, tmp_path / "merged", adapter_scale=[1.0, 0.5])
    merged = load_denoiser(tmp_path / "merged", dtype=None)
    assert {parameter.dtype for parameter in merged.parameters()} == {torch.bfloat16}
    expected = logits(smalti.load(base, adapter=folders, adapter_scale=[1.0, 0.5]).denoiser)
    found = logits(merged.float())
    assert (found - expected).norm() / expected.norm() < 0.03
    plain = logits(load_denoiser(base))
    assert (found - plain).norm() / plain.norm() > 0.1
    assert (tmp_path / "merged" / "words.txt").read_text() == "circle\nzebra\n"
    assert base_fingerprint(tmp_path / "merged") == base_fingerprint(base)
    assert smalti.load(tmp_path / "merged")("a red circle", seed=0, num_inference_steps=2).images
    (base / "words.txt").unlink()


def test_an_adapted_model_is_not_saved_as_a_plain_one(base, adapter, tmp_path):
    pipe = smalti.load(base, adapter=adapter)
    with pytest.raises(SmaltiError, match="a denoiser with adapters cannot be saved"):
        save_denoiser(pipe.denoiser, tmp_path / "m")
    with pytest.raises(SmaltiError, match="an adapter folder needs at least one adapter"):
        save_adapter({}, tmp_path / "a", AdapterShape(), base=base)


def copy_adapter(source, target, tensors=None, metadata=None, **config):
    """Copy an adapter with other tensors and fields."""
    shutil.copytree(source, target)
    values = json.loads((target / "adapter_config.json").read_text()) | config
    (target / "adapter_config.json").write_text(json.dumps(values))
    if tensors is not None:
        save_file(tensors, target / ADAPTER, metadata=metadata)


def rewrite(source, target, name_of):
    copy_adapter(
        source, target, {name_of(name): value for name, value in load_file(source / ADAPTER).items()}
    )


def refused(base, folder, message):
    with pytest.raises(SmaltiError, match=message) as caught:
        smalti.load(base, adapter=folder)
    text = str(caught.value)
    assert len(text) < 300 and "\n" not in text


def test_an_adapter_of_another_base_is_refused(base, adapter, tmp_path):
    other = write_tiny_model(tmp_path / "wide", downsample=True, intermediate_size=64)
    refused(other, adapter, "is for another base than")
    shallow = write_tiny_model(tmp_path / "shallow", downsample=True, num_hidden_layers=1)
    without = tmp_path / "without"
    copy_adapter(adapter, without, load_file(adapter / ADAPTER))  # as peft writes it, without a fingerprint
    refused(
        other,
        without,
        r"for another base or rank: A of layers.0.mlp.down_proj must be \(3, 64\), not \(3, 48\)",
    )
    refused(shallow, without, "is for another base: the model has no layers.1")
    # The same shape, other weights.
    same = tmp_path / "same"
    shutil.copytree(base, same)
    denoiser = load_denoiser(base)
    with torch.no_grad():
        denoiser.norm.weight.mul_(1.5)
    save_denoiser(denoiser, same)
    refused(same, adapter, "is for another base than .*same, whose weights differ")
    assert smalti.load(same, adapter=without).denoiser is not None


WRONG = {
    "loha": ({"peft_type": "LOHA"}, "peft_type must be 'LORA', not 'LOHA'"),
    "bias": ({"bias": "all"}, "bias must be 'none', not 'all'"),
    "whole": ({"modules_to_save": ["norm"]}, "modules_to_save must be empty"),
    "pissa": ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights must not be 'pissa_niter_4'"),
    "no rank": ({"r": None}, "r must be a whole number from 1 to 65536, not None"),
    "rank": ({"r": 4}, r"for another base or rank: A of .* must be \(4, "),
    "alpha": ({"lora_alpha": 0}, "lora_alpha must be a finite number above 0"),
    "large alpha": (
        {"lora_alpha": 1e308},
        "lora_alpha must be a finite number above 0 and at most 1000000.0",
    ),
    "large rank": ({"r": 10**400}, "r must be a whole number from 1 to 65536"),
    "large rank of one": (
        {"rank_pattern": {"q_proj": 10**400}},
        "rank_pattern must be a whole number from 1 to",
    ),
    "large alpha of one": (
        {"alpha_pattern": {"q_proj": 1e308}},
        "alpha_pattern must be a finite number above 0 and",
    ),
    "flag": ({"use_dora": "yes"}, "use_dora must be true or false, not 'yes'"),
    "dora": ({"use_dora": True}, "lacks magnitude, but adapter_config.json describes dora"),
    "regex": (
        {"rank_pattern": {"(a+)+$": 1}},
        r"rank_pattern must have plain names of modules, not '\(a\+\)\+\$'",
    ),
    "list": ({"alpha_pattern": [1]}, r"alpha_pattern must be an object, not \[1\]"),
}


@pytest.mark.parametrize("case", WRONG)
def test_configurations_that_are_refused(case, base, adapter, tmp_path):
    changes, message = WRONG[case]
    copy_adapter(adapter, tmp_path / "a", **changes)
    refused(base, tmp_path / "a", message)


def test_tensors_that_are_refused(base, adapter, tmp_path):
    good = load_file(adapter / ADAPTER)
    first = "base_model.model.layers.0.mlp.up_proj.lora_A.weight"
    cases = {
        "norm": ({"base_model.model.norm.lora_A.weight": torch.zeros(2)}, "adapts norm, which Smalti cannot"),
        "up": (
            {"base_model.model.upsample_gen.upsample.conv.lora_A.weight": torch.zeros(2)},
            "adapts upsample_gen.upsample.conv, which Smalti cannot: targets are q_proj",
        ),
        "many": (
            {f"base_model.model.layers.{n}.input_layernorm.lora_B.weight": torch.zeros(2) for n in range(9)},
            "layers.0.input_layernorm and 8 more",
        ),
        "other": (
            {"lora_unet_x.alpha": torch.zeros(1)},
            "holds 'lora_unet_x.alpha', which is no tensor of a LoRA",
        ),
        "dtype": ({first: torch.zeros(3, 32, dtype=torch.int8)}, "must be floating-point, not I8"),
        "nan": ({first: torch.full((3, 32), torch.nan)}, "A of layers.0.mlp.up_proj must be finite"),
        "shape": ({first: torch.zeros(3, 31)}, r"A of layers.0.mlp.up_proj must be \(3, 32\), not \(3, 31\)"),
    }
    for name, (changes, message) in cases.items():
        copy_adapter(adapter, tmp_path / name, good | changes)
        refused(base, tmp_path / name, message)
    copy_adapter(adapter, tmp_path / "half", {name: value for name, value in good.items() if name != first})
    refused(base, tmp_path / "half", "layers.0.mlp.up_proj lacks A, but")
    copy_adapter(adapter, tmp_path / "empty", {})
    refused(base, tmp_path / "empty", "holds no tensors")


def test_folders_that_are_refused(base, adapter, tmp_path):
    refused(base, tmp_path / "nowhere", "adapter must be a folder that exists")
    shutil.copytree(adapter, tmp_path / "a")
    (tmp_path / "a" / ADAPTER).write_bytes((adapter / ADAPTER).read_bytes()[:-100])
    refused(base, tmp_path / "a", "is truncated or not a safetensors file")
    (tmp_path / "a" / ADAPTER).unlink()
    refused(base, tmp_path / "a", f"lacks {ADAPTER}")
    (tmp_path / "a" / "adapter_config.json").unlink()
    refused(base, tmp_path / "a", "adapter_config.json does not exist")
    refused(base, 7, "adapter must be a folder or a list of folders, not 7")
    for scale, message in (
        ([1.0, 2.0], "adapter_scale must have 1 numbers, one an adapter, not 2"),
        ("x", "adapter_scale must be a finite number"),
    ):
        with pytest.raises(SmaltiError, match=message):
            smalti.load(base, adapter=adapter, adapter_scale=scale)
    with pytest.raises(SmaltiError, match="adapter_scale needs an adapter"):
        smalti.load(base, adapter_scale=1.0)


def test_commands(base, adapter, tmp_path, capsys):
    run = ["generate", "a red circle", "--model", str(base), "--seed", "0", "--steps", "2"]
    tokens = []
    for name, options in (
        ("plain", []),
        ("one", ["--adapter", str(adapter)]),
        ("zero", ["--adapter", str(adapter), "--adapter-scale", "0"]),
        ("two", ["--adapter", str(adapter), "--adapter", str(adapter), "--adapter-scale", "0.5"]),
    ):
        out = tmp_path / f"{name}.png"
        result = CliRunner().invoke(app, [*run, *options, "-o", str(out), "--json"])
        assert result.exit_code == 0, result.output
        assert json.loads(result.stdout)["adapters"] == [value for value in options if value == str(adapter)]
        tokens.append(out.read_bytes())
    assert main(["merge", str(base), str(adapter), "-o", str(tmp_path / "merged")]) == 0
    assert main(["info", str(tmp_path / "merged")]) == 0
    capsys.readouterr()
    assert main(["merge", str(base), str(adapter), "-o", str(base)]) == 2
    assert "-o must not be that of the model or an adapter" in capsys.readouterr().err
    assert main([*run, "--adapter", "nowhere", "-o", str(tmp_path / "x.png")]) == 2
    assert "--adapter must be a folder that exists, not 'nowhere'" in capsys.readouterr().err
