"""Head and cross-entropy in one operator: logits exist for a chunk of rows at a time, gradients come along."""

from __future__ import annotations

import torch

from smalti.errors import SmaltiError

# Logits of one chunk. On a CPU 2²¹ float32 values, 8 MB, stay in its cache; a GPU wants large products.
_CHUNK_ELEMENTS = {"cpu": 2**21}
_CHUNK_ELEMENTS_ELSEWHERE = 2**26


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes both gradients in the forward pass, while a chunk's logits are at hand."""

    @staticmethod
    def forward(
        ctx: torch.autograd.function.FunctionCtx,
        hidden: torch.Tensor,
        head_weight: torch.Tensor,
        targets: torch.Tensor,
        row_weight: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # float32 weights under autocast are cast once here, not once a chunk.
        head = head_weight.to(hidden.dtype)
        losses = torch.empty(len(hidden), device=hidden.device)
        hits = torch.empty(len(hidden), dtype=torch.bool, device=hidden.device)
        wants = ctx.needs_input_grad
        hidden_grad = torch.empty_like(hidden) if wants[0] else None
        head_grad = torch.zeros_like(head_weight, dtype=torch.float32) if wants[1] else None
        elements = _CHUNK_ELEMENTS.get(hidden.device.type, _CHUNK_ELEMENTS_ELSEWHERE)
        size = max(1, elements // len(head))
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            rows, target = hidden[part], targets[part]
            logits = (rows @ head.T).float()
            hits[part] = logits.argmax(dim=1) == target
            log_sum = logits.logsumexp(dim=1)
            losses[part] = log_sum - logits.gather(1, target[:, None])[:, 0]
            if not any(wants):
                continue
            # ∂L/∂z = weight · (p − onehot), in the logits' own memory.
            gradient = logits.sub_(log_sum[:, None]).exp_()
            gradient.scatter_add_(1, target[:, None], -torch.ones_like(log_sum)[:, None])
            gradient = gradient.mul_(row_weight[part, None]).to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[part] = gradient @ head
            if head_grad is not None:
                head_grad += gradient.T @ rows
        ctx.save_for_backward(hidden_grad, head_grad)
        ctx.head_dtype = head_weight.dtype
        ctx.mark_non_differentiable(losses, hits)
        return (losses * row_weight).sum(), losses, hits

    @staticmethod
    def backward(
        ctx: torch.autograd.function.FunctionCtx, total: torch.Tensor, *_: torch.Tensor
    ) -> tuple[torch.Tensor | None, torch.Tensor | None, None, None]:
        hidden_grad, head_grad = ctx.saved_tensors
        if hidden_grad is not None:
            hidden_grad = hidden_grad * total.to(hidden_grad.dtype)
        if head_grad is not None:
            head_grad = (head_grad * total).to(ctx.head_dtype)
        return hidden_grad, head_grad, None, None


def linear_cross_entropy(
    hidden: torch.Tensor, head_weight: torch.Tensor, targets: torch.Tensor, row_weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted sum of −log softmax(hidden · headᵀ)[target] over rows, without the N × V logits.

    Args:
        hidden: (N, D) float.
        head_weight: (V, D) float.
        targets: (N,) int64, from 0 to V − 1.
        row_weight: (N,) float32.

    Returns:
        The sum, a scalar with gradients to hidden and head; and detached, per row, the unweighted loss in nats
        (N,) float32 and whether the likeliest code is the target (N,) bool.

    Raises:
        SmaltiError: shapes do not fit, or a target is out of range.
    """
    if hidden.ndim != 2 or head_weight.ndim != 2 or hidden.shape[1] != head_weight.shape[1]:
        raise SmaltiError(
            f"hidden must be (N, D) and head_weight (V, D), not {tuple(hidden.shape)} and {tuple(head_weight.shape)}"
        )
    if targets.shape != hidden.shape[:1] or row_weight.shape != hidden.shape[:1]:
        raise SmaltiError(
            f"targets and row_weight must be ({len(hidden)},), "
            f"not {tuple(targets.shape)} and {tuple(row_weight.shape)}"
        )
    if targets.numel() and not 0 <= int(targets.min()) <= int(targets.max()) < len(head_weight):
        raise SmaltiError(
            f"targets must be from 0 to {len(head_weight) - 1}, not {int(targets.min())} to {int(targets.max())}"
        )
    return _LinearCrossEntropy.apply(hidden, head_weight, targets, row_weight.float())
