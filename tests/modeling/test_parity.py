"""TinyLlama against the models of transformers that it equals: Llama with whole heads rotated, Phi-3 below that."""

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForQuestionAnswering,
    LlamaForSequenceClassification,
    LlamaForTokenClassification,
    Phi3Config,
    Phi3ForCausalLM,
)

from modeling_tinyllama import (
    TinyLlamaForCausalLM,
    TinyLlamaForQuestionAnswering,
    TinyLlamaForSequenceClassification,
    TinyLlamaForTokenClassification,
)


SHAPES = {
    "one key/value head each": {"num_key_value_heads": 4},
    "grouped heads": {"num_key_value_heads": 2},
    "one key/value head": {"num_key_value_heads": 1},
    "seven heads": {"hidden_size": 56, "num_attention_heads": 7, "num_key_value_heads": 7, "intermediate_size": 150},
    "wide heads": {"head_dim": 24},
    "one layer, untied": {"num_hidden_layers": 1, "tie_word_embeddings": False},
    "other theta, eps and activation": {"rope_theta": 321.0, "rms_norm_eps": 1e-3, "hidden_act": "gelu"},
}
ROPES = {
    "linear": {"rope_type": "linear", "factor": 3.0},
    "dynamic": {"rope_type": "dynamic", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
}
BY_NAME = [pytest.param(value, id=name) for name, value in SHAPES.items()]


def shared_settings(config, skip=()):
    """What the two configurations have in common."""
    skip = {"model_type", "transformers_version", "auto_map", "rope_parameters", *skip}
    return {name: value for name, value in config.to_dict().items() if name not in skip}


def llama_like(ours, model_class=LlamaForCausalLM):
    """Stock Llama with the weights of `ours`, name for name."""
    rope = {k: v for k, v in ours.config.rope_parameters.items() if k != "partial_rotary_factor"}
    llama = model_class(LlamaConfig(**shared_settings(ours.config), rope_parameters=rope)).eval()
    llama.load_state_dict(ours.state_dict(), strict=True)
    return llama


def phi3_like(ours):
    """Stock Phi-3 with the weights of `ours`: its projections are fused."""
    config = ours.config
    rope = dict(config.rope_parameters)
    settings = shared_settings(config, skip=("attention_bias", "mlp_bias"))
    if "original_max_position_embeddings" in rope:
        settings["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    phi3 = Phi3ForCausalLM(Phi3Config(**settings, rope_parameters=rope)).eval()
    weights = ours.state_dict()
    for i in range(config.num_hidden_layers):
        attention, mlp = f"model.layers.{i}.self_attn", f"model.layers.{i}.mlp"
        parts = [weights.pop(f"{attention}.{name}_proj.weight") for name in "qkv"]
        weights[f"{attention}.qkv_proj.weight"] = torch.cat(parts)
        parts = [weights.pop(f"{mlp}.{name}_proj.weight") for name in ("gate", "up")]
        weights[f"{mlp}.gate_up_proj.weight"] = torch.cat(parts)
    phi3.load_state_dict(weights, strict=True)
    return phi3


def assert_same_function(ours, theirs, length=20):
    """Logits, loss and gradient of the embedding; padded rows; and a greedy continuation."""
    ids = random_ids(3, length)
    mask = torch.ones_like(ids)
    mask[1, :4] = 0
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)
        seen = mask.bool()
        padded = ours(ids, attention_mask=mask).logits[seen], theirs(ids, attention_mask=mask).logits[seen]
        torch.testing.assert_close(*padded, atol=1e-5, rtol=0)

    labels = ids.clone()
    labels[0, :7] = -100
    gradients = []
    for model in (ours, theirs):
        loss = model(ids, labels=labels).loss
        loss.backward()
        gradients.append((loss.detach(), model.model.embed_tokens.weight.grad))
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-5, rtol=1e-4)

    options = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    assert torch.equal(ours.generate(ids, **options), theirs.generate(ids, **options))


