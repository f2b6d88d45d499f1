"""The table of commands: where each one is, and the line that `smalti --help` shows for it.

Names and lines stand here, so that showing them imports no command. A test compares the lines with the docstrings.
"""

from __future__ import annotations

from typing import NamedTuple

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""


class Listed(NamedTuple):
    """A command of the command line.

    Attributes:
        module: module in `smalti.cli` that holds it.
        attribute: its name there; a function, or a `typer.Typer` with commands of its own.
        summary: first paragraph of its help.
    """

    module: str
    attribute: str
    summary: str


COMMANDS = {
    "generate": Listed("generate", "generate", "Draw images from prompts."),
    "edit": Listed("edit", "edit", "Edit an image to match PROMPT, and leave the rest unchanged."),
    "inpaint": Listed(
        "edit",
        "inpaint",
        "Paint a part of an image again: fill a hole, put something there, or take something away.",
    ),
    "outpaint": Listed("edit", "outpaint", "Grow the canvas and paint beyond the image's edges."),
    "vary": Listed(
        "edit",
        "vary",
        "Draw variations: fill a share of the tokens again, at random, favouring the least likely.",
    ),
    "classify": Listed("classify", "classify", "Tell which of some labels describes an image."),
    "ground": Listed(
        "ground", "ground", "Find where in an image the things are that phrases of its prompt name."
    ),
    "explain": Listed(
        "explain", "explain", "Tell what each word of a prompt says about an image, in nats, and where."
    ),
    "info": Listed(
        "info",
        "info",
        "Show what a model holds and the memory that it needs, without reading (or fetching) the weights.",
    ),
    "train": Listed(
        "train",
        "train",
        "Train a denoiser, or resume one that was stopped. Ctrl-C writes a checkpoint and stops.",
    ),
    "train-tokenizer": Listed(
        "train",
        "train_tokenizer",
        "Train an image tokenizer, or resume one that was stopped. Ctrl-C writes a checkpoint and stops.",
    ),
    "train-classifier": Listed(
        "train_classifier",
        "train_classifier",
        "Train a classifier over tokens for --steer, from a folder with a subfolder of images for each label.",
    ),
    "train-light": Listed(
        "train_light",
        "train_light",
        "Train a light layer that draws more steps with as many passes, with the model frozen.",
    ),
    "train-word": Listed(
        "train_word",
        "train_word",
        "Learn a new word for prompts from a few images, with the model frozen.",
    ),
    "tokenize": Listed(
        "tokenize",
        "tokenize",
        "Turn images into token shards, which `smalti train` reads with data={kind: tokens, path: FOLDER}.",
    ),
    "pack": Listed(
        "tokenize",
        "pack",
        "Write images as tar shards in WebDataset's layout, with indexes: one file for thousands of images.",
    ),
    "average": Listed(
        "average",
        "average",
        "Average the weights of two models, such as one before and after fine-tuning.",
    ),
    "merge": Listed("merge", "merge", "Add adapters to the weights of a model and write it in bf16."),
    "quantize": Listed(
        "quantize",
        "quantize",
        "Store the layers of a model in 8 or 4 bits, tensor by tensor, in a folder that needs no torchao.",
    ),
    "groups": Listed(
        "groups",
        "groups",
        "Group codes that look alike, as grouped cross-entropy needs them, and measure the groups.",
    ),
    "evaluate": Listed(
        "evaluate",
        "evaluate",
        "Measure a model: what its images show, how they look, its edits, its image tokenizer.",
    ),
    "serve": Listed("serve", "serve", "Serve models over HTTP: OpenAI's Images API, jobs, and a web studio."),
    "prepare": Listed(
        "prepare",
        "app",
        "Prepare data for training and evaluation from packages that others published.",
    ),
}
