"""How the model behaves: attention back ends, packed rows, caches and generation, training features, rotary types,
heads, saving and loading."""

import json
import logging
import warnings

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config, tiny_model
from packaging.version import Version
from torch import nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DynamicCache,
    StaticCache,
    Trainer,
    TrainingArguments,
)
from transformers.masking_utils import flash_attention_mask

from modeling_tinyllama import (
    TinyLlamaForCausalLM,
    TinyLlamaForQuestionAnswering,
    TinyLlamaForSequenceClassification,
    TinyLlamaForTokenClassification,
    TinyLlamaModel,
)
from modeling_tinyllama.modeling_tinyllama import TinyLlamaRMSNorm, apply_rotary_pos_emb


def reference_flash(module, query, key, value, attention_mask, scaling=None, dropout=0.0, **kwargs):
    """Flash attention in plain torch: stories end at `cu_seq_lens_q`, and packed rows are detected by `position_ids`
    only if the batch is a single row."""
    batch, heads, length, _ = query.shape
    key, value = (states.repeat_interleave(heads // key.shape[1], dim=1) for states in (key, value))
    story = torch.zeros(batch, length, dtype=torch.long)
    position_ids, offsets = kwargs.get("position_ids"), kwargs.get("cu_seq_lens_q")
    if offsets is not None:
        sizes = offsets.diff().long()
        assert sizes.max() == kwargs["max_length_q"] == kwargs["max_length_k"]
        story = torch.arange(len(sizes)).repeat_interleave(sizes).view(batch, length)
    elif batch == 1 and position_ids is not None and length > 1:
        story = (position_ids == 0).cumsum(-1).expand(1, -1)
    allowed = (story[:, :, None] == story[:, None]) & torch.ones(length, length, dtype=torch.bool).tril()
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~allowed[:, None], float("-inf"))
    return (scores.softmax(-1) @ value).transpose(1, 2), None


AttentionInterface.register("flash_reference", reference_flash)
AttentionMaskInterface.register("flash_reference", flash_attention_mask)

BACK_ENDS = ["sdpa", "eager", "flex_attention"]


def choose(model, back_end):
    if back_end == "flash_reference":
        # `set_attn_implementation` would look for a kernel to download behind a name with "flash" in it.
        model.config._attn_implementation = back_end
    else:
        model.set_attn_implementation(back_end)


@pytest.fixture
def attention():
    """Run flex attention uncompiled: compiling it takes half a minute and does not change the result."""
    with torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def close(actual, expected, atol=1e-4):
    torch.testing.assert_close(actual, expected, atol=atol, rtol=0)


# ---- attention back ends


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_attention_implementations_agree(back_end, attention, tmp_path):
    model = tiny_model()
    ids = random_ids(3, 20)
    mask = torch.ones_like(ids)
    mask[0, :6], mask[1, -5:] = 0, 0
    with torch.no_grad():
        plain, padded = model(ids).logits, model(ids, attention_mask=mask).logits

        model.save_pretrained(tmp_path)
        chosen = AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation=back_end)
        model.set_attn_implementation(back_end)
        for other in (chosen, model):
            assert other.config._attn_implementation == back_end
            close(other(ids).logits, plain)
            close(other(ids, attention_mask=mask).logits[mask.bool()], padded[mask.bool()])


def test_a_row_of_padding_only_gives_no_nan(attention):
    model = tiny_model()
    ids = random_ids(2, 8)
    mask = torch.ones_like(ids)
    mask[0] = 0
    for back_end in BACK_ENDS:
        model.set_attn_implementation(back_end)
        with torch.no_grad():
            assert model(ids, attention_mask=mask).logits.isfinite().all(), back_end


def test_attention_weights_and_hidden_states_on_request():
    model = tiny_model(attn_implementation="eager")
    with torch.no_grad():
        out = model(random_ids(2, 9), output_attentions=True, output_hidden_states=True)
    assert [a.shape for a in out.attentions] == [(2, 4, 9, 9)] * 2
    close(out.attentions[0].sum(-1), torch.ones(2, 4, 9))
    assert out.attentions[1].triu(1).abs().max() == 0
    assert [h.shape for h in out.hidden_states] == [(2, 9, 32)] * 3
    close(model.lm_head(out.hidden_states[-1]), out.logits)
    assert model(random_ids(2, 9)).attentions is None


