"""Tiny random networks of the classes that scorers use, as folders in transformers' format."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors


def write_tiny_detector(folder: Path, labels: int = 80) -> Path:
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    backbone = SwinConfig(
        image_size=64,
        embed_dim=8,
        depths=[1, 1, 1, 1],
        num_heads=[1, 1, 1, 1],
        window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        hidden_dim=32,
        feature_size=32,
        mask_feature_size=32,
        num_queries=10,
        encoder_layers=1,
        decoder_layers=2,
        num_attention_heads=2,
        dim_feedforward=16,
        encoder_feedforward_dim=16,
        num_labels=labels,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Mask2FormerForUniversalSegmentation(config).save_pretrained(folder)
    return folder


def write_tiny_clip(folder: Path) -> Path:
    from transformers import CLIPConfig, CLIPModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 64, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(folder)
    colors = "red orange yellow green blue purple pink brown black white a photo of colored - dog object"
    words = {word: index + 1 for index, word in enumerate(colors.split())} | {
        "[UNK]": 0,
        "<s>": 62,
        "</s>": 63,
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", special_tokens=[("<s>", 62), ("</s>", 63)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def write_tiny_answerer(folder: Path, kind: str) -> Path:
    """BLIP-2 with a text model of `kind`: "opt" (a decoder) or "t5" (an encoder and a decoder)."""
    from transformers import (
        Blip2Config,
        Blip2ForConditionalGeneration,
        Blip2Processor,
        Blip2QFormerConfig,
        Blip2VisionConfig,
        BlipImageProcessorPil,
        OPTConfig,
        PreTrainedTokenizerFast,
        T5Config,
    )

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
    words = {
        word: index
        for index, word in enumerate("<pad> <s> </s> <image> [UNK] Question Answer : yes no".split())
    }
    if kind == "opt":
        text = OPTConfig(
            vocab_size=32, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, ffn_dim=16,
            word_embed_proj_dim=16, max_position_embeddings=64, **ends,
        )  # fmt: skip
    else:
        text = T5Config(
            vocab_size=32, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0,
            pad_token_id=0, eos_token_id=2,
        )  # fmt: skip
    config = Blip2Config(
        vision_config=Blip2VisionConfig(**sizes, image_size=28, patch_size=14).to_dict(),
        qformer_config=Blip2QFormerConfig(**sizes, vocab_size=32, encoder_hidden_size=16).to_dict(),
        text_config=text.to_dict(),
        num_query_tokens=4,
        image_token_index=3,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        Blip2ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="[UNK]"
    )
    images = BlipImageProcessorPil(size={"height": 28, "width": 28})
    Blip2Processor(images, fast, num_query_tokens=4).save_pretrained(folder)
    return folder


def write_words(folder: Path, words: list[str], **added: int) -> None:
    """A tokenizer that knows some words; the others are [UNK]."""
    table = {word: index for index, word in enumerate(["[UNK]", *words])} | added
    tokenizer = Tokenizer(models.WordLevel(table, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if added:
        tokenizer.add_special_tokens(list(added))
    tokenizer.save(str(folder / "tokenizer.json"))


def write_tiny_reward(folder: Path) -> Path:
    """ImageReward's classes: a BLIP whose text model looks at the image, and a head of two layers."""
    from safetensors.torch import save_file
    from transformers import BlipConfig, BlipTextModel, BlipVisionModel

    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = BlipConfig(
        text_config={
            **sizes, "vocab_size": 32, "encoder_hidden_size": 16, "is_decoder": True, "initializer_range": 0.5,
            "bos_token_id": 1, "sep_token_id": 2, "pad_token_id": 0,
        },
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "initializer_range": 0.5},
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {
            "vision_model": BlipVisionModel(config.vision_config),
            "text_encoder": BlipTextModel(config.text_config, add_pooling_layer=False),
            "mlp": torch.nn.ModuleDict(
                {
                    "layers": torch.nn.Sequential(
                        torch.nn.Linear(16, 8), torch.nn.Dropout(), torch.nn.Linear(8, 1)
                    )
                }
            ),
        }
    config.save_pretrained(folder)
    tensors = {f"{name}.{key}": one for name, part in parts.items() for key, one in part.state_dict().items()}
    save_file(tensors, folder / "model.safetensors")
    write_words(folder, "a red blue cat dog".split())
    return folder


def write_tiny_hpsv3(folder: Path) -> tuple[Path, Path]:
    """HPSv3's classes: the base's configuration and tokenizer, and weights by the names of the published file."""
    from safetensors.torch import save_file
    from transformers import Qwen2VLConfig, Qwen2VLModel

    words = "a red blue cat dog image Textual prompt overall ratings".split()
    marks = ["<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    ids = {mark: 40 + index for index, mark in enumerate(marks)}
    # Two tokens more than the base's tokenizer knows: the reward token gets the first.
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": 16, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
            "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 4096,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]},
        },
        vision_config={"depth": 1, "embed_dim": 16, "hidden_size": 16, "num_heads": 2, "mlp_ratio": 1},
        image_token_id=ids["<|image_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )  # fmt: skip
    base, weights = folder / "base", folder / "weights"
    config.save_pretrained(base)
    write_words(base, words, **ids)
    config.text_config.vocab_size = 47
    weights.mkdir()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        body = Qwen2VLModel(config)
        head = torch.nn.Sequential(
            torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Dropout(), torch.nn.Linear(8, 2)
        )
    tensors = {
        name.replace("language_model.", "model."): one.contiguous() for name, one in body.state_dict().items()
    }
    tensors |= {f"rm_head.{name}": one for name, one in head.state_dict().items()}
    tensors["lm_head.weight"] = torch.zeros(47, 16)
    save_file(tensors, weights / "HPSv3.safetensors")
    return base, weights


def write_tiny_writer(folder: Path) -> Path:
    """A language model without a template of conversations."""
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        LlamaForCausalLM(config).save_pretrained(folder)
    write_words(
        folder, "a red blue cat dog Rewrite this prompt for an image generator in one sentence".split()
    )
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]").save_pretrained(folder)
    return folder
