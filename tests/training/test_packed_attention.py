"""Attention of packed stories by the native library: what torch computes, whatever the lengths and threads."""

import pytest
import torch
from helpers import random_ids, sharpen, tiny_config

from modeling_tinyllama import TinyLlamaForCausalLM, modeling_tinyllama
from modeling_tinyllama.modeling_tinyllama import attend_within_stories, story_offsets
from tinystories.generation.native import attention
from tinystories.generation.native.attention import NativeAttention, use_native_attention
from tinystories.utils.errors import UserError


@pytest.fixture(autouse=True)
def native(monkeypatch):
    monkeypatch.setattr(modeling_tinyllama, "native_attention", None)
    assert use_native_attention() and modeling_tinyllama.native_attention is NativeAttention


@pytest.fixture
def computed(monkeypatch):
    """How often the library was asked."""
    calls, run = [], attention._run
    monkeypatch.setattr(attention, "_run", lambda *given: calls.append(len(given)) or run(*given))
    return calls


def rows_of(*rows):
    """`position_ids` of rows of stories of so many tokens."""
    return torch.stack([torch.cat([torch.arange(length) for length in row]) for row in rows])


def attend(position_ids, heads=2, head_dim=32, dtype=torch.float32, seed=0, scaling=0.2):
    """What is attended to and three gradients."""
    generator = torch.Generator().manual_seed(seed)
    shape = (*position_ids.shape, heads, head_dim)
    states = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    wanted = torch.randn(shape, generator=generator).to(dtype)
    attended, _ = attend_within_stories(*states, *story_offsets(position_ids), scaling)
    attended.backward(wanted)
    return [attended.detach(), *(state.grad for state in states)]


def by_torch(monkeypatch, *given, **options):
    with monkeypatch.context() as patched:
        patched.setattr(modeling_tinyllama, "native_attention", None)
        return attend(*given, **options)


LENGTHS = {
    "one story": [[97]],
    "of one token": [[1] * 40],
    "around a block": [[23, 24, 25, 48, 49, 31]],
    "around a vector": [[7, 8, 9, 15, 16, 17, 31, 32, 33]],
    "rows": [[60, 40, 28], [128], [1, 126, 1]],
    "long": [[600, 168]],
}


@pytest.mark.parametrize("rows", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize(("heads", "head_dim"), [(1, 64), (3, 32), (2, 96)])
def test_it_is_what_torch_computes(rows, heads, head_dim, computed, monkeypatch):
    position_ids = rows_of(*rows)
    found = attend(position_ids, heads, head_dim)
    assert len(computed) == 2
    torch.testing.assert_close(found, by_torch(monkeypatch, position_ids, heads, head_dim), atol=1e-5, rtol=1e-4)


def test_large_scores_neither_overflow_nor_vanish(computed, monkeypatch):
    position_ids = rows_of([50, 30])
    found = attend(position_ids, scaling=40.0)
    assert computed and all(bool(torch.isfinite(each).all()) for each in found)
    torch.testing.assert_close(found, by_torch(monkeypatch, position_ids, scaling=40.0), atol=1e-2, rtol=1e-3)


def test_the_bits_do_not_depend_on_the_threads(computed):
    position_ids, before = rows_of([60, 40, 28], [128]), torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(attend(position_ids))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(map(torch.equal, results[0], other))


def test_what_is_no_number_stays_in_its_story():
    position_ids = rows_of([30, 20, 14])
    states = [torch.randn(1, 64, 2, 32) for _ in range(3)]
    states[0][0, 35] = torch.nan
    attended, _ = attend_within_stories(*states, *story_offsets(position_ids), 0.2)
    assert attended[0, 35].isnan().all() and not attended[0, :35].isnan().any() and not attended[0, 50:].isnan().any()


@pytest.mark.parametrize("options", [{"dtype": torch.float64}, {"dtype": torch.bfloat16}, {"head_dim": 12}])
def test_what_is_not_taken_is_left_to_torch(options, computed, monkeypatch):
    position_ids = rows_of([20, 12])
    found = attend(position_ids, **options)
    assert not computed
    assert all(map(torch.equal, found, by_torch(monkeypatch, position_ids, **options)))


def test_a_model_is_trained_by_it(computed, monkeypatch):
    model = sharpen(TinyLlamaForCausalLM(tiny_config(hidden_size=64, num_key_value_heads=2, head_dim=32))).train()
    ids, position_ids = random_ids(2, 60), rows_of([31, 29], [60])

    def gradients():
        model.zero_grad()
        model(ids, labels=ids, position_ids=position_ids, use_cache=False, skip_logits=True).loss.backward()
        return [weight.grad.clone() for weight in model.parameters()]

    found = gradients()
    assert len(computed) == 2 * model.config.num_hidden_layers
    monkeypatch.setattr(modeling_tinyllama, "native_attention", None)
    torch.testing.assert_close(found, gradients(), atol=1e-6, rtol=1e-4)


def test_without_a_compiler_or_the_right_threads_torch_goes_on(monkeypatch):
    def no_library():
        raise UserError("there is no C compiler")

    for name, nothing in (("library", no_library), ("_openmp", lambda: None)):
        with monkeypatch.context() as patched:
            patched.setattr(modeling_tinyllama, "native_attention", None)
            patched.setattr(attention, name, nothing)
            assert not use_native_attention() and modeling_tinyllama.native_attention is None
            assert len(attend(rows_of([5, 7]))) == 4
