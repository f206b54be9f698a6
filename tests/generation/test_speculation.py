"""Speculative decoding gives the text of native decoding without it, bit for bit, whatever the drafts are."""

import copy

import pytest
import torch
from helpers import random_ids, tiny_model
from transformers import DynamicCache, LogitsProcessor, StoppingCriteria
from transformers.generation.streamers import BaseStreamer

from tinystories.generation.batch import PROMPTS
from tinystories.generation.native import draft_length, engine, generate_lookahead, speculation, use_native_decoding
from tinystories.generation.native.draft_length import Costs, DraftLength
from tinystories.generation.native.speculation import Lookahead
from tinystories.generation.presets import PRESETS
from tinystories.runs.loading import load_model


@pytest.fixture(autouse=True)
def always(monkeypatch):
    """Draft for any model, and as many tokens as for a large one."""
    monkeypatch.setattr(speculation, "MIN_NEW_TOKENS", -1)
    monkeypatch.setattr(DraftLength, "_fastest", lambda self, rate: (6, True))


@pytest.fixture
def judged(monkeypatch):
    """For each drafted token that was needed, whether it was accepted."""
    results, judge = [], DraftLength.judge

    def recorded(self, accepted):
        results.append(accepted)
        judge(self, accepted)

    monkeypatch.setattr(DraftLength, "judge", recorded)
    return results


def pair(model=None, **changes):
    """A model that decodes natively without and one that does with drafts."""
    model = tiny_model(**changes) if model is None else model
    return use_native_decoding(copy.deepcopy(model), draft=None), use_native_decoding(copy.deepcopy(model))


def generated(model, ids, seed=0, **settings):
    """The output of `generate`, and the state of the random generator after it."""
    torch.manual_seed(seed)
    return model.generate(ids, **settings), torch.get_rng_state()


def assert_same(pair, ids, seed=0, **settings):
    (want, want_state), (got, got_state) = (generated(model, ids, seed, **settings) for model in pair)
    assert torch.equal(got, want) and torch.equal(got_state, want_state)
    return want


WAYS = {
    "greedy": {},
    **{preset: {"do_sample": True, **settings} for preset, settings in PRESETS.items()},
    "whole vocabulary": {"do_sample": True, "top_k": 0},
    "top-p": {"do_sample": True, "top_p": 0.9, "top_k": 0},
    "min-p": {"do_sample": True, "min_p": 0.1},
    "typical": {"do_sample": True, "typical_p": 0.8},
    "penalty": {"repetition_penalty": 1.3},
    "no repeated pairs": {"no_repeat_ngram_size": 2},
    "minimum": {"min_new_tokens": 30},
    "few tokens": {"max_new_tokens": 2},
    "forced end": {"forced_eos_token_id": 5},
    "suppressed": {"suppress_tokens": [7, 8], "begin_suppress_tokens": [9]},
    "bad words": {"bad_words_ids": [[11, 12], [13]]},
    "chunked prompt": {"prefill_chunk_size": 3},
}


@pytest.mark.parametrize("way", WAYS)
def test_the_text_and_the_random_state_are_those_without_drafts(way, judged):
    models = pair()
    for seed in range(3):
        settings = {"max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 1, **WAYS[way]}
        if way in ("minimum", "forced end"):
            settings["eos_token_id"] = 5
        assert_same(models, random_ids(1, 7, seed), seed, **settings)
    assert way == "few tokens" or sum(judged) > 0.7 * len(judged) > 20  # int8 and float32 choose the same tokens


@pytest.mark.parametrize("sampled", [False, True])
def test_wrong_drafts_change_nothing(sampled, judged, monkeypatch):
    models = pair()
    wrong = torch.Generator().manual_seed(0)

    def begin(self, ids):
        return lambda logits: int(torch.randint(2, 6, (), generator=wrong))

    monkeypatch.setattr(generate_lookahead.Guesses, "__call__", begin)
    settings = {"max_new_tokens": 80, "eos_token_id": None, "pad_token_id": 1}
    for seed in range(3):
        assert_same(models, random_ids(1, 5, seed), seed, do_sample=sampled, temperature=2.0 if sampled else 1.0,
                    **settings)  # fmt: skip
    assert len(judged) > 50 and sum(judged) < 0.3 * len(judged)


@pytest.mark.parametrize("eos", [[3], [3, 17, 40, 55, 80], list(range(2, 20))])
def test_eos_within_a_draft_ends_the_text(eos, monkeypatch):
    drafted, draft = [], Lookahead._drafted

    def recorded(self, *args):
        drafted.append(draft(self, *args))
        return drafted[-1]

    monkeypatch.setattr(Lookahead, "_drafted", recorded)
    models = pair()
    lengths = set()
    for seed in range(8):
        settings = {"max_new_tokens": 60, "eos_token_id": eos, "pad_token_id": 1, "do_sample": True}
        lengths.add(assert_same(models, random_ids(1, 6, seed), seed, **settings).shape[1])
    assert len(lengths) > 1 and any(drafted)
    assert not any(token in eos for tokens in drafted for token in tokens)  # no logits are needed after EOS


def test_no_draft_exceeds_the_context(monkeypatch):
    models = pair(max_position_embeddings=48)
    places, compute = [], Lookahead._compute

    def recorded(self, token, past, begin, reserve):
        return compute(self, token, past, begin, lambda new: places.append(past + new) or reserve(new))

    monkeypatch.setattr(Lookahead, "_compute", recorded)
    output = assert_same(models, random_ids(1, 8), max_length=48, eos_token_id=None, pad_token_id=1)
    assert output.shape == (1, 48) and max(places) == 47  # the last token is not passed


def test_scores_and_cache_have_the_same_bits():
    settings = {"max_new_tokens": 30, "return_dict_in_generate": True, "output_scores": True, "output_logits": True,
                "eos_token_id": None, "pad_token_id": 1, "repetition_penalty": 1.2}  # fmt: skip
    want, got = (generated(model, random_ids(1, 6), **settings)[0] for model in pair())
    assert all(map(torch.equal, got.scores + got.logits, want.scores + want.logits))
    assert got.past_key_values.get_seq_length() == want.past_key_values.get_seq_length() == 35
    for ours, theirs in zip(got.past_key_values.layers, want.past_key_values.layers, strict=True):
        assert torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)
    assert "lookahead" not in vars(got.past_key_values)