def test_logits_to_keep():
    model = tiny_model()
    ids = random_ids(2, 9)
    with torch.no_grad():
        full = model(ids).logits
        close(model(ids, logits_to_keep=1).logits, full[:, -1:])
        close(model(ids, logits_to_keep=4).logits, full[:, -4:])
        close(model(ids, logits_to_keep=torch.tensor([0, 5])).logits, full[:, [0, 5]])
        each = torch.tensor([[1, 2], [7, 8]])
        close(model(ids, logits_to_keep=each).logits, full[torch.arange(2)[:, None], each])
        mask = torch.rand(2, 9) > 0.5
        close(model(ids, logits_to_keep=mask).logits, full[mask])


def test_exactly_one_of_input_ids_and_inputs_embeds():
    model = tiny_model()
    ids = random_ids(1, 4)
    close(model(inputs_embeds=model.model.embed_tokens(ids)).logits, model(ids).logits, atol=0)
    with pytest.raises(ValueError, match="exactly one"):
        model()
    with pytest.raises(ValueError, match="exactly one"):
        model(ids, inputs_embeds=model.model.embed_tokens(ids))


# ---- packed rows: position_ids restart within a row, and stories do not attend to each other

PACKED = [[7, 13], [12, 3, 5], [20]]


def packed_rows():
    """Ids and positions `[3, 20]` of six stories."""
    ids = random_ids(len(PACKED), 20)
    return ids, torch.stack([torch.cat([torch.arange(size) for size in row]) for row in PACKED])


def each_story_alone(model, ids):
    rows = [
        torch.cat([model(story, use_cache=False).logits for story in row.unsqueeze(0).split(sizes, dim=1)], dim=1)
        for row, sizes in zip(ids, PACKED, strict=True)
    ]
    return torch.cat(rows)


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("back_end", [*BACK_ENDS, "flash_reference"])
def test_packed_documents_do_not_attend_to_each_other(back_end, training, attention):
    model = tiny_model()
    ids, position_ids = packed_rows()
    assert model.config.use_cache
    with torch.no_grad():
        alone = each_story_alone(model, ids)
        choose(model, back_end)
        model.train(training)
        packed = model(ids, position_ids=position_ids)
    assert packed.past_key_values is not None
    close(packed.logits, alone, atol=1e-5)


@pytest.mark.parametrize("back_end", BACK_ENDS)
@pytest.mark.parametrize("spoiled_by", ["mask", "cache", "no positions"])
def test_the_packing_test_detects_missing_document_masking(back_end, spoiled_by, attention):
    model = tiny_model()
    ids, position_ids = packed_rows()
    spoiled = {
        "mask": {"position_ids": position_ids, "attention_mask": torch.ones_like(ids)},
        "cache": {"position_ids": position_ids, "past_key_values": DynamicCache(config=model.config)},
        "no positions": {},
    }[spoiled_by]
    with torch.no_grad():
        alone = each_story_alone(model, ids)
        model.set_attn_implementation(back_end)
        assert (model(ids, **spoiled).logits - alone).abs().max() > 1e-2


def test_position_ids_of_one_row_apply_to_the_batch(attention):
    model = tiny_model()
    ids = random_ids(2, 20)
    position_ids = packed_rows()[1][:1]
    for back_end in ("sdpa", "flash_reference"):
        choose(model, back_end)
        with torch.no_grad():
            expected = model(ids, position_ids=position_ids.expand(2, -1)).logits
            close(model(ids, position_ids=position_ids).logits, expected, atol=0)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
def test_packed_gradients_equal_those_of_single_documents(checkpointing):
    model = tiny_model().train()
    ids, position_ids = packed_rows()
    labels = torch.where(position_ids == 0, -100, ids)
    count = (labels != -100).sum()

    for row, sizes in zip(ids, PACKED, strict=True):
        for story in row.unsqueeze(0).split(sizes, dim=1):
            model(story, labels=story, num_items_in_batch=count).loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}

    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model(ids, position_ids=position_ids, labels=labels).loss.backward()
    for name, parameter in model.named_parameters():
        close(parameter.grad, expected[name], atol=1e-5)


