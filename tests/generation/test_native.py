"""Native decoding gives the logits and the text of the original model, and leaves unsupported calls to it."""

import copy
import io
import json
import logging
import multiprocessing
import os
import threading
from functools import wraps

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config, tiny_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    StoppingCriteria,
    TextStreamer,
    pipeline,
)

from modeling_tinyllama import TinyLlamaForCausalLM
from tinystories.generation.native import engine, undo_native_decoding, use_native_decoding
from tinystories.generation.native.cache import PreallocatedCacheLayer


@pytest.fixture(autouse=True, params=[1, 3], ids=["1-thread", "3-threads"])
def threads(request, monkeypatch):
    monkeypatch.setattr(engine, "BYTES_PER_THREAD", 1)  # otherwise small models get one thread
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def original_calls(monkeypatch):
    """The number of new tokens of each call of the original forward."""
    calls = []
    for original in (TinyLlamaForCausalLM, LlamaForCausalLM):
        forward = original.forward

        @wraps(forward)  # `generate` inspects the names of its arguments
        def counted(self, input_ids=None, *args, _forward=forward, **kwargs):
            calls.append(input_ids.shape[1] if input_ids is not None else 0)
            return _forward(self, input_ids, *args, **kwargs)

        monkeypatch.setattr(original, "forward", counted)
    return calls


def pair(model=None, weights="float32", **changes):
    """A model, and a copy of it that decodes natively."""
    model = tiny_model(**changes) if model is None else model
    fast = use_native_decoding(copy.deepcopy(model), weights)
    assert fast._engine is not None
    return model, fast


@torch.no_grad()
def logits_of(model, ids, parts, **kwargs):
    """Logits after `ids` `[batch, length]`, which the model gets in parts of `parts` tokens."""
    cache, collected, place = DynamicCache(config=model.config), [], 0
    mask = kwargs.pop("attention_mask", None)
    for part in parts:
        end = place + part
        masked = {} if mask is None else {
            "attention_mask": mask[:, :end],
            "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)[:, place:end],
        }  # fmt: skip
        collected.append(model(input_ids=ids[:, place:end], past_key_values=cache, **masked, **kwargs).logits)
        place = end
    return torch.cat(collected, dim=1), cache