def test_a_cache_is_continued():
    outputs = []
    for model in pair():
        cache = DynamicCache(config=model.config)
        ids = model.generate(random_ids(1, 6), past_key_values=cache, max_new_tokens=20, eos_token_id=None)
        ids = torch.cat([ids, random_ids(1, 3, seed=1)], dim=1)
        outputs.append(model.generate(ids, past_key_values=cache, max_new_tokens=20, eos_token_id=None))
    assert torch.equal(*outputs) and outputs[0].shape == (1, 49)


def test_streamers_and_criteria_see_each_token_once_in_order(judged):
    class Streamer(BaseStreamer):
        def put(self, value):
            seen.append(value.flatten().tolist())

        def end(self):
            seen.append("end")

    class After(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            seen.append(input_ids[0].tolist())
            return torch.tensor([input_ids.shape[1] >= 30])

    records = []
    for model in pair():
        seen = []
        model.generate(random_ids(1, 6), max_new_tokens=60, eos_token_id=None, streamer=Streamer(),
                       stopping_criteria=[After()])  # fmt: skip
        records.append(seen)
    assert records[0] == records[1] and len(records[0][-3]) == 30 and records[0][-1] == "end"
    assert any(judged)


def test_an_unknown_processor_gets_each_token_once(judged):
    class Unknown(LogitsProcessor):
        def __call__(self, input_ids, scores):
            lengths.append(input_ids.shape[1])
            return scores + torch.rand(scores.shape)

    lengths = []
    assert_same(pair(), random_ids(1, 6), max_new_tokens=20, eos_token_id=None, logits_processor=[Unknown()])
    assert lengths == [*range(6, 26)] * 2 and not judged


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 2, "do_sample": True},
        {"num_beams": 2},
        {"use_cache": False},
        {"cache_implementation": "static"},
        {"guidance_scale": 1.5},
    ],
)
def test_other_ways_do_not_draft(settings, judged):
    assert_same(pair(), random_ids(1, 6), max_new_tokens=20, eos_token_id=None, pad_token_id=1, **settings)
    assert not judged


def test_dynamic_rope_does_not_draft(judged):
    models = pair(rope_parameters={"rope_type": "dynamic", "factor": 2.0}, max_position_embeddings=16)
    assert_same(models, random_ids(1, 6), max_new_tokens=40, eos_token_id=None)
    assert not judged


def test_left_padding(judged):
    ids = random_ids(1, 8)
    assert_same(pair(), ids, attention_mask=torch.tensor([[0, 0] + [1] * 6]), max_new_tokens=20, eos_token_id=None)
    assert not judged