# ---- caches


# Not flex attention with a static cache: transformers builds its mask from a length that the cache has already
# increased, also for Llama.
@pytest.mark.parametrize(
    "kind, back_end", [("static", "sdpa"), ("static", "eager")] + [("dynamic", b) for b in BACK_ENDS]
)
def test_cached_decoding_equals_recomputing_the_prefix(kind, back_end, attention):
    model = tiny_model(attn_implementation=back_end)
    ids = random_ids(2, 14)
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=20)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        # A prompt, a chunk, then token by token.
        close(model(ids[:, :5], past_key_values=cache).logits, whole[:, :5])
        close(model(ids[:, 5:8], past_key_values=cache).logits, whole[:, 5:8])
        for i in range(8, 14):
            step = model(ids[:, i : i + 1], past_key_values=cache).logits
            close(step, whole[:, i : i + 1])
            close(step[:, 0], model(ids[:, : i + 1], use_cache=False).logits[:, -1])


def test_use_cache_returns_the_cache():
    model = tiny_model()
    ids = random_ids(2, 6)
    cache = model(ids).past_key_values
    assert cache.get_seq_length() == 6
    assert cache.layers[0].keys.shape == (2, 2, 6, 8)
    assert model(ids, use_cache=False).past_key_values is None
    model.config.use_cache = False
    assert model(ids).past_key_values is None


@pytest.mark.parametrize("back_end", BACK_ENDS)
def test_left_padded_batch_equals_single_prompts(back_end, attention):
    model = tiny_model(attn_implementation=back_end)
    prompts = [random_ids(1, size, seed=size) for size in (3, 8, 5)]
    ids = torch.full((3, 8), model.config.pad_token_id)
    for row, prompt in enumerate(prompts):
        ids[row, 8 - prompt.shape[1] :] = prompt
    mask = (ids != model.config.pad_token_id).long()
    options = {"max_new_tokens": 10, "do_sample": False, "eos_token_id": None}
    together = model.generate(ids, attention_mask=mask, **options)
    for row, prompt in enumerate(prompts):
        alone = model.generate(prompt, attention_mask=torch.ones_like(prompt), **options)
        assert torch.equal(together[row, 8:], alone[0, prompt.shape[1] :])


# ---- generation


def greedy(model, ids, count, **options):
    return model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=count, do_sample=False, eos_token_id=None, **options
    )


def greedy_by_hand(model, ids, count):
    for _ in range(count):
        with torch.no_grad():
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    return ids


@pytest.mark.parametrize("cache", [None, "dynamic", "static", "offloaded", "no cache"])
def test_greedy_generation(cache):
    model = tiny_model()
    ids = random_ids(2, 5)
    options = {"use_cache": False} if cache == "no cache" else {"cache_implementation": cache}
    if cache == "offloaded" and not torch.cuda.is_available():
        pytest.skip("offloads from an accelerator")
    if cache == "offloaded":
        model, ids = model.cuda(), ids.cuda()
    assert torch.equal(greedy(model, ids, 12, **options), greedy_by_hand(model, ids, 12))


def test_quantized_cache_runs():
    pytest.importorskip("optimum.quanto")
    model = tiny_model(hidden_size=256, head_dim=64)
    ids = random_ids(1, 5)
    options = {"cache_implementation": "quantized", "cache_config": {"backend": "quanto", "nbits": 4}}
    assert greedy(model, ids, 6, **options).shape == (1, 11)


def test_generation_stops_at_the_end_of_a_story():
    model = tiny_model()
    ids = random_ids(1, 5)
    third = greedy_by_hand(model, ids, 3)[0, -1].item()
    stopped = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=third)
    assert stopped[0, -1] == third
    assert stopped.shape[1] <= 8


