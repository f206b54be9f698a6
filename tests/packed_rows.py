"""Models of several architectures, packed rows for them, and their losses with and without `head_loss`."""

import torch
from helpers import tiny_config
from transformers import LlamaConfig, LlamaForCausalLM, Phi3Config, Phi3ForCausalLM

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.training.kernels.head_loss import head_loss


SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
PARTIAL_ROTARY = {"rope_type": "default", "rope_theta": 10_000.0, "partial_rotary_factor": 0.5}
MODELS = {
    "TinyLlama": lambda **changes: TinyLlamaForCausalLM(tiny_config(**{**SHAPE, **changes})),
    "Llama": lambda **changes: LlamaForCausalLM(LlamaConfig(**{**SHAPE, **changes})),
    "Phi3": lambda **changes: Phi3ForCausalLM(Phi3Config(**{**SHAPE, "rope_parameters": PARTIAL_ROTARY, **changes})),
}


def position_ids_of(*rows):
    """`position_ids` of rows of documents of the given lengths."""
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


ROWS = position_ids_of([40], [1, 9, 30], [13, 26, 1])


NO_LOGITS = torch.empty(0, dtype=torch.long)


def loss_and_gradients(model, compute):
    model.zero_grad()
    loss = compute()
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in model.parameters()]


def both_losses(model, labels, ids, count, loss=head_loss):
    """Loss and gradients by [`head_loss`] and by the model."""

    def by_head_loss():
        outputs = model(ids, output_hidden_states=True, logits_to_keep=NO_LOGITS)
        assert outputs.logits.numel() == 0
        return loss(outputs.hidden_states[-1], model.get_output_embeddings(), labels) / count

    own = loss_and_gradients(model, lambda: model(ids, labels=labels, num_items_in_batch=count).loss)
    return loss_and_gradients(model, by_head_loss), own
