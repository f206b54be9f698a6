"""`story_varlen` equals SDPA with a document mask in every model that uses the attention interface."""

import pytest
import torch
from helpers import random_ids, sharpen
from packed_rows import MODELS, ROWS, SHAPE, position_ids_of
from transformers import DynamicCache, Phi3Config
from transformers.masking_utils import create_causal_mask

from tinystories.training import packed_attention as packed
from tinystories.training.kernels import attention as kernels
from tinystories.training.packed_attention import is_supported, kernel_name, packed_attention, unsupported_reason
from tinystories.utils.errors import UserError


FORWARD, BACKWARD = "forward", "backward"


def training_step(model, run=None, position_ids=ROWS):
    """Loss and gradients."""
    ids = random_ids(*position_ids.shape)
    model.zero_grad()
    loss = (model if run is None else run)(ids, labels=ids, position_ids=position_ids, use_cache=False).loss
    loss.backward()
    return loss.detach(), [weight.grad.clone() for weight in model.parameters()]


@pytest.fixture
def calls(monkeypatch):
    """The calls of the C kernel."""
    calls, run = [], kernels._run

    def counted(states, *others):
        calls.append(FORWARD if len(others) == 4 else BACKWARD)
        run(states, *others)

    monkeypatch.setattr(kernels, "_run", counted)
    return calls


# ---- models


@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "bf16"])
@pytest.mark.parametrize("name", MODELS)
def test_training_equals_that_with_a_document_mask(name, autocast, calls):
    model = sharpen(MODELS[name]()).train()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        expected = training_step(model)
        with packed_attention(model):
            assert model.config._attn_implementation == "story_varlen"
            found = training_step(model)
    assert model.config._attn_implementation == "sdpa"
    assert calls == ([] if autocast else [FORWARD, FORWARD, BACKWARD, BACKWARD])
    tolerance = 3e-2 if autocast else 1e-5
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", MODELS)
def test_evaluation_equals_that_with_a_document_mask(name, calls):
    model, ids = sharpen(MODELS[name]()), random_ids(*ROWS.shape)
    with torch.no_grad():
        expected = model(ids, position_ids=ROWS, use_cache=False).logits
        joined = model(ids, use_cache=False).logits
        with packed_attention(model):
            found = model(ids, position_ids=ROWS, use_cache=False).logits
    assert calls == [FORWARD, FORWARD]
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - joined)[1:].abs().max() > 0.1, "documents must not attend to each other"


@pytest.mark.parametrize("name", MODELS)
def test_gradient_checkpointing_recomputes_with_the_same_attention(name, calls):
    model = sharpen(MODELS[name]()).train()
    expected = training_step(model)
    model.gradient_checkpointing_enable()
    with packed_attention(model):
        torch.testing.assert_close(training_step(model), expected, atol=1e-5, rtol=1e-5)
    assert calls == [FORWARD, FORWARD, FORWARD, BACKWARD, FORWARD, BACKWARD]


@pytest.mark.parametrize(
    ("name", "backend"),
    [
        *((name, "aot_eager") for name in MODELS),
        *(pytest.param(name, "inductor", marks=pytest.mark.slow) for name in MODELS),
    ],
)
def test_a_compiled_step_is_one_graph(name, backend):
    torch.compiler.reset()
    model = sharpen(MODELS[name]()).train()
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    # Another number of documents must not need another graph.
    for rows in (ROWS, position_ids_of([10, 30], [5, 5, 30], [40])):
        with torch.compiler.set_stance("default" if rows is ROWS else "fail_on_recompile"):
            expected = training_step(model, position_ids=rows)
            with packed_attention(model):
                found = training_step(model, compiled, rows)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_padding_masks_and_caches_are_computed_by_sdpa():
    model, ids = sharpen(MODELS["TinyLlama"]()), random_ids(2, 12)
    padding = torch.ones_like(ids)
    padding[0, :4] = 0

    def logits():
        cache = DynamicCache(config=model.config)
        return (
            model(ids, attention_mask=padding).logits[padding.bool()],
            model(ids[:, :7], past_key_values=cache).logits,
            model(ids[:, 7:10], past_key_values=cache).logits,
            model(ids[:, 10:11], past_key_values=cache).logits,
        )

    with torch.no_grad():
        expected = logits()
        with packed_attention(model):
            torch.testing.assert_close(logits(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("TinyLlama", {"attention_dropout": 0.1}, "dropout"),
        ("Llama", {"attn_implementation": "eager"}, "eager"),
        ("Phi3", {"sliding_window": 8}, "sliding window"),
    ],
)
def test_unsupported_models_keep_their_attention(name, changes, reason):
    model = MODELS[name](**changes)
    assert reason in unsupported_reason(model) and not is_supported(model)
    before = model.config._attn_implementation
    with packed_attention(model):
        assert model.config._attn_implementation == before == packed.active_implementation(model)