def test_beam_search_finds_a_sequence_at_least_as_likely_as_greedy():
    model = tiny_model()
    ids = random_ids(2, 5)
    out = greedy(model, ids, 8, num_beams=4, return_dict_in_generate=True, output_scores=True)

    def log_likelihood(sequences):
        with torch.no_grad():
            logits = model(sequences, use_cache=False).logits[:, 4:-1].log_softmax(-1)
        return logits.gather(-1, sequences[:, 5:, None]).sum((1, 2))

    found = log_likelihood(out.sequences)
    close(out.sequences_scores * 8, found)
    assert (found >= log_likelihood(greedy_by_hand(model, ids, 8)) - 1e-4).all()


def test_assisted_decoding_gives_the_same_tokens():
    model, assistant = tiny_model(), tiny_model(num_hidden_layers=1, seed=1)
    ids = random_ids(1, 5)
    expected = greedy_by_hand(model, ids, 14)
    assert torch.equal(greedy(model, ids, 14, assistant_model=assistant), expected)
    assert torch.equal(greedy(model, ids, 14, assistant_model=model), expected)
    repeating = ids.repeat(1, 3)
    assert torch.equal(greedy(model, repeating, 14, prompt_lookup_num_tokens=3), greedy_by_hand(model, repeating, 14))


def test_generation_from_embeddings():
    model = tiny_model()
    ids = random_ids(2, 5)
    out = greedy(model, ids, 8, inputs_embeds=model.get_input_embeddings()(ids))
    assert torch.equal(out, greedy_by_hand(model, ids, 8))
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    only_new = model.generate(inputs_embeds=model.get_input_embeddings()(ids), **options)
    assert torch.equal(only_new, greedy_by_hand(model, ids, 8)[:, 5:])


def test_sampling_follows_the_seed():
    model = tiny_model()
    ids = random_ids(1, 5)

    def sample(seed):
        torch.manual_seed(seed)
        return model.generate(ids, max_new_tokens=12, do_sample=True, top_k=50, top_p=0.95, temperature=0.8).tolist()

    assert sample(3) == sample(3)
    assert len({str(sample(seed)) for seed in range(4)}) > 1


def test_generation_beyond_max_position_embeddings_warns_once(caplog):
    model = tiny_model(max_position_embeddings=16)
    ids = random_ids(1, 40)
    with torch.no_grad():
        logits = model(ids).logits
        # Rotary positions are relative, so an offset of all positions changes nothing.
        close(model(ids, position_ids=torch.arange(40)[None] + 1000).logits, logits, atol=1e-3)
    for logger in ("transformers", "transformers.generation.stopping_criteria"):
        logging.getLogger(logger).addHandler(caplog.handler)
    logging.Logger.warning_once.cache_clear()  # another test may have caused the same warning
    try:
        assert torch.equal(greedy(model, ids[:, :10], 20), greedy_by_hand(model, ids[:, :10], 20))
    finally:
        for logger in ("transformers", "transformers.generation.stopping_criteria"):
            logging.getLogger(logger).removeHandler(caplog.handler)
    assert len({record.message for record in caplog.records if "maximum length (16)" in record.message}) == 1


# ---- compiling and exporting


@pytest.fixture
def fresh_compiler():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def check_compiled_training(model, back_end, **inputs):
    """One whole graph forward and backward, with the loss and gradients of the uncompiled model."""
    results = []
    for run in (model, torch.compile(model, fullgraph=True, backend=back_end)):
        model.zero_grad()
        out = run(**inputs)
        out.loss.backward()
        results.append((out.loss.detach(), out.logits.detach(), [p.grad.clone() for p in model.parameters()]))
    close(results[0], results[1], atol=1e-5)
    return results[1][1]


@pytest.mark.slow
def test_compiled_training_in_one_graph(fresh_compiler):
    model = tiny_model().train()
    ids, position_ids = packed_rows()
    check_compiled_training(model, "aot_eager", input_ids=ids, labels=ids)
    packed = check_compiled_training(model, "aot_eager", input_ids=ids, labels=ids, position_ids=position_ids)
    with torch.no_grad():
        close(packed, each_story_alone(model, ids), atol=1e-5)