SHAPES = {
    "default": {},
    "whole heads rotated": {"partial_rotary_factor": 1.0},
    "a quarter rotated": {"partial_rotary_factor": 0.25, "hidden_size": 64},
    "every head its own keys": {"num_key_value_heads": 4},
    "one key for all heads": {"num_key_value_heads": 1},
    "untied head": {"tie_word_embeddings": False},
    "odd sizes": {"hidden_size": 54, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 37,
                  "vocab_size": 101, "partial_rotary_factor": 1.0},
    "heads of 2": {"hidden_size": 8, "intermediate_size": 3, "partial_rotary_factor": 1.0},
    "heads of 64": {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1},
    "heads of 128": {"hidden_size": 256, "num_attention_heads": 2, "num_key_value_heads": 2},
    "heads wider than the model": {"hidden_size": 32, "head_dim": 32},
    "one layer": {"num_hidden_layers": 1},
    "linear rope": {"rope_parameters": {"rope_type": "linear", "factor": 2.0}},
    "yarn": {"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}},
    "llama3 rope": {"rope_parameters": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                                        "high_freq_factor": 4.0, "original_max_position_embeddings": 16}},
    "dynamic rope": {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 16},
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_original_model(shape, original_calls):
    model, fast = pair(**SHAPES[shape])
    ids = random_ids(3, 24)
    parts = [5, 1, 1, 4, 1, 12]
    want, original_cache = logits_of(model, ids, parts)
    original_calls.clear()
    got, cache = logits_of(fast, ids, parts)
    assert original_calls == []
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(cache.layers, original_cache.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(ours.values, theirs.values, rtol=1e-4, atol=1e-4)


def test_logits_of_a_stock_llama(original_calls):
    config = tiny_config(partial_rotary_factor=1.0)
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
             "num_key_value_heads", "max_position_embeddings")  # fmt: skip
    llama = sharpen(LlamaForCausalLM(LlamaConfig(**{name: getattr(config, name) for name in names})))
    model, fast = pair(llama)
    ids = random_ids(2, 9)
    want, _ = logits_of(model, ids, [4, 1, 1, 3])
    original_calls.clear()
    torch.testing.assert_close(logits_of(fast, ids, [4, 1, 1, 3])[0], want, rtol=1e-4, atol=1e-4)
    assert original_calls == []


# Widths that are no multiple of a vector, over several chunks.
WIDE = {"hidden_size": 512, "num_attention_heads": 8, "intermediate_size": 707, "vocab_size": 203,
        "num_hidden_layers": 1}  # fmt: skip


@pytest.mark.parametrize(
    ("batch", "shape"), [*((batch, {}) for batch in (1, 2, 3, 4, 5, 7, 8, 13, 32, 33, 70)), (11, WIDE), (70, WIDE)]
)
def test_a_row_has_the_same_bits_in_any_batch(batch, shape):
    model, fast = pair(**shape)
    ids = random_ids(batch, 12)
    parts = [7, 1, 1, 3]
    got, _ = logits_of(fast, ids, parts)
    want = logits_of(model, ids, parts)[0]
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4 * want.abs().max().item())
    for row in {0, batch // 2, batch - 1}:
        assert torch.equal(logits_of(fast, ids[row : row + 1], [12])[0][0], got[row])


def test_a_row_has_the_same_bits_with_any_number_of_threads():
    _, fast = pair()
    ids, logits = random_ids(9, 20), []
    for count in (1, 2, 5):
        torch.set_num_threads(count)
        logits.append(logits_of(fast, ids, [17, 1, 2])[0])
    assert torch.equal(logits[0], logits[1]) and torch.equal(logits[0], logits[2])


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_left_padding_changes_nothing(weights):
    model, fast = pair(weights=weights)
    rows = [random_ids(1, length, seed=length) for length in (3, 10, 7)]
    ids = torch.cat([nn.functional.pad(row, (10 - row.shape[1], 0), value=1) for row in rows])
    mask = (ids != 1).long()
    new = random_ids(3, 4, seed=5)
    whole, whole_mask = torch.cat([ids, new], 1), torch.cat([mask, torch.ones_like(new)], 1)
    got, _ = logits_of(fast, whole, [10, 1, 3], attention_mask=whole_mask)
    assert got.isfinite().all()
    if weights == "float32":
        want, _ = logits_of(model, whole, [10, 1, 3], attention_mask=whole_mask)
        torch.testing.assert_close(got[whole_mask == 1], want[whole_mask == 1], rtol=1e-4, atol=1e-4)
    for index, row in enumerate(rows):
        alone, _ = logits_of(fast, torch.cat([row, new[index : index + 1]], 1), [row.shape[1], 1, 3])
        assert torch.equal(got[index, 10 - row.shape[1] :], alone[0])


def test_other_masks_use_the_original_forward(original_calls):
    model, fast = pair()
    ids, mask = random_ids(2, 6), torch.ones(2, 6, dtype=torch.long)
    mask[0, 2] = 0
    want, _ = logits_of(model, ids, [4, 1, 1], attention_mask=mask)
    original_calls.clear()
    got, _ = logits_of(fast, ids, [4, 1, 1], attention_mask=mask)
    assert original_calls == [4, 1, 1]
    torch.testing.assert_close(got, want)
    whole = torch.ones(2, 6, dtype=torch.bool)
    original_calls.clear()
    torch.testing.assert_close(
        logits_of(fast, ids, [6], attention_mask=whole.long())[0], logits_of(model, ids, [6])[0], rtol=1e-4, atol=1e-4
    )
    assert original_calls == [6]  # of the original model alone


def test_long_stories_to_the_context_length_and_beyond(original_calls):
    model, fast = pair(max_position_embeddings=1030)
    ids = random_ids(1, 1040)
    want, _ = logits_of(model, ids, [1020] + [1] * 20)
    original_calls.clear()
    got, _ = logits_of(fast, ids, [1020] + [1] * 20)
    assert original_calls == []
    torch.testing.assert_close(got, want, rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("keep", [0, 1, 2, 70, 100])
def test_logits_to_keep(keep):
    model, fast = pair(max_position_embeddings=128)
    ids = random_ids(3, 100)
    want, got = (logits_of(each, ids, [100], logits_to_keep=keep)[0] for each in (model, fast))
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-4)


def test_nan_stays_nan():
    """A NaN in a weight must not become a finite logit."""
    model, fast = pair()
    for each in (model, fast):
        with torch.no_grad():
            each.model.layers[0].mlp.gate_proj.weight[0] = torch.nan
    ids = random_ids(1, 4)
    assert logits_of(model, ids, [3, 1])[0].isnan().all()
    assert logits_of(fast, ids, [3, 1])[0].isnan().all()


# ---- generate

WAYS = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "beams that sample": {"num_beams": 2, "do_sample": True, "top_p": 0.8},
    "several beams returned": {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5},
    "top-p": {"do_sample": True, "top_p": 0.9, "top_k": 0},
    "top-k and top-p": {"do_sample": True, "top_p": 0.8, "top_k": 20, "temperature": 0.7},
    "several samples": {"do_sample": True, "num_return_sequences": 3},
    "penalty": {"repetition_penalty": 1.3},
    "no repeated pairs": {"no_repeat_ngram_size": 2},
    "chunked prompt": {"prefill_chunk_size": 3},
    "static cache": {"cache_implementation": "static"},
    "no cache": {"use_cache": False},
    "guidance": {"guidance_scale": 1.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_generate_gives_the_text_of_the_original_model(way):
    model, fast = pair()
    ids = random_ids(2, 7)
    ids[0, :3] = 1
    outputs = []
    for each in (model, fast):
        torch.manual_seed(0)
        outputs.append(each.generate(ids, attention_mask=(ids != 1).long(), max_new_tokens=30, **WAYS[way]))
    assert torch.equal(*outputs)


def test_generate_uses_the_native_code(original_calls):
    _, fast = pair()
    assert original_calls == [4]  # the comparison of logits, made once
    fast.generate(random_ids(2, 7), max_new_tokens=12, eos_token_id=None)
    assert original_calls == [4]


def test_assisted_decoding():
    model, fast = pair()
    draft = tiny_model(seed=0, num_hidden_layers=1)
    ids = random_ids(1, 6)
    want = model.generate(ids, max_new_tokens=30)
    assert torch.equal(fast.generate(ids, max_new_tokens=30, assistant_model=draft), want)
    assert torch.equal(fast.generate(ids, max_new_tokens=30, assistant_model=use_native_decoding(draft)), want)
    assert torch.equal(fast.generate(ids, max_new_tokens=30, prompt_lookup_num_tokens=3), want)


def test_scores_logits_attentions_and_hidden_states():
    model, fast = pair()
    settings = {"max_new_tokens": 6, "return_dict_in_generate": True, "output_scores": True, "output_logits": True}
    want, got = (each.generate(random_ids(2, 5), **settings) for each in (model, fast))
    for ours, theirs in zip(got.scores + got.logits, want.scores + want.logits, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert got.past_key_values.get_seq_length() == want.past_key_values.get_seq_length()
    settings = {**settings, "output_attentions": True, "output_hidden_states": True}
    model.set_attn_implementation("eager"), fast.set_attn_implementation("eager")
    want, got = (each.generate(random_ids(2, 5), **settings) for each in (model, fast))
    assert len(got.attentions) == 6 and len(got.hidden_states[0]) == 3
    torch.testing.assert_close(got.attentions[-1][-1], want.attentions[-1][-1])


def test_stopping_criteria_and_streamers(tiny_run, capsys):
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    model, fast = pair(AutoModelForCausalLM.from_pretrained(tiny_run))
    inputs = tokenizer("Once upon a time", return_tensors="pt", return_token_type_ids=False)

    class After(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            return torch.full((len(input_ids),), input_ids.shape[1] >= 15)

    assert fast.generate(**inputs, stopping_criteria=[After()]).shape[1] == 15
    printed = []
    for each in (model, fast):
        each.generate(**inputs, max_new_tokens=20, streamer=TextStreamer(tokenizer), do_sample=False)
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


@pytest.mark.parametrize("prompt", ["Once upon a time", "One day, a little", "The cat", "Tom and his mom went to"])
def test_a_trained_model_generates_the_same_stories(tiny_run, prompt):
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    model, fast = pair(AutoModelForCausalLM.from_pretrained(tiny_run))
    ids = tokenizer(prompt, return_tensors="pt").input_ids
    settings = {"max_new_tokens": 100, "do_sample": False, "repetition_penalty": 1.0}
    want = model.generate(ids, **settings)
    assert torch.equal(fast.generate(ids, **settings), want)
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        rounded = use_native_decoding(copy.deepcopy(model), "int8")(input_ids=want, past_key_values=cache).logits
        exact = model(input_ids=want).logits
    # Rounding may decide between nearly equal tokens, which changes the rest of a story; so each token is compared
    # after the same text.
    best = exact.topk(2).values
    clear = best[..., 0] - best[..., 1] > 0.3
    assert clear.float().mean() > 0.5
    assert torch.equal(rounded.argmax(-1)[clear], exact.argmax(-1)[clear])
    assert nn.functional.kl_div(rounded.log_softmax(-1), exact.log_softmax(-1), log_target=True,
                                reduction="none").sum(-1).mean() < 2e-3  # fmt: skip


def test_pipeline(tiny_run):
    tokenizer = AutoTokenizer.from_pretrained(tiny_run)
    model, fast = pair(AutoModelForCausalLM.from_pretrained(tiny_run))
    want, got = (
        pipeline("text-generation", model=each, tokenizer=tokenizer, device="cpu")(
            ["Once upon a time", "One day"], max_new_tokens=20, do_sample=False, batch_size=2
        )
        for each in (model, fast)
    )
    assert got == want


def test_a_cache_given_by_the_caller(original_calls):
    """The original model processes the prompt once; native decoding continues several copies of its cache."""
    model, fast = pair()
    prompt, rest = random_ids(1, 6), random_ids(1, 3, seed=1)
    with torch.no_grad():
        read = model(prompt, past_key_values=DynamicCache(config=model.config)).past_key_values
        ids = torch.cat([prompt, rest], 1)
        want = model.generate(ids, past_key_values=copy.deepcopy(read), max_new_tokens=10)
        original_calls.clear()
        for cache in (read, DynamicCache()):
            got = fast.generate(ids, past_key_values=copy.deepcopy(cache), max_new_tokens=10)
            assert torch.equal(got, want)
    assert original_calls == []


def test_native_and_original_forward_share_a_cache(original_calls):
    model, fast = pair()
    ids = random_ids(2, 12)
    want, _ = logits_of(model, ids, [12])
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        got = [each(input_ids=ids[:, at : at + 2], past_key_values=cache).logits
               for at, each in zip(range(0, 12, 2), (model, fast, fast, model, model, fast), strict=True)]  # fmt: skip
    torch.testing.assert_close(torch.cat(got, 1), want, rtol=1e-4, atol=1e-4)


# ---- the cache


def filled(kind, length=5):
    layer = kind()
    states = torch.randn(2, 3, length, 4, generator=torch.Generator().manual_seed(0))
    layer.update(states, -states)
    return layer


def test_preallocated_layers_behave_like_dynamic_layers():
    def same(change):
        layers = filled(PreallocatedCacheLayer), filled(DynamicCache().layer_class_to_replicate)
        for layer in layers:
            change(layer)
        ours, theirs = layers
        assert ours.get_seq_length() == theirs.get_seq_length()
        if theirs.get_seq_length():
            assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)

    more = torch.randn(2, 3, 70, 4, generator=torch.Generator().manual_seed(1))
    same(lambda layer: layer.crop(-2))
    same(lambda layer: (layer.crop(-2), layer.update(more, more)))
    same(lambda layer: [layer.update(more[:, :, i : i + 1], more[:, :, i : i + 1]) for i in range(70)])
    same(lambda layer: layer.reorder_cache(torch.tensor([1, 1])))
    same(lambda layer: layer.batch_select_indices(torch.tensor([1])))
    same(lambda layer: layer.batch_select_indices(torch.tensor([False, True])))
    same(
        lambda layer: (
            layer.batch_repeat_interleave(3),
            layer.update(more.repeat(3, 1, 1, 1), more.repeat(3, 1, 1, 1)),
        )
    )
    same(lambda layer: layer.reset())
    emptied = filled(DynamicCache().layer_class_to_replicate)
    emptied.reset()
    if not emptied.get_seq_length():  # older versions of transformers keep zeros
        same(lambda layer: (layer.reset(), layer.update(more[:1], more[:1])))

    def cut_by_hand(layer):
        layer.keys = layer.keys[:, :, :-2]
        layer.values = layer.values[:, :, :-2]

    same(cut_by_hand)
    try:
        filled(DynamicCache().layer_class_to_replicate).crop(2)
    except ValueError:
        with pytest.raises(ValueError, match="crop"):
            filled(PreallocatedCacheLayer).crop(2)
    else:  # in older versions of transformers it is the size to keep
        same(lambda layer: layer.crop(2))
        same(lambda layer: (layer.crop(2), layer.update(more, more)))


def test_gradients_through_a_natively_decoded_model():
    model, fast = pair()
    ids = random_ids(2, 8)
    for each in (model, fast):
        cache = DynamicCache(config=each.config)
        each(input_ids=ids[:, :5], past_key_values=cache)
        loss = sum(each(input_ids=ids[:, at : at + 1], past_key_values=cache).logits.square().sum() for at in (5, 6))
        loss.backward()
    torch.testing.assert_close(fast.lm_head.weight.grad, model.lm_head.weight.grad)


# ---- weights and settings that change


@pytest.mark.parametrize("weights", ["float32", "int8"])
def test_changed_weights_take_effect(weights, original_calls):
    model, fast = pair(weights=weights)
    ids, atol = random_ids(1, 8), 1e-4 if weights == "float32" else 0.5

    def check():
        fresh = use_native_decoding(copy.deepcopy(model), weights)
        assert torch.equal(logits_of(fast, ids, [5, 1, 2])[0], logits_of(fresh, ids, [5, 1, 2])[0])
        torch.testing.assert_close(logits_of(fast, ids, [8])[0], logits_of(model, ids, [8])[0], rtol=0, atol=atol)

    check()
    other = tiny_model(seed=1).state_dict()
    for each in (model, fast):
        each.load_state_dict(other)
    check()
    for each in (model, fast):
        each.load_state_dict(tiny_model(seed=2).state_dict(), assign=True)
        each.tie_weights()
    check()
    for each in (model, fast):  # training goes on
        each.train()
        optimizer = torch.optim.AdamW(each.parameters(), lr=0.01)
        each(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        each.eval()
    check()
    for each in (model, fast):
        each.resize_token_embeddings(100, mean_resizing=False)
        with torch.no_grad():
            each.lm_head.weight[96:] = 0.1
    assert logits_of(fast, ids, [8])[0].shape[-1] == 100
    check()


def test_replaced_and_wrapped_modules_are_respected(original_calls):
    _, fast = pair()
    ids = random_ids(1, 4)

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    before, _ = logits_of(fast, ids, [4])
    attention = fast.model.layers[1].self_attn
    plain = attention.o_proj
    attention.o_proj = Doubled(32, 32, bias=False)
    attention.o_proj.weight = plain.weight
    original_calls.clear()
    assert not torch.allclose(logits_of(fast, ids, [4])[0], before) and original_calls == [4]
    attention.o_proj = plain
    original_calls.clear()
    assert torch.equal(logits_of(fast, ids, [4])[0], before) and original_calls == []

    seen = []
    hook = fast.model.norm.register_forward_hook(lambda *inputs: seen.append(1))
    logits_of(fast, ids, [4])
    assert seen == [1]
    hook.remove()
    logits_of(fast, ids, [4])
    assert seen == [1] and original_calls == [4]


def test_lora(original_calls):
    peft = pytest.importorskip("peft")
    model, fast = pair()
    ids = random_ids(1, 6)
    settings = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    outputs = []
    for each in (model, fast):
        torch.manual_seed(0)
        adapted = peft.get_peft_model(each, settings).eval()
        outputs.append(adapted.generate(input_ids=ids, max_new_tokens=12))
    assert torch.equal(*outputs)
    merged = adapted.merge_and_unload()
    original_calls.clear()
    assert torch.equal(merged.generate(ids, max_new_tokens=12), outputs[0]) and original_calls == []


def test_unsupported_calls_use_the_original_forward(original_calls):
    model, fast = pair()
    ids = random_ids(1, 5)

    def goes_to_it(expected=True, **kwargs):
        original_calls.clear()
        inputs = {"input_ids": ids, "past_key_values": DynamicCache(config=fast.config), **kwargs}
        fast(**inputs)
        assert bool(original_calls) is expected

    goes_to_it()  # gradients
    with torch.no_grad():
        goes_to_it(False)
        goes_to_it(labels=ids)
        goes_to_it(output_hidden_states=True)
        goes_to_it(past_key_values=None)
        goes_to_it(use_cache=False)
        goes_to_it(input_ids=None, inputs_embeds=fast.model.embed_tokens(ids))
        goes_to_it(logits_to_keep=torch.tensor([1, 2]))
        fast.train()
        goes_to_it()
        fast.eval()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            goes_to_it()
        with pytest.raises(IndexError):
            fast(input_ids=ids + 1000, past_key_values=DynamicCache(config=fast.config))
        original_calls.clear()
        assert isinstance(fast(input_ids=ids, past_key_values=DynamicCache(), return_dict=False), tuple)
        assert original_calls == []
    with torch.inference_mode():
        goes_to_it(False)


# ---- the model is otherwise unchanged


def test_copies_pickles_and_saved_folders_have_the_original_class(tmp_path):
    model, fast = pair()
    assert isinstance(fast, TinyLlamaForCausalLM) and type(fast).__name__ == "TinyLlamaForCausalLM"
    twin = copy.deepcopy(fast)
    with torch.no_grad():
        twin.lm_head.weight.zero_()
    assert type(twin) is TinyLlamaForCausalLM
    assert not torch.equal(logits_of(fast, random_ids(1, 3), [3])[0], logits_of(twin, random_ids(1, 3), [3])[0])
    file = io.BytesIO()
    torch.save(fast, file)
    file.seek(0)
    assert type(torch.load(file, weights_only=False)) is TinyLlamaForCausalLM
    fast.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["architectures"] == ["TinyLlamaForCausalLM"]
    assert (tmp_path / "modeling_tinyllama.py").exists()
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))


def test_undo_native_decoding(original_calls):
    model, fast = pair()
    original_calls.clear()
    assert undo_native_decoding(fast) is fast and type(fast) is TinyLlamaForCausalLM and "_engine" not in vars(fast)
    assert undo_native_decoding(fast) is fast
    logits_of(fast, random_ids(1, 3), [3])
    assert original_calls == [3]
    assert use_native_decoding(use_native_decoding(fast), "int8")._engine.weights == "int8"


def test_moved_weights_keep_their_values(tmp_path):
    """Loaded weights are a memory-mapped file, which has no large pages."""
    large = {"vocab_size": 10_000, "hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 4}
    tiny_model(**large).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = list(model.parameters())
    use_native_decoding(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(ours is theirs for ours, theirs in zip(model.parameters(), parameters, strict=True))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    storages = [parameter.untyped_storage() for parameter in parameters]
    assert len({storage.data_ptr() for storage in storages}) == len(storages)  # otherwise not saved separately
    assert sum(storage.nbytes() for storage in storages) == sum(parameter.nbytes for parameter in parameters)
    model.save_pretrained(tmp_path)  # over the file that they came from
    again = AutoModelForCausalLM.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(value, before[name]) for name, value in again.items())
    ids = random_ids(1, 8)
    torch.testing.assert_close(
        logits_of(model, ids, [8])[0], logits_of(copy.deepcopy(model), ids, [8])[0], rtol=1e-4, atol=1e-4
    )
    model(input_ids=ids, labels=ids).loss.backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    assert not torch.equal(model.lm_head.weight, before["lm_head.weight"])


def test_weights_shared_between_processes_stay_shared():
    model = tiny_model(vocab_size=10_000, hidden_size=256, num_attention_heads=4, num_key_value_heads=4)
    model.share_memory()
    places = [parameter.data_ptr() for parameter in model.parameters()]
    use_native_decoding(model)
    assert [parameter.data_ptr() for parameter in model.parameters()] == places


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: model.bfloat16(), "bfloat16"),
        (lambda model: model.half(), "float16"),
        (lambda model: model.to("meta"), "on meta"),
        (lambda model: model.model, "TinyLlamaModel is not"),
        (lambda model: nn.Linear(2, 2), "Linear is not"),
    ],
)
def test_an_unsupported_model_is_unchanged_and_one_line_says_why(change, reason, caplog):
    model = change(tiny_model())
    with caplog.at_level(logging.WARNING):
        assert use_native_decoding(model) is model
    assert len(caplog.records) == 1 and reason in caplog.text and caplog.records[0].message.count("\n") == 0
    caplog.clear()
    assert use_native_decoding(model, warn=False) is model and not caplog.records