def test_with_dropout_or_a_sliding_window_the_mask_is_dense():
    """Also if `story_varlen` is set by hand."""
    embeddings = torch.zeros(3, 40, 64)
    for changes in ({"attention_dropout": 0.1}, {"sliding_window": 8}):
        config = Phi3Config(**{**SHAPE, **changes}, attn_implementation="story_varlen")
        mask = create_causal_mask(config, embeddings, None, None, position_ids=ROWS)
        assert mask.shape == (3, 1, 40, 40)


def test_a_saved_configuration_does_not_contain_its_name(tmp_path):
    model = MODELS["TinyLlama"]()
    with packed_attention(model):
        model.save_pretrained(tmp_path)
    assert "story_varlen" not in (tmp_path / "config.json").read_text()


def test_kernel_name():
    cpu = torch.device("cpu")
    assert kernel_name(cpu, torch.float32, 64) == "the native CPU kernel of this package"
    assert kernel_name(cpu, torch.bfloat16, 64) == "torch's flash attention for CPUs"
    assert kernel_name(torch.device("cuda"), torch.bfloat16, 64) == "flash attention with cu_seqlens"


# ---- kernels


def attend(position_ids, heads=2, head_dim=32, dtype=torch.float32, scaling=0.2):
    """The output and three gradients."""
    generator = torch.Generator().manual_seed(0)
    shape = (position_ids.numel(), heads, head_dim)
    states = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    offsets = kernels.cu_seqlens(position_ids == 0)
    output, _ = kernels.varlen_attention(*states, offsets, scaling)
    output.backward(torch.randn(shape, generator=generator).to(dtype))
    return [output.detach(), *(state.grad for state in states)]


def test_cu_seqlens_are_where_documents_start():
    assert kernels.cu_seqlens(ROWS == 0).tolist() == [0, 40, 41, 50, 80, 93, 119, 120]


LENGTHS = {
    "one document": [[97]],
    "of one token": [[1] * 40],
    "around a block": [[23, 24, 25, 48, 49, 31]],
    "around a vector": [[7, 8, 9, 15, 16, 17, 31, 32, 33]],
    "rows": [[60, 40, 28], [128], [1, 126, 1]],
    "long": [[600, 168]],
}


@pytest.mark.parametrize("rows", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 64), (3, 32), (2, 96)])
def test_the_c_kernel_equals_torch(rows, heads, head_dim, calls, monkeypatch):
    position_ids = position_ids_of(*rows)
    found = attend(position_ids, heads, head_dim)
    assert calls == [FORWARD, BACKWARD]
    monkeypatch.setattr(kernels, "_native_available", lambda: False)
    torch.testing.assert_close(found, attend(position_ids, heads, head_dim), atol=1e-5, rtol=1e-4)


def test_large_scores_neither_overflow_nor_vanish(calls, monkeypatch):
    position_ids = position_ids_of([50, 30])
    found = attend(position_ids, scaling=40.0)
    assert calls and all(bool(torch.isfinite(each).all()) for each in found)
    monkeypatch.setattr(kernels, "_native_available", lambda: False)
    torch.testing.assert_close(found, attend(position_ids, scaling=40.0), atol=1e-2, rtol=1e-3)


def test_the_result_does_not_depend_on_the_number_of_threads():
    position_ids, before = position_ids_of([60, 40, 28], [128]), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attend(position_ids))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_nan_does_not_spread_to_other_documents():
    states = [torch.randn(64, 2, 32) for _ in range(3)]
    states[0][35] = torch.nan
    output, _ = kernels.varlen_attention(*states, kernels.cu_seqlens(position_ids_of([30, 20, 14]) == 0), 0.2)
    assert output[35].isnan().all() and not output[:35].isnan().any() and not output[50:].isnan().any()


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"head_dim": 12}])
def test_other_dtypes_and_head_sizes_are_computed_by_torch(options, calls):
    found = attend(position_ids_of([20, 12]), **options)
    assert not calls and all(bool(torch.isfinite(each).all()) for each in found)


@pytest.mark.parametrize("missing", ["library", "_openmp"], ids=["compiler", "OpenMP"])
def test_without_a_compiler_or_openmp_torch_computes(missing, calls, monkeypatch):
    def unavailable():
        raise UserError("it is not installed")

    monkeypatch.setattr(kernels, missing, unavailable)
    kernels._native_available.cache_clear()
    try:
        assert len(attend(position_ids_of([5, 7]))) == 4 and not calls
    finally:
        kernels._native_available.cache_clear()
