"""Convert the published weights of a scorer, which are pickles, into what `smalti evaluate` reads: safetensors.

python tools/convert_scorer.py hpsv2 HPS_v2.1_compressed.pt -o hpsv2 --like CLIP_FOLDER
python tools/convert_scorer.py imagereward ImageReward.pt -o imagereward --tokenizer tokenizer.json
python tools/convert_scorer.py inception pt_inception-2015-12-05-6726825d.pth -o inception.safetensors

The files are xswu/HPSv2's and zai-org/ImageReward's on the hub, and a release of torch-fidelity or pytorch-fid.
CLIP_FOLDER holds config.json and tokenizer.json of laion/CLIP-ViT-H-14-laion2B-s32B-b79K, and tokenizer.json is
that of google-bert/bert-base-uncased. PyTorch reads the pickles with weights_only, which runs none of their code.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

State = dict[str, torch.Tensor]

BLIP = {
    "model_type": "blip",
    "vision_config": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "image_size": 224,
        "patch_size": 16,
        "layer_norm_eps": 1e-6,
    },
    "text_config": {
        "vocab_size": 30524,
        "hidden_size": 768,
        "encoder_hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 512,
        "is_decoder": True,
    },
}
"""Sizes of ImageReward's BLIP, those of its med_config.json and of a large ViT."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("hpsv2", "imagereward", "inception"), help="scorer")
    parser.add_argument("file", type=Path, help="published weights")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder, or file for inception")
    parser.add_argument("--like", type=Path, help="folder with config.json and tokenizer.json of the CLIP")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.json of bert-base-uncased")
    chosen = parser.parse_args()
    state = torch.load(chosen.file, map_location="cpu", weights_only=True)
    state = state.get("state_dict", state)
    if chosen.kind == "inception":
        save_file(inception_names(state), chosen.output)
        return
    chosen.output.mkdir(parents=True, exist_ok=True)
    if chosen.kind == "hpsv2":
        if chosen.like is None:
            parser.error("hpsv2 needs --like")
        for name in ("config.json", "tokenizer.json"):
            shutil.copy(chosen.like / name, chosen.output)
        save(clip_names(state), chosen.output)
        return
    if chosen.tokenizer is None:
        parser.error("imagereward needs --tokenizer")
    shutil.copy(chosen.tokenizer, chosen.output / "tokenizer.json")
    (chosen.output / "config.json").write_text(json.dumps(BLIP, indent=2) + "\n", encoding="utf-8")
    save(blip_names(state), chosen.output)


def save(state: State, folder: Path) -> None:
    """Write weights as transformers reads them."""
    whole = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})


def inception_names(state: State) -> State:
    """Return Inception's weights without the counters of its batch normalisations."""
    return {
        name: one.contiguous().clone()
        for name, one in state.items()
        if not name.endswith("num_batches_tracked") and not name.startswith("fc.")
    }


def renamed(state: State, rules: list[tuple[str, str]]) -> State:
    """Return weights by the names to which regular expressions change them, one after the other."""
    found = {}
    for name, tensor in state.items():
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        found[name] = tensor
    return found


def clip_names(state: State) -> State:
    """Return the weights of open_clip's ViT-H-14 by transformers' names."""
    for prefix in ("", "visual."):
        state = split_attention(state, prefix)
    rules = [
        (r"^visual\.class_embedding$", "vision_model.embeddings.class_embedding"),
        (r"^visual\.positional_embedding$", "vision_model.embeddings.position_embedding.weight"),
        (r"^visual\.conv1\.", "vision_model.embeddings.patch_embedding."),
        (r"^visual\.ln_pre\.", "vision_model.pre_layrnorm."),
        (r"^visual\.ln_post\.", "vision_model.post_layernorm."),
        (r"^visual\.proj$", "visual_projection.weight"),
        (r"^visual\.transformer\.resblocks\.", "vision_model.encoder.layers."),
        (r"^transformer\.resblocks\.", "text_model.encoder.layers."),
        (r"^token_embedding\.", "text_model.embeddings.token_embedding."),
        (r"^positional_embedding$", "text_model.embeddings.position_embedding.weight"),
        (r"^ln_final\.", "text_model.final_layer_norm."),
        (r"^text_projection$", "text_projection.weight"),
        (r"\.attn\.out_proj\.", ".self_attn.out_proj."),
        (r"\.attn\.([qkv])_proj\.", r".self_attn.\1_proj."),
        (r"\.ln_([12])\.", r".layer_norm\1."),
        (r"\.mlp\.c_fc\.", ".mlp.fc1."),
        (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    ]
    found = renamed(state, rules)
    for name in ("visual_projection.weight", "text_projection.weight"):
        found[name] = found[name].T
    return {name: one.float() for name, one in found.items() if name != "attn_mask"}


def split_attention(state: State, prefix: str) -> State:
    """Return weights with one matrix for queries, keys and values each, in place of a common one."""
    pattern = re.compile(rf"{prefix}transformer\.resblocks\.\d+\.attn\.in_proj_(weight|bias)")
    found: State = {}
    for name, tensor in state.items():
        if pattern.fullmatch(name):
            kind = name.rsplit("_", 1)[1]
            for letter, part in zip("qkv", tensor.chunk(3), strict=True):
                found[name.replace(f"in_proj_{kind}", f"{letter}_proj.{kind}")] = part
        else:
            found[name] = tensor
    return found


def blip_names(state: State) -> State:
    """Return ImageReward's weights by transformers' names; its unused projections are left out."""
    rules: list[tuple[str, str]] = [
        (r"^blip\.", ""),
        (r"^visual_encoder\.cls_token$", "vision_model.embeddings.class_embedding"),
        (r"^visual_encoder\.pos_embed$", "vision_model.embeddings.position_embedding"),
        (r"^visual_encoder\.patch_embed\.proj\.", "vision_model.embeddings.patch_embedding."),
        (r"^visual_encoder\.blocks\.", "vision_model.encoder.layers."),
        (r"^visual_encoder\.norm\.", "vision_model.post_layernorm."),
        (r"^(vision_model\.encoder\.layers\.\d+)\.attn\.proj\.", r"\1.self_attn.projection."),
        (r"^(vision_model\.encoder\.layers\.\d+)\.attn\.", r"\1.self_attn."),
        (r"^(vision_model\.encoder\.layers\.\d+)\.norm([12])\.", r"\1.layer_norm\2."),
    ]
    wanted: Callable[[str], bool] = re.compile(r"(vision_model|text_encoder|mlp)\.").match  # type: ignore[assignment]
    found = {name: one for name, one in renamed(state, rules).items() if wanted(name)}
    return {name: one.float() for name, one in found.items() if not name.endswith("position_ids")}


if __name__ == "__main__":
    main()