def test_remote_code_that_computes_something_else_is_detected(caplog):
    """Like a checkpoint with remote code."""
    model = tiny_model()

    class TinyLlamaMLP(type(model.model.layers[0].mlp)):
        def forward(self, hidden_states):
            return 1.1 * super().forward(hidden_states)

    model.model.layers[0].mlp.__class__ = TinyLlamaMLP
    modes = [module.training for module in model.train().modules()]
    use_native_decoding(model)
    assert type(model) is TinyLlamaForCausalLM and "does not reproduce this model's logits" in caplog.text
    assert [module.training for module in model.modules()] == modes


def test_unsupported_shapes(caplog):
    for changes, reason in (({"attention_bias": True}, "bias"), ({"mlp_bias": True}, "bias"),
                            ({"hidden_act": "gelu"}, "gelu")):  # fmt: skip
        caplog.clear()
        use_native_decoding(tiny_model(**changes))
        assert reason in caplog.text
    with pytest.raises(ValueError, match="float32, int8"):
        use_native_decoding(tiny_model(), "int4")


# ---- threads and processes


def test_two_threads_generate_at_once():
    model, fast = pair()
    prompts = [random_ids(1 + seed % 3, 5 + seed, seed) for seed in range(6)]
    want = [model.generate(ids, max_new_tokens=25, eos_token_id=None, pad_token_id=1) for ids in prompts]
    got = [None] * 6

    def generate(index):
        got[index] = fast.generate(prompts[index], max_new_tokens=25, eos_token_id=None, pad_token_id=1)

    workers = [threading.Thread(target=generate, args=(index,)) for index in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(got, want, strict=True))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_after_a_fork(threads):
    _, fast = pair()
    ids = random_ids(2, 6)
    want = fast.generate(ids, max_new_tokens=10)

    def generate(connection):
        torch.set_num_threads(threads)
        connection.send(fast.generate(ids, max_new_tokens=10).tolist())

    ours, theirs = multiprocessing.get_context("fork").Pipe()
    child = multiprocessing.get_context("fork").Process(target=generate, args=(theirs,))
    child.start()
    assert ours.poll(60)
    assert ours.recv() == want.tolist()
    child.join(60)
    assert child.exitcode == 0
    assert torch.equal(fast.generate(ids, max_new_tokens=10), want)