@pytest.mark.slow
def test_compiled_training_with_inductor(fresh_compiler):
    model = tiny_model().train()
    ids, position_ids = packed_rows()
    check_compiled_training(model, "inductor", input_ids=ids, labels=ids)
    packed = check_compiled_training(model, "inductor", input_ids=ids, labels=ids, position_ids=position_ids)
    with torch.no_grad():
        close(packed, each_story_alone(model, ids), atol=1e-5)


@pytest.mark.slow
def test_flex_attention_compiled(fresh_compiler):
    model = tiny_model()
    ids, position_ids = packed_rows()
    with torch.no_grad():
        plain, alone = model(ids).logits, each_story_alone(model, ids)
        model.set_attn_implementation("flex_attention")
        close(model(ids).logits, plain)
        close(model(ids, position_ids=position_ids).logits, alone, atol=1e-5)


def test_compiled_decoding_with_a_static_cache(fresh_compiler):
    model = tiny_model()
    ids = random_ids(2, 12)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    cache = StaticCache(model.config, max_cache_len=16)
    with torch.no_grad():
        whole = model(ids, use_cache=False).logits
        close(compiled(ids[:, :5], past_key_values=cache).logits, whole[:, :5])
        for i in range(5, 12):
            close(compiled(ids[:, i : i + 1], past_key_values=cache).logits, whole[:, i : i + 1])


@pytest.mark.slow
def test_compiled_generation_with_a_static_cache(fresh_compiler):
    model = tiny_model()
    ids = random_ids(2, 5)
    expected = greedy_by_hand(model, ids, 10)
    model.forward = torch.compile(model.forward, fullgraph=True, backend="aot_eager")
    assert torch.equal(greedy(model, ids, 10, cache_implementation="static"), expected)


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.12"), reason="cannot simplify min(8 n, 16 n) to 8 n, for any model"
)
def test_export():
    model = tiny_model()
    ids = random_ids(2, 7)
    length = torch.export.Dim("length", min=2, max=60)
    exported = torch.export.export(
        model, (ids,), {"use_cache": False}, dynamic_shapes={"input_ids": {1: length}, "use_cache": None}, strict=False
    ).module()
    for size in (7, 30):
        ids = random_ids(2, size)
        with torch.no_grad():
            close(exported(ids, use_cache=False).logits, model(ids).logits)


# ---- training


def test_loss_predicts_the_next_token_and_ignores_minus_100():
    model = tiny_model()
    ids = random_ids(3, 10)
    labels = ids.clone()
    labels[0, :4], labels[2, 6:] = -100, -100
    with torch.no_grad():
        out = model(ids, labels=labels)
    log_probabilities = out.logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    counted = labels[:, 1:] != -100
    close(out.loss, -log_probabilities[counted].mean(), atol=1e-5)
    with torch.no_grad():
        close(model(ids, labels=labels, num_items_in_batch=7).loss, -log_probabilities[counted].sum() / 7, atol=1e-4)


def test_accumulated_gradients_are_those_of_the_full_batch():
    model = tiny_model().train()
    ids = random_ids(4, 12)
    labels = ids.clone()
    labels[0, 3:], labels[1, :9], labels[3, 5:7] = -100, -100, -100
    count = (labels[:, 1:] != -100).sum()

    full = model(ids, labels=labels).loss
    full.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    parts = [model(i[None], labels=y[None], num_items_in_batch=count).loss for i, y in zip(ids, labels, strict=True)]
    for part in parts:
        part.backward()
    close(sum(parts).detach(), full.detach(), atol=1e-5)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        close(parameter.grad, gradient, atol=1e-6)


