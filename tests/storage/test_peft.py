"""The real peft loads our adapters, and we load its. Needs peft: pip install peft."""

from __future__ import annotations

import shutil
import warnings

import pytest
import torch
from adapters import shake, write_adapter
from folders import write_tiny_model
from tiny import TEXTS, tiny_prompts

import smalti
from smalti.model.lora import LINEARS, TARGETS
from smalti.storage.folder import load_denoiser

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries that peft imports
peft = pytest.importorskip("peft", exc_type=ImportError)

TOKENS = torch.arange(128).view(2, 8, 8) % 64
OPTIONS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_tiny_model(tmp_path_factory.mktemp("base") / "tiny", downsample=True)


def prompts(denoiser):
    return tiny_prompts(denoiser, TEXTS[:2], (8, 8))


@torch.no_grad()
def our_logits(denoiser):
    def product(hidden, weight, low_rank=None):
        found = hidden @ weight.T
        return found if low_rank is None else low_rank.add_to(found, hidden)

    return denoiser.gen_predictor.run(product, denoiser(TOKENS, prompts(denoiser)).flatten(0, 1))


@torch.no_grad()
def their_logits(model):
    """The head is a linear layer to peft, which puts its own in place of it."""
    denoiser = model.get_base_model()
    return denoiser.gen_predictor(denoiser(TOKENS, prompts(denoiser)).flatten(0, 1))


@pytest.mark.parametrize("targets", [TARGETS, LINEARS, ("q_proj", "v_proj")], ids=len)
@pytest.mark.parametrize("kind", OPTIONS)
def test_peft_loads_ours(kind, targets, base, tmp_path):
    folder = write_adapter(tmp_path / "a", base, kind, targets)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        theirs = peft.PeftModel.from_pretrained(load_denoiser(base), str(folder)).eval()
    assert not [one for one in caught if "adapter" in str(one.message)], "no key is missing or unknown"
    ours = smalti.load(base, adapter=folder).denoiser
    torch.testing.assert_close(their_logits(theirs), our_logits(ours), rtol=1e-4, atol=1e-4)
    assert (our_logits(ours) - our_logits(load_denoiser(base))).abs().max() > 0.1


@pytest.mark.parametrize("injected", [False, True])
@pytest.mark.parametrize("kind", OPTIONS)
def test_we_load_theirs(kind, injected, base, tmp_path):
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=[*LINEARS, "downsample.conv", "gen_predictor"],
        rank_pattern={"layers.0.mlp.up_proj": 2},
        alpha_pattern={"layers.1.self_attn.q_proj": 3},
        init_lora_weights=False,
        **OPTIONS[kind],
    )
    torch.manual_seed(0)
    model = peft.get_peft_model(load_denoiser(base), config).eval()
    expected = their_logits(model)
    model.save_pretrained(str(tmp_path / "a"))
    if injected:  # peft.inject_adapter_in_model has names without a prefix
        from safetensors.torch import load_file, save_file

        path = tmp_path / "a" / "adapter_model.safetensors"
        tensors = load_file(path)
        shutil.copy(path, tmp_path / "before.safetensors")
        save_file({name.removeprefix("base_model.model."): value for name, value in tensors.items()}, path)
    ours = smalti.load(base, adapter=tmp_path / "a").denoiser
    torch.testing.assert_close(our_logits(ours), expected, rtol=1e-4, atol=1e-4)


def test_several_at_once_with_weights(base, tmp_path):
    """What they add up to is what peft computes with two active adapters that it scales."""
    folders = [write_adapter(tmp_path / name, base, "lora", seed=seed) for name, seed in (("a", 1), ("b", 2))]
    model = peft.PeftModel.from_pretrained(load_denoiser(base), str(folders[0]), adapter_name="a")
    model.load_adapter(str(folders[1]), adapter_name="b")
    model.base_model.set_adapter(["a", "b"])
    for module in model.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("a", 0.5)
            module.set_scale("b", 1.5)
    ours = smalti.load(base, adapter=folders, adapter_scale=[0.5, 1.5]).denoiser
    torch.testing.assert_close(our_logits(ours), their_logits(model.eval()), rtol=1e-4, atol=1e-4)


def test_an_adapter_goes_there_and_back(base, tmp_path):
    """Ours, loaded and saved by peft, is ours again."""
    folder = write_adapter(tmp_path / "a", base, "dora")
    model = peft.PeftModel.from_pretrained(load_denoiser(base), str(folder))
    model.save_pretrained(str(tmp_path / "b"), save_embedding_layers=False)
    first, second = (smalti.load(base, adapter=tmp_path / name).denoiser for name in "ab")
    assert torch.equal(our_logits(first), our_logits(second))
    shake(first, 5)
    assert not torch.equal(our_logits(first), our_logits(second))
