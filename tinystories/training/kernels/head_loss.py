"""Cross-entropy of a model's output head that never stores the logits of a whole batch.

With a small model, the logits are most of the memory traffic of a training step. On a CPU, chunks that fit its caches
make this faster than `torch.nn.functional.linear_cross_entropy`, which also needs torch 2.13 and ignores autocast.
"""

import inspect

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.loss.loss_utils import ForCausalLMLoss


IGNORE_INDEX = -100
# Number of logits stored at a time: on a CPU as many as fit its caches.
LOGITS_AT_A_TIME = {"cpu": 2**21}
LOGITS_AT_A_TIME_ELSEWHERE = 2**27


# Settings of transformers' configurations that change the logits after the output head, or the loss.
OTHER_LOSSES = (
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "lm_head_multiplier",
    "output_router_logits",
)


def supports_head_loss(model: PreTrainedModel) -> bool:
    """Whether [`head_loss`] is the loss of `model`: standard cross-entropy of a linear head without bias."""
    head = model.get_output_embeddings()
    return (
        type(head) is nn.Linear
        and head.bias is None
        and getattr(model, "loss_function", None) is ForCausalLMLoss
        and "logits_to_keep" in inspect.signature(model.forward).parameters
        and not any(getattr(model.config, name, None) for name in OTHER_LOSSES)
    )


def head_loss(hidden_states: Tensor, head: nn.Linear, labels: Tensor, token_weights: Tensor | None = None) -> Tensor:
    """Summed cross-entropy in nats, `[]`, of predicting `labels[:, t + 1]` from `hidden_states[:, t]`.

    Args:
        hidden_states: `[batch, length, hidden]`.
        head: without bias.
        labels: `[batch, length]`, -100 where no loss is wanted.
        token_weights: `[batch, length]`, what the loss of each label is multiplied by.
    """
    device = hidden_states.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden_states.dtype
    targets = nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE_INDEX).flatten()
    weights = (targets != IGNORE_INDEX).to(torch.float)
    if token_weights is not None:
        weights = weights * nn.functional.pad(token_weights[:, 1:], (0, 1)).flatten()
    return HeadLoss.apply(hidden_states.flatten(0, 1), head.weight, targets, weights, dtype)


class HeadLoss(torch.autograd.Function):
    """Weighted sum of the cross-entropies of a linear head; its gradients are computed in the forward pass."""

    @staticmethod
    def forward(
        ctx, hidden_states: Tensor, weight: Tensor, targets: Tensor, target_weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """The sum in nats, `[]`.

        Args:
            hidden_states: `[positions, hidden]`.
            weight: `[vocab, hidden]`.
            targets: `[positions]`; negative only where the weight is 0.
            target_weights: `[positions]`, float32.
            dtype: of the matrix products; softmax and sums are float32.
        """
        device = hidden_states.device.type
        index = targets.clamp(min=0)[:, None]
        low_hidden, low_weight = hidden_states.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=torch.float, device=hidden_states.device)
        hidden_gradients = []
        trains_weight = ctx.needs_input_grad[1]
        weight_gradient = torch.zeros_like(weight, dtype=torch.float) if trains_weight else None
        size = max(64, LOGITS_AT_A_TIME.get(device, LOGITS_AT_A_TIME_ELSEWHERE) // len(weight))
        with torch.autocast(device, enabled=False):
            for begin in range(0, len(targets), size):
                chunk = slice(begin, begin + size)
                logits = low_hidden[chunk] @ low_weight.T
                logprobs = nn.functional.log_softmax(logits, dim=-1, dtype=torch.float)
                target_logprobs = logprobs.gather(-1, index[chunk])
                total = total - (target_logprobs[:, 0] * target_weights[chunk]).sum()
                # Reuses memory: in small steps, allocating costs more than computing.
                gradient = torch.exp(logprobs, out=logprobs if dtype == torch.float else logits)
                gradient.scatter_(-1, index[chunk], torch.expm1(target_logprobs).to(dtype))
                hidden_gradients.append(gradient @ low_weight)
                if weight_gradient is None:
                    continue
                scaled = low_hidden[chunk] * target_weights[chunk, None].to(dtype)
                if dtype == torch.float:
                    weight_gradient.addmm_(gradient.T, scaled)
                else:
                    weight_gradient += gradient.T @ scaled
        hidden_gradient = torch.cat(hidden_gradients) * target_weights[:, None]
        if weight_gradient is not None:
            weight_gradient = weight_gradient.to(weight.dtype)
        ctx.save_for_backward(hidden_gradient.to(hidden_states.dtype), weight_gradient)
        return total

    @staticmethod
    def backward(ctx, gradient):
        hidden_gradient, weight_gradient = ctx.saved_tensors
        weight_gradient = None if weight_gradient is None else weight_gradient * gradient
        return hidden_gradient * gradient, weight_gradient, None, None, None