def test_trainer_accumulates_exactly(tmp_path):
    ids = random_ids(8, 12)
    labels = ids.clone()
    labels[::2, 2:] = -100  # so that the mean of the parts' means is another number
    data = [{"input_ids": i, "labels": y} for i, y in zip(ids, labels, strict=True)]
    trained = []
    for batch, parts in ((4, 1), (1, 4)):
        model = tiny_model()
        arguments = TrainingArguments(
            tmp_path,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=parts,
            max_steps=2,
            learning_rate=0.1,
            optim="sgd",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=data)
        trained.append((trainer.train().training_loss, model.state_dict()))
    assert trained[0][0] == pytest.approx(trained[1][0], abs=1e-4)
    close(trained[0][1], trained[1][1], atol=1e-5)


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["non-reentrant", "reentrant"])
def test_gradient_checkpointing_gives_the_same_gradients(use_reentrant):
    model = tiny_model().train()
    ids = random_ids(2, 10)
    model(ids, labels=ids).loss.backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    assert model.is_gradient_checkpointing
    runs = []
    handle = model.model.layers[0].self_attn.register_forward_hook(lambda *_: runs.append(1))
    model(ids, labels=ids).loss.backward()
    handle.remove()
    assert len(runs) == 2  # forward, and once more for the backward
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        close(parameter.grad, gradient, atol=1e-6)
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@pytest.mark.parametrize("which", ["attention_dropout", "resid_pdrop", "embd_pdrop"])
def test_dropout_only_in_training(which):
    model = tiny_model(**{which: 0.5})
    ids = random_ids(2, 10)
    for back_end in ("sdpa", "eager"):
        model.set_attn_implementation(back_end)
        with torch.no_grad():
            close(model.eval()(ids).logits, model(ids).logits, atol=0)
            assert (model.train()(ids).logits - model(ids).logits).abs().max() > 1e-2


def test_overfits_a_sequence():
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(tiny_config())
    ids = random_ids(1, 24)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        model(ids, labels=ids).loss.backward()
        optimizer.step()
    assert torch.equal(greedy(model.eval(), ids[:, :4], 20), ids)


def test_lora(tmp_path):
    peft = pytest.importorskip("peft")
    model = tiny_model()
    ids = random_ids(2, 10)
    before = model(ids).logits.detach()
    adapted = peft.get_peft_model(
        model,
        peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False),
    )
    trainable = {name for name, p in adapted.named_parameters() if p.requires_grad}
    assert trainable and all("lora_" in name for name in trainable)
    adapted.gradient_checkpointing_enable()
    adapted.enable_input_require_grads()
    adapted.train()(ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in adapted.parameters() if p.requires_grad)
    adapted.gradient_checkpointing_disable()
    adapted.eval()

    with torch.no_grad():
        changed = adapted(ids).logits
        assert (changed - before).abs().max() > 1e-3
        adapted.save_pretrained(tmp_path)
        again = peft.PeftModel.from_pretrained(tiny_model(), tmp_path).eval()
        close(again(ids).logits, changed, atol=1e-5)
        close(again.merge_and_unload()(ids).logits, changed)
    assert adapted.generate(input_ids=ids, max_new_tokens=3).shape[1] <= 13


# ---- embeddings and head


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tied_and_untied_heads(tied, tmp_path):
    model = tiny_model(tie_word_embeddings=tied)
    shared = model.lm_head.weight is model.model.embed_tokens.weight
    assert shared == tied
    model.save_pretrained(tmp_path)
    loaded = TinyLlamaForCausalLM.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == tied
    ids = random_ids(2, 8)
    with torch.no_grad():
        close(loaded(ids).logits, model(ids).logits, atol=0)
    assert model.num_parameters() == loaded.num_parameters()


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("size", [130, 50])
def test_resizing_the_vocabulary(tied, size, tmp_path):
    model = tiny_model(tie_word_embeddings=tied)
    ids = random_ids(2, 8) % 50
    with torch.no_grad():
        before = model(ids).logits
        model.resize_token_embeddings(size, mean_resizing=False)
        kept = min(size, 96)
        assert model.config.vocab_size == model.vocab_size == size
        assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
        close(model(ids).logits[..., :kept], before[..., :kept], atol=1e-5)
        assert model(ids, labels=ids).loss.isfinite()
        model.save_pretrained(tmp_path)
        close(TinyLlamaForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits, atol=0)


def test_initial_weights():
    torch.manual_seed(0)
    model = TinyLlamaForCausalLM(tiny_config(hidden_size=128, vocab_size=500, initializer_range=0.05))
    assert model.model.embed_tokens.weight[1].abs().max() == 0  # padding
    for name, parameter in model.named_parameters():
        if "norm" in name:
            assert (parameter == 1).all()
        else:
            assert parameter.std().item() == pytest.approx(0.05, rel=0.1), name


