"""The floating-point operations of a denoiser's matrix products: arithmetic alone, nothing is measured."""

from __future__ import annotations

from smalti.model.config import DenoiserConfig


def forward_products(config: DenoiserConfig, grid: tuple[int, int], text: float) -> float:
    """Return the operations of one image's forward pass and the head over all of its tokens.

    Args:
        config: the model.
        grid: height and width of the grid in tokens.
        text: text ids of the prompt, without the image's slots.
    """
    D, tokens = config.hidden_size, grid[0] * grid[1]
    cells = tokens // config.cell**2
    heads, key_value = config.num_attention_heads, config.num_key_value_heads
    projections = D * config.head_dim * (2 * heads + 2 * key_value)
    feed_forward = 3 * D * config.intermediate_size
    cross = config.conditioning == "cross_attention"
    positions = cells if cross else cells + text

    def attention(queries: float, keys: float) -> float:
        return 2 * queries * keys * heads * config.head_dim

    layer = positions * (projections + feed_forward) + attention(positions, positions)
    if cross:
        # Queries and results of the image's positions, keys and values of the text's.
        layer += positions * D * config.head_dim * 2 * heads + text * D * config.head_dim * 2 * key_value
        layer += attention(positions, text)
    total = config.num_hidden_layers * layer
    total += config.num_text_layers * (text * (projections + feed_forward) + attention(text, text))
    if config.downsample:
        total += 2 * cells * 4 * D * D
    return 2 * (total + tokens * D * config.codebook_size)


def training_products(
    config: DenoiserConfig, grid: tuple[int, int], text: float, *, whole: bool = True, kept: float = 0.0
) -> float:
    """Return the operations of one image's training: forward, and both products of each gradient.

    Layers that are computed again for their gradients do not count twice.

    Args:
        config: the model.
        grid: height and width of the grid in tokens.
        text: text ids of the prompt, without the image's slots.
        whole: whether the weights are trained. A frozen matrix needs one product less.
        kept: share of the images for which a frozen model computes a further forward pass.
    """
    return ((3 if whole else 2) + kept) * forward_products(config, grid, text)