def test_weights_that_change_during_generation_take_effect():
    class Change(StoppingCriteria):
        def __call__(self, input_ids, scores, **kwargs):
            if input_ids.shape[1] % 7 == 0:
                with torch.no_grad():
                    model.model.layers[0].mlp.down_proj.weight.mul_(-1.5)
            return torch.tensor([False])

    outputs = []
    for model in pair():
        outputs.append(model.generate(random_ids(1, 6), max_new_tokens=60, eos_token_id=None,
                                      stopping_criteria=[Change()]))  # fmt: skip
    assert torch.equal(*outputs)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_pass_of_any_number_of_tokens_has_the_bits_of_single_steps(threads, monkeypatch):
    monkeypatch.setattr(engine, "BYTES_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    _, fast = pair(hidden_size=512, num_attention_heads=8, intermediate_size=707, vocab_size=203, num_hidden_layers=2)
    ids = random_ids(1, 40)
    with torch.inference_mode():
        cache = DynamicCache(config=fast.config)
        want = torch.cat([fast(input_ids=ids[:, i : i + 1], past_key_values=cache).logits for i in range(40)], dim=1)
        for count in (*range(1, 27), 40):
            cache = DynamicCache(config=fast.config)
            parts = ids.split(count, dim=1)
            got = torch.cat([fast(input_ids=part, past_key_values=cache).logits for part in parts], dim=1)
            assert torch.equal(got, want), count
    torch.set_num_threads(before)


def test_the_built_in_model(judged):
    model, tokenizer = load_model("builtin")
    models = pair(model.to("cpu"))
    for seed, (preset, prompt) in enumerate(zip(["greedy", *PRESETS], PROMPTS[:5], strict=True)):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        settings = {"do_sample": preset != "greedy", **PRESETS.get(preset, {"repetition_penalty": 1.0})}
        assert_same(models, ids, seed, max_new_tokens=120, **settings)
    assert sum(judged) > 0.95 * len(judged) > 300


@pytest.mark.slow
@pytest.mark.parametrize("preset", ["greedy", *PRESETS])
def test_two_hundred_stories_of_the_built_in_model(preset):
    model, tokenizer = load_model("builtin")
    models = pair(model.to("cpu"))
    settings = {"do_sample": preset != "greedy", **PRESETS.get(preset, {"repetition_penalty": 1.0})}
    # 30 prompts, with up to five words of a story after them, and so on.
    words = "was very happy and wanted to".split()
    prompts = [" ".join([prompt, *words[:count]]) for count in range(len(words) + 1) for prompt in PROMPTS][:200]
    for seed, prompt in enumerate(prompts):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        for again in range(1 if preset == "greedy" else 2):
            assert_same(models, ids, 1000 * again + seed, max_new_tokens=300, **settings)


# ---- the number of drafted tokens


def costs(single, draft, more):
    """Measured costs: seconds of a pass of one token, of a drafted one, and of each further token in a pass."""
    measured = Costs()
    for _ in range(draft_length.MEASUREMENTS):
        measured.add_draft(8, 8 * draft)
    for rows in (1, *draft_length.ROWS):
        measured.add_pass(rows, single + (rows - 1) * more)
    return measured


@pytest.fixture
def by_measurement(monkeypatch, always):
    monkeypatch.undo()


def chosen(length, accepted=0, rejected=0):
    for result in [True] * accepted + [False] * rejected:
        length.judge(result)
    return [length.choose() for _ in range(3)][-1]


def test_the_length_follows_the_acceptance_rate(by_measurement):
    measured = costs(single=9.0, draft=2.0, more=0.5)
    reliable, usual, poor = (chosen(DraftLength(measured), 100 - rejected, rejected) for rejected in (0, 4, 25))
    assert reliable > usual > poor > 0


def test_drafting_that_is_not_faster_is_switched_off(by_measurement):
    measured = costs(single=1.0, draft=0.9, more=0.5)
    length = DraftLength(measured)
    assert chosen(length) == 0 and length.off
    assert [measured.pays() for _ in range(draft_length.PAUSE)] == [False] * (draft_length.PAUSE - 1) + [True]
    assert measured.drafts == 0  # they are measured again
    measured = costs(single=9.0, draft=2.5, more=1.0)
    length = DraftLength(measured)
    assert chosen(length, accepted=0, rejected=100) == 0 and length.off and measured.pays()  # only for this sequence


def test_passes_and_drafts_are_measured_first(by_measurement):
    measured = Costs()
    length = DraftLength(measured)
    assert [length.choose(), length.choose()] == [0, 0]
    measured.add_pass(1, 9.0)
    for _ in range(draft_length.MEASUREMENTS):
        assert length.choose() == draft_length.FIRST_ROWS - 1
        measured.add_draft(8, 16.0)
    measured.add_pass(9, 12.0)
    assert length.choose() + 1 in draft_length.ROWS and not length.off


def test_a_model_for_which_drafting_does_not_pay_generates_without_it(by_measurement, monkeypatch, judged):
    monkeypatch.setattr(draft_length, "GAIN", 1e9)
    models = pair()
    assert_same(models, random_ids(1, 6), max_new_tokens=100, eos_token_id=None)
    assert judged
    judged.clear()
    assert_same(models, random_ids(1, 6), max_new_tokens=100, eos_token_id=None)
    assert not judged


def test_unknown_drafts_are_refused():
    with pytest.raises(ValueError, match="`draft` must be one of int8, None"):
        use_native_decoding(tiny_model(), draft="float32")
    assert use_native_decoding(tiny_model(), "int8")._engine.draft_weights is None
