"""Muon for the matrices of the layers and AdamW for the other weights, as one optimizer for `Trainer`.

`torch.optim.Muon` always orthogonalizes in bfloat16, which is slow on a CPU without bfloat16 instructions, and one
matrix at a time, which does not fill a GPU. This one uses float32 where that is faster, and batches matrices of one
shape.
"""

from collections import defaultdict

import torch
from transformers import PreTrainedModel

from ..utils.hardware import computes_in_bf16


# Quintic Newton-Schulz iteration of https://kellerjordan.github.io/posts/muon/.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Approximately the nearest semi-orthogonal matrix of each of `matrices` `[n, rows, columns]`, in their dtype.

    The singular values of the results lie between about 0.7 and 1.2.
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(wide, wide.mT)
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, update, wide, beta=a)
    return wide.mT if matrices.shape[-2] > matrices.shape[-1] else wide


class BatchedMuon(torch.optim.Muon):
    """torch's Muon that orthogonalizes all matrices of a shape at once.

    Updates are scaled as with `adjust_lr_fn="match_rms_adamw"`, so that learning rate and weight decay are AdamW's
    (https://arxiv.org/abs/2502.16982).
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            matrices, gradients, averages = [], [], []
            self._init_group(group, matrices, gradients, averages)
            torch._foreach_lerp_(averages, gradients, 1 - group["momentum"])
            updates = torch._foreach_lerp(gradients, averages, group["momentum"])  # Nesterov
            torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
            by_shape = defaultdict(list)
            for matrix, update in zip(matrices, updates, strict=True):
                by_shape[matrix.shape, matrix.device, matrix.dtype].append((matrix, update))
            for (shape, device, dtype), pairs in by_shape.items():
                alike, updates = zip(*pairs, strict=True)
                stacked = torch.stack(updates)
                if device.type != "mps" and computes_in_bf16(use_cpu=device.type == "cpu"):
                    stacked = stacked.bfloat16()
                scale = 0.2 * max(shape) ** 0.5
                torch._foreach_add_(alike, orthogonalize(stacked).to(dtype).unbind(), alpha=-group["lr"] * scale)
        return loss


class MuonWithAdamW(torch.optim.Optimizer):
    """[`BatchedMuon`] and AdamW for different weights, as one optimizer."""

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW):
        self.muon, self.adamw = muon, adamw
        super().__init__(self._groups(), {"lr": muon.defaults["lr"]})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict]:
        # The same dictionaries, so that a learning rate that a scheduler sets here reaches both optimizers.
        return [*self.muon.param_groups, *self.adamw.param_groups]

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        self.muon.step()
        self.adamw.step()
        return loss

    def state_dict(self) -> dict:
        return {"muon": self.muon.state_dict(), "adamw": self.adamw.state_dict()}

    def load_state_dict(self, state_dict: dict) -> None:
        self.muon.load_state_dict(state_dict["muon"])
        self.adamw.load_state_dict(state_dict["adamw"])
        self.param_groups = self._groups()


def hidden_matrices(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    """The matrices of the layers by name: all 2-D weights but the embedding and the head."""
    outer = {*model.get_input_embeddings().parameters(), *model.get_output_embeddings().parameters()}
    return {name: weight for name, weight in model.named_parameters() if weight.ndim == 2 and weight not in outer}