@pytest.mark.parametrize("shape", BY_NAME)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_llama(shape, attention):
    config = tiny_config(partial_rotary_factor=1.0, attn_implementation=attention, **shape)
    ours = sharpen(TinyLlamaForCausalLM(config))
    theirs = llama_like(ours)
    assert theirs.state_dict().keys() == ours.state_dict().keys()
    theirs.set_attn_implementation(attention)
    assert_same_function(ours, theirs)


@pytest.mark.parametrize("biases", [{"attention_bias": True}, {"mlp_bias": True}], ids=str)
def test_llama_with_biases(biases):
    ours = sharpen(TinyLlamaForCausalLM(tiny_config(partial_rotary_factor=1.0, **biases)))
    assert_same_function(ours, llama_like(ours))


@pytest.mark.parametrize("rope", ROPES.values(), ids=ROPES)
@pytest.mark.parametrize("length", [20, 100], ids=["short", "past max_position_embeddings"])
def test_llama_with_extended_context(rope, length):
    config = tiny_config(partial_rotary_factor=1.0, rope_parameters=rope)
    ours = sharpen(TinyLlamaForCausalLM(config))
    assert_same_function(ours, llama_like(ours), length)


@pytest.mark.parametrize("shape", BY_NAME)
@pytest.mark.parametrize("factor", [0.5, 0.25, 1.0])
def test_phi3(shape, factor):
    if factor == 0.25 and shape.get("hidden_size") != 56 and "head_dim" not in shape:
        shape = {**shape, "head_dim": 16}
    # In float64: the fused products of Phi-3 are rounded in another order, which differs from processor to processor.
    ours = sharpen(TinyLlamaForCausalLM(tiny_config(partial_rotary_factor=factor, **shape))).double()
    assert_same_function(ours, phi3_like(ours).double())


@pytest.mark.parametrize("length", [12, 40], ids=["short factors", "long factors"])
def test_phi3_with_long_rope(length):
    rope = {
        "rope_type": "longrope",
        "short_factor": [1.0, 1.5],
        "long_factor": [2.0, 5.0],
        "factor": 4.0,
        "original_max_position_embeddings": 24,
    }
    ours = sharpen(TinyLlamaForCausalLM(tiny_config(rope_parameters=rope)))
    theirs = phi3_like(ours)
    ids = random_ids(2, length)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, atol=1e-5, rtol=0)


def test_a_partial_rotary_factor_is_not_llama():
    ours = sharpen(TinyLlamaForCausalLM(tiny_config(partial_rotary_factor=0.5)))
    theirs = llama_like(ours)
    ids = random_ids(2, 20)
    with torch.no_grad():
        assert (ours(ids).logits - theirs(ids).logits).abs().max() > 1e-2


@pytest.mark.parametrize(
    "ours_class, theirs_class, outputs",
    [
        (TinyLlamaForSequenceClassification, LlamaForSequenceClassification, ["logits"]),
        (TinyLlamaForTokenClassification, LlamaForTokenClassification, ["logits"]),
        (TinyLlamaForQuestionAnswering, LlamaForQuestionAnswering, ["start_logits", "end_logits"]),
    ],
    ids=["sequence", "token", "question"],
)
def test_llama_heads(ours_class, theirs_class, outputs):
    ours = sharpen(ours_class(tiny_config(partial_rotary_factor=1.0, num_labels=3)))
    rope = {"rope_type": "default", "rope_theta": 10_000.0}
    theirs = theirs_class(LlamaConfig(**shared_settings(ours.config), rope_parameters=rope)).eval()
    # Llama keeps an old name for the base of this one head.
    prefix = theirs.base_model_prefix
    theirs.load_state_dict({k.replace("model.", f"{prefix}.", 1): v for k, v in ours.state_dict().items()})
    ids = random_ids(3, 12)
    ids[1, -3:] = ours.config.pad_token_id
    with torch.no_grad():
        ours, theirs = ours(ids, attention_mask=ids.ne(1)), theirs(ids, attention_mask=ids.ne(1))
    for name in outputs:
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), atol=1e-5, rtol=0)
