"""Muon for the matrices inside the layers, AdamW for everything else, as one optimizer that `Trainer` can drive.

Why not `torch.optim.Muon`: it orthogonalises in bfloat16 wherever it runs, which on a CPU without instructions for it
takes a hundred times as long as float32, and it takes one matrix at a time, which on a GPU is mostly waiting.
"""

from collections import defaultdict

import torch

from ..utils.hardware import computes_in_bf16


# Of the quintic iteration of https://kellerjordan.github.io/posts/muon/.
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
ITERATIONS = 5


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """The nearest semi-orthogonal matrix of each of `matrices` `[n, rows, columns]`, roughly: singular values of 1
    come out between 0.7 and 1.2, as Muon is used to.

    Computed in the dtype of `matrices`, by the Newton-Schulz iteration of
    https://kellerjordan.github.io/posts/muon/.
    """
    wide = matrices.mT if matrices.shape[-2] > matrices.shape[-1] else matrices
    wide = wide / torch.linalg.matrix_norm(wide, keepdim=True).clamp(min=1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = torch.bmm(wide, wide.mT)
        update = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        wide = torch.baddbmm(wide, update, wide, beta=a)
    return wide.mT if matrices.shape[-2] > matrices.shape[-1] else wide


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised (https://kellerjordan.github.io/posts/muon/), with decoupled weight decay.

    The update is scaled to the size that AdamW's has, 0.2 times the root of the longer side, so that learning rate and
    weight decay are AdamW's (https://arxiv.org/abs/2502.16982); `torch.optim.Muon` calls it `match_rms_adamw`.

    Args:
        matrices: 2-D parameters.
        momentum: of an average of the gradients, applied as Nesterov does.
    """

    def __init__(self, matrices: list[torch.nn.Parameter], *, lr: float, weight_decay: float, momentum: float = 0.95):
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure=None):
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            alike = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    alike[matrix.shape, matrix.device, matrix.dtype].append(matrix)
            for (shape, device, dtype), matrices in alike.items():
                gradients = torch.stack([self._nesterov(matrix, group["momentum"]) for matrix in matrices])
                if device.type != "mps" and computes_in_bf16(use_cpu=device.type == "cpu"):
                    gradients = gradients.bfloat16()
                size = 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                updates = orthogonalize(gradients).to(dtype).unbind()
                torch._foreach_add_(matrices, updates, alpha=-group["lr"] * size)
        return loss

    def _nesterov(self, matrix: torch.nn.Parameter, momentum: float) -> torch.Tensor:
        state = self.state[matrix]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        average = state["momentum_buffer"].lerp_(matrix.grad, 1 - momentum)
        return matrix.grad.lerp(average, momentum)


class MuonWithAdamW(torch.optim.Optimizer):
    """[`Muon`] on hidden matrices, AdamW on the rest, with one learning rate.

    Args:
        matrices: 2-D parameters for Muon.
        adamw_groups: parameter groups for AdamW, each with its `weight_decay`.
        lr: of all groups.
        weight_decay: of the matrices.
        betas, eps: of AdamW.
    """

    def __init__(
        self,
        matrices: list[torch.nn.Parameter],
        adamw_groups: list[dict],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float],
        eps: float,
    ):
        self.muon = Muon(matrices, lr=lr, weight_decay=weight_decay)
        self.adamw = torch.optim.AdamW(adamw_groups, lr=lr, betas=betas, eps=eps, fused=True)
        super().__init__(self._groups(), {"lr": lr})
        self.param_groups = self._groups()

    def _groups(self) -> list[dict]:
        # The very dictionaries of the two, so that a schedule that writes a learning rate here reaches them.
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


def hidden_matrices(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """By name, the matrices that map one hidden state to another: all 2-D weights but the embedding and the head."""
    outer = {model.get_input_embeddings().weight, model.get_output_embeddings().weight}
    return {name: weight for name, weight in model.named_parameters() if weight.ndim == 2 and weight not in outer}