# ---- rotary positions


@pytest.mark.parametrize("factor", [0.5, 1.0])
@pytest.mark.parametrize("rope_type", ["default", "linear", "dynamic", "yarn", "llama3"])
def test_rotary_types(rope_type, factor, tmp_path):
    rope = {
        "default": {},
        "linear": {"factor": 2.0},
        "dynamic": {"factor": 2.0},
        "yarn": {"factor": 4.0, "original_max_position_embeddings": 64},
        "llama3": {
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }[rope_type]
    rope = {"rope_type": rope_type, **rope}
    plain = tiny_model(head_dim=16, partial_rotary_factor=factor)
    model = tiny_model(head_dim=16, partial_rotary_factor=factor, rope_parameters=rope, max_position_embeddings=256)
    assert model.model.rotary_emb.inv_freq.shape == (16 * factor / 2,)
    plain.save_pretrained(tmp_path)
    stretched = TinyLlamaForCausalLM.from_pretrained(tmp_path, rope_parameters=rope, max_position_embeddings=256)

    short, long = random_ids(1, 20), random_ids(1, 200)
    with torch.no_grad():
        for ids in (short, long, short):
            out = model(ids).logits
            assert out.isfinite().all()
            close(stretched(ids).logits, out, atol=1e-5)
        difference = (model(short).logits - plain(short).logits).abs().max()
        # On a short text, all types differ from the default one except dynamic scaling, which begins later.
        assert difference < 1e-5 if rope_type in ("default", "dynamic") else difference > 1e-3
        close(model(long)[0][:, -1:], model(long, logits_to_keep=1).logits)


def test_position_ids_are_used():
    """Linear scaling by 4, with positions 4 apart, gives the angles of the plain model."""
    plain, stretched = tiny_model(), tiny_model(rope_parameters={"rope_type": "linear", "factor": 4.0})
    ids, mask = random_ids(2, 12), torch.ones(2, 12)
    with torch.no_grad():
        expected = plain(ids, attention_mask=mask).logits
        apart = stretched(ids, attention_mask=mask, position_ids=torch.arange(12)[None] * 4).logits
        close(apart, expected, atol=1e-5)
        assert (stretched(ids, attention_mask=mask).logits - expected).abs().max() > 1e-2


def test_dynamic_rope_is_reset_after_a_long_text():
    model = tiny_model(max_position_embeddings=32, rope_parameters={"rope_type": "dynamic", "factor": 4.0})
    plain = tiny_model(max_position_embeddings=32)
    short, long = random_ids(1, 12), random_ids(1, 100)
    with torch.no_grad():
        before = model(short).logits
        assert (model(long).logits - plain(long).logits).abs().max() > 1e-3
        close(model(short).logits, before, atol=0)


def test_only_the_first_part_of_a_head_is_rotated():
    model = tiny_model(partial_rotary_factor=0.5)
    query = torch.randn(1, 4, 6, 8)
    cos, sin = model.model.rotary_emb(query, torch.arange(6)[None])
    assert cos.shape == (1, 6, 4)
    turned, _ = apply_rotary_pos_emb(query, query, cos, sin)
    assert torch.equal(turned[..., 4:], query[..., 4:])
    assert (turned[:, :, 1:, :4] - query[:, :, 1:, :4]).abs().max() > 0.1
    close(turned.norm(dim=-1), query.norm(dim=-1), atol=1e-5)


# ---- precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_loading(dtype, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    half = TinyLlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    assert {p.dtype for p in half.parameters()} == {dtype}
    # Positions need more precision than the weights.
    assert half.model.rotary_emb.inv_freq.dtype == torch.float32
    ids = random_ids(2, 20)
    with torch.no_grad():
        out = half(ids)
        assert out.logits.dtype == dtype
        close(out.logits.float(), model(ids).logits, atol=0.5)
        assert half(ids, labels=ids).loss.dtype == torch.float32
    assert half.generate(ids, max_new_tokens=3, do_sample=False).shape[1] <= 23
    half.save_pretrained(tmp_path / "half")
    assert TinyLlamaForCausalLM.from_pretrained(tmp_path / "half").dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_norm_is_computed_in_float32(dtype):
    norm = TinyLlamaRMSNorm(32).to(dtype)
    x = torch.full((2, 32), 300.0, dtype=dtype)  # 300 squared is beyond float16
    assert norm(x).dtype == dtype
    close(norm(x).float(), torch.ones(2, 32), atol=1e-2)


def test_autocast_keeps_positions_in_float32():
    rotary = tiny_model().model.rotary_emb
    position_ids = torch.tensor([[500, 501, 502, 503]])
    exact = rotary(torch.zeros(1), position_ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        close(rotary(torch.zeros(1), position_ids), exact, atol=0)


# ---- saving and loading


def test_sharded_safetensors(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 1
    assert "lm_head.weight" not in index["weight_map"]
    loaded, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    close(loaded.state_dict(), model.state_dict(), atol=0)


@pytest.mark.parametrize("device_map", ["cpu", "auto", {"": "cpu"}], ids=str)
def test_device_map(device_map, tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, device_map=device_map)
    ids = random_ids(2, 8)
    with torch.no_grad():
        close(loaded(ids.to(loaded.device)).logits.cpu(), model(ids).logits)


def test_a_model_larger_than_a_device_is_split_between_layers(tmp_path):
    model = tiny_model(num_hidden_layers=4)
    model.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(
        tmp_path / "model", device_map="auto", max_memory={"cpu": 80_000}, offload_folder=tmp_path / "disk"
    )
    places = loaded.hf_device_map
    assert set(places.values()) == {"cpu", "disk"}
    assert not [name for name in places if name.startswith("model.layers.") and name.count(".") > 2]
    ids = random_ids(2, 8)
    with torch.no_grad():
        close(loaded(ids).logits, model(ids).logits)
    assert torch.equal(greedy(loaded, ids, 5), greedy_by_hand(model, ids, 5))


# ---- the other heads


def test_heads_start_from_a_language_model(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    head, report = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=3, output_loading_info=True)
    assert set(report["missing_keys"]) == {"score.weight"}
    assert not report["unexpected_keys"]
    close(head.model.state_dict(), model.model.state_dict(), atol=0)


def test_sequence_classification_uses_the_last_token_before_padding():
    model = tiny_model(TinyLlamaForSequenceClassification, num_labels=3)
    ids = random_ids(3, 10)
    padded = ids.clone()
    padded[1, 6:] = model.config.pad_token_id
    with torch.no_grad():
        out = model(padded, attention_mask=padded.ne(1).long(), labels=torch.tensor([0, 2, 1]))
        assert out.logits.shape == (3, 3)
        close(out.logits[1:2], model(ids[1:2, :6]).logits)
        close(out.logits[0:1], model(ids[0:1]).logits)
    close(out.loss, nn.functional.cross_entropy(out.logits, torch.tensor([0, 2, 1])), atol=1e-5)


def test_token_classification_and_question_answering():
    ids = random_ids(2, 10)
    labels = torch.randint(0, 5, (2, 10))
    model = tiny_model(TinyLlamaForTokenClassification, num_labels=5)
    with torch.no_grad():
        out = model(ids, labels=labels)
    assert out.logits.shape == (2, 10, 5)
    close(out.loss, nn.functional.cross_entropy(out.logits.flatten(0, 1), labels.flatten()), atol=1e-5)

    model = tiny_model(TinyLlamaForQuestionAnswering)
    with torch.no_grad():
        out = model(ids, start_positions=torch.tensor([1, 2]), end_positions=torch.tensor([3, 9]))
    assert out.start_logits.shape == out.end_logits.shape == (2, 10)
    assert out.loss.isfinite()


def test_base_model_is_that_of_the_head():
    model = tiny_model()
    base = sharpen(TinyLlamaModel(model.config))
    base.load_state_dict(model.model.state_dict())
    ids = random_ids(2, 8)
    with torch.no_grad():
        close(model.lm_head(base(ids).last_hidden_state), model(ids).logits, atol=1e-6)
    assert model.base_model is model.model
