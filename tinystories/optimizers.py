"""Muon for the matrices inside the layers, AdamW for everything else, as one optimizer that `Trainer` can drive."""

import torch


class MuonWithAdamW(torch.optim.Optimizer):
    """`torch.optim.Muon` (https://kellerjordan.github.io/posts/muon/) on hidden matrices, AdamW on the rest.

    Muon's update is scaled to the size that AdamW's has (`match_rms_adamw`, https://arxiv.org/abs/2502.16982), so that
    one learning rate and one weight decay serve both.

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
        self.muon = torch.optim.Muon(matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
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
