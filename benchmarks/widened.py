"""A trained model in a larger shape: the same function, and so the same text, at the cost of the larger model.

The weights are those of the trained model, and zeros elsewhere. RMSNorm divides by the width, which its weights undo.
The additional entries of the vocabulary get very low logits from an otherwise unused channel.
"""

import torch
from transformers import PreTrainedModel

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.sizes import SIZES


CHANNEL = 1e-3  # value of the last channel of each embedding, which no layer reads or changes


@torch.no_grad()
def widened(model: PreTrainedModel, size: str) -> TinyLlamaForCausalLM:
    """A model of this size with the logits of a TinyLlama, up to rounding, and an untied head."""
    old, shape = model.config, SIZES[size]
    settings = old.to_dict() | shape | {"num_key_value_heads": shape["num_attention_heads"]}
    ratio = old.hidden_size / shape["hidden_size"]
    settings |= {"rms_norm_eps": old.rms_norm_eps * ratio, "tie_word_embeddings": False}
    result = TinyLlamaForCausalLM(TinyLlamaConfig(**settings)).eval()
    narrow = dict(model.named_parameters())
    narrow["lm_head.weight"] = model.get_output_embeddings().weight
    for name, wide in result.named_parameters():
        wide.zero_()
        if name in narrow:  # the other ones belong to additional layers, which add nothing
            place = tuple(slice(size) for size in narrow[name].shape)
            wide[place] = narrow[name] * (ratio**0.5 if narrow[name].ndim == 1 else 1.0)
    result.model.embed_tokens.weight[:, -1] = CHANNEL
    result.model.norm.weight[-1] = 10.0 / CHANNEL
    result.lm_head.weight[old.vocab_size :, -1] = -100.0
    result.generation_config = model.generation_config
    return result