# ---- where it is used


def test_stories_are_generated_natively_and_the_model_is_restored(tiny_run, original_calls):
    from tinystories.generation.batch import generate_stories
    from tinystories.generation.generate import generate_story
    from tinystories.runs.loading import load_model

    model, tokenizer = load_model(str(tiny_run))
    model.to("cpu")
    original_calls.clear()
    story = generate_story(model, tokenizer, "Once upon a time", preset="balanced", seed=1, max_new_tokens=20)
    outputs = generate_stories(model, tokenizer, ["Once upon a time", "One day"], preset="greedy", max_new_tokens=9,
                        progress=False)  # fmt: skip
    assert original_calls == [4] and type(model) is TinyLlamaForCausalLM  # the comparison of logits, made once
    assert story.startswith("Once upon a time") and len(outputs) == 2
    fast = use_native_decoding(model)
    generate_story(fast, tokenizer, "Once", preset="greedy", max_new_tokens=5)
    assert fast._engine is not None


def test_int8_weights_are_an_option(tiny_run, tmp_path, capsys):
    from tinystories.cli import main
    from tinystories.generation.generate import generate_story
    from tinystories.runs.loading import load_model

    command = ["generate", str(tiny_run), "Once upon a time", "--preset", "greedy", "--max-new-tokens", "12"]
    assert main([*command, "--dtype", "int8"]) == 0
    outputs = capsys.readouterr().out.strip()
    model, tokenizer = load_model(str(tiny_run), "int8")
    assert model._engine.weights == "int8"
    assert outputs == generate_story(model, tokenizer, "Once upon a time", preset="greedy", max_new_tokens=12)

    model, tokenizer = load_model(str(tiny_run))
    for each in (model.to(torch.bfloat16), tokenizer):
        each.save_pretrained(tmp_path)
    command[1] = str(tmp_path)
    assert main([*command, "--dtype", "int8"]) == 2 and "bfloat16, not float32" in capsys.readouterr().err
    assert main([*command, "--dtype", "int4"]) == 2 and "--dtype int4 is not supported" in capsys.readouterr().err
