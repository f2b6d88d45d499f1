"""Muon with a second moment: the updates of a network's matrices are orthogonal, then scaled as AdamW scales them."""

from __future__ import annotations

from typing import Any

import torch

from smalti.training.distribution import add_up, rank, size

_COEFFICIENTS = (3.4445, -4.775, 2.0315)
_ITERATIONS = 5
_UPDATE = 0.2  # root mean square of an update before the learning rate, about that of AdamW
_EPS = 1e-8
_TOGETHER = 2**22  # numbers of the matrices that one batched product has; large matrices gain nothing


class Muon(torch.optim.AdamW):
    """AdamW for parameter groups without `orthogonal`, and orthogonal updates for the matrices of groups with it.

    A matrix's momentum is made orthogonal by five Newton-Schulz iterations with the coefficients of Muon (Jordan et
    al., 2024); several processes share the matrices. A second moment of these updates evens out their entries, as in
    AdaMuon (arXiv 2507.11005), but without the sign of the momentum. An update has a root mean square of 0.2, so
    rates and decays of AdamW fit.

    Args:
        groups: parameter groups of AdamW; `"orthogonal": True` marks those whose parameters are all matrices.
        lr: learning rate.
        betas: decay of the two moments.

    Example:
        >>> layer = torch.nn.Linear(4, 4, bias=False)
        >>> optimizer = Muon([{"params": [layer.weight], "orthogonal": True}], lr=0.1)
        >>> layer(torch.ones(1, 4)).sum().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, groups: list[dict[str, Any]], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.95)
    ) -> None:
        for group in groups:
            group.setdefault("orthogonal", False)
        super().__init__(groups, lr=lr, betas=betas, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take a step. `closure` must be None."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not group["orthogonal"]]
        try:
            super().step(closure)
        finally:
            self.param_groups = groups
        for group in groups:
            if group["orthogonal"]:
                moved = [parameter for parameter in group["params"] if parameter.grad is not None]
                momenta = [self._momentum(parameter, group["betas"][0]) for parameter in moved]
                for parameter, update in zip(moved, _orthogonal_all(momenta), strict=True):
                    self._move(parameter, update.to(parameter.dtype), group)

    def _momentum(self, parameter: torch.Tensor, beta: float) -> torch.Tensor:
        """Add a matrix's gradient to its first moment, and return Nesterov's momentum."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        state["step"] += 1
        return gradient.lerp(state["exp_avg"].lerp_(gradient, 1 - beta), beta)

    def _move(self, parameter: torch.Tensor, update: torch.Tensor, group: dict[str, Any]) -> None:
        """Change a matrix by its orthogonal update."""
        state = self.state[parameter]
        state["exp_avg_sq"].lerp_(update.square(), 1 - group["betas"][1])
        # The update's size is set below, so the second moment needs no correction of its start.
        update = update / (state["exp_avg_sq"].sqrt() + _EPS)
        size = _UPDATE * parameter.numel() ** 0.5 / update.norm().clamp_min(_EPS)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parameter.add_(update * size, alpha=-group["lr"])


def _orthogonal_all(matrices: list[torch.Tensor]) -> list[torch.Tensor]:
    """Return the orthogonal form of every matrix. Each process computes some of them, and all exchange them."""
    own = [number for number in range(len(matrices)) if number % size() == rank()]
    # One batched product of all matrices of a shape takes a fraction of the time of one product each.
    shapes: dict[torch.Size, list[int]] = {}
    for number in own:
        shapes.setdefault(matrices[number].shape, []).append(number)
    found: dict[int, torch.Tensor] = {}
    for shape, numbers in shapes.items():
        count = max(1, _TOGETHER // shape.numel())
        for start in range(0, len(numbers), count):
            some = numbers[start : start + count]
            updates = orthogonal(torch.stack([matrices[number] for number in some]))
            found.update(zip(some, updates.unbind(), strict=True))
    if size() == 1:
        return [found[number] for number in own]
    parts = [
        found[number].float() if number in found else torch.zeros_like(matrix, dtype=torch.float32)
        for number, matrix in enumerate(matrices)
    ]
    whole = add_up(torch.cat([part.flatten() for part in parts]))
    return [
        part.view_as(matrix)
        for part, matrix in zip(whole.split([m.numel() for m in matrices]), matrices, strict=True)
    ]


def orthogonal(matrices: torch.Tensor) -> torch.Tensor:
    """Return matrices (…, n, m) with the same singular vectors and singular values from about 0.7 to 1.2, in bfloat16.

    Example:
        >>> values = torch.linalg.svdvals(orthogonal(torch.randn(8, 16)).float())
        >>> bool(values.min() > 0.5 and values.max() < 1.5)
        True
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    wide = matrices.mT if tall else matrices
    x = (wide / wide.norm(dim=(-2, -1), keepdim=True).clamp_min(_EPS)).to(torch.bfloat16)
    x = x.reshape(-1, *x.shape[-2:])
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    x = x.reshape(wide.shape)
    return x.mT if tall else x
