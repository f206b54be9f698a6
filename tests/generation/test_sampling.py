"""The sampler gives each of many sequences the tokens that `generate()` samples for it."""

import pytest
import torch
from transformers import (
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tinystories.generation import sampling
from tinystories.generation.generate import preset_config, temporary_generation_config
from tinystories.generation.presets import GREEDY, PRESETS, SamplingSettings
from tinystories.generation.sampling import NativeTopPWarper, Sampler
from tinystories.runs.loading import load_model
from tinystories.utils.errors import UserError


PROMPT = "Once upon a time there was"
CPU = torch.device("cpu")


def processors(settings):
    """The logits processors that `generate()` uses for these settings."""
    steps = LogitsProcessorList()
    if settings.repetition_penalty != 1.0:
        steps.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.do_sample:
        steps.append(TemperatureLogitsWarper(settings.temperature))
        steps += [TopKLogitsWarper(settings.top_k)] if settings.top_k else []
        steps += [TopPLogitsWarper(settings.top_p)] if settings.top_p < 1.0 else []
    return steps


@pytest.mark.parametrize("preset", [*PRESETS, GREEDY])
def test_reference_scores_are_those_of_generate(preset, tiny_run):
    model, tokenizer = load_model(str(tiny_run))
    config = preset_config(preset, tokenizer, 10)
    ids = torch.tensor([tokenizer(PROMPT)["input_ids"]])
    with temporary_generation_config(model, config):
        output = model.generate(ids, generation_config=config, output_logits=True, output_scores=True,
                                return_dict_in_generate=True)  # fmt: skip
    for step, (logits, scores) in enumerate(zip(output.logits, output.scores, strict=True)):
        seen = output.sequences[:, : ids.shape[1] + step]
        assert torch.equal(processors(SamplingSettings.from_preset(preset))(seen, logits.clone()), scores)
    if preset != GREEDY:
        assert not torch.equal(logits, scores)


def sampled_by_reference(settings, prompt_ids, seed, logits):
    """What `generate()` samples from logits `[steps, vocab]` after `set_seed(seed)`."""
    generator, ids = torch.Generator().manual_seed(seed), list(prompt_ids)
    for row in logits:
        scores = processors(settings)(torch.tensor([ids]), row[None].clone())
        if settings.do_sample:
            ids.append(torch.multinomial(scores.softmax(-1), 1, generator=generator).item())
        else:
            ids.append(scores.argmax().item())
    return ids[len(prompt_ids) :]


SETTINGS = [
    *(SamplingSettings.from_preset(preset) for preset in [*PRESETS, GREEDY]),
    SamplingSettings(top_k=0),
    SamplingSettings(top_k=0, top_p=0.9),
    SamplingSettings(top_k=0, top_p=0.5, temperature=0.7),
    SamplingSettings(top_k=1),
    SamplingSettings(top_k=10**6, top_p=0.95, repetition_penalty=1.1),
    SamplingSettings(top_k=300, top_p=0.99, temperature=2.0),
    SamplingSettings(top_k=0, top_p=1e-4),
    SamplingSettings(do_sample=False, repetition_penalty=1.5),
]
WITH_TOP_K = [settings for settings in SETTINGS if settings.top_k]
KINDS = {
    "smooth": lambda numbers: numbers * 3,
    "peaked": lambda numbers: numbers * 12,
    "flat": lambda numbers: numbers / 100,
    "tied": lambda numbers: (numbers * 2).round(),  # each value hundreds of times
    "constant": lambda numbers: numbers * 0,
    "mostly impossible": lambda numbers: numbers.where(numbers > 2.5, -torch.inf),
}


@pytest.mark.parametrize("path", ["C kernel", "no compiler", "exponential noise", "only top-k"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("vocab", [5, 129, 3_000])
def test_sequences_sampled_together_get_the_tokens_of_generate(kind, vocab, path, monkeypatch):
    """Sequences with various settings; one is removed in the middle, and another takes its row."""
    if path == "no compiler":
        monkeypatch.setattr(sampling, "_library", lambda: None)
    elif path == "exponential noise":
        monkeypatch.setattr(sampling, "exponential_is_log_of_uniform", lambda device: False)
    settings = WITH_TOP_K if path == "only top-k" else SETTINGS
    count, steps, generator = len(settings), 16, torch.Generator().manual_seed(vocab)
    logits = KINDS[kind](torch.randn(steps, count + 1, vocab, generator=generator))
    logits[:, :, 3] = 0.5  # so that each row has a possible token
    prompts = [[place % vocab, 1, 4] for place in range(count + 1)]
    sampler = Sampler(count, 3 + steps, CPU)
    for place, each in enumerate(settings):
        sampler.add(each, prompts[place], seed=place)
    got = [sampler.sample(rows[:-1]) for rows in logits[:5]]
    sampler.remove(2)  # the last row moves there
    sampler.add(settings[0], prompts[-1], seed=99)
    order = [0, 1, count - 1, *range(3, count - 1)]
    first = sampler.sample(logits[5:6, -1], first=len(order))
    later = [sampler.sample(torch.cat([rows[order], rows[-1:]])) for rows in logits[6:]]
    for place, row in enumerate(order):
        want = sampled_by_reference(settings[row], prompts[row], row, torch.cat([logits[:5, row], logits[6:, row]]))
        assert [tokens[row] for tokens in got] + [tokens[place] for tokens in later] == want, settings[row]
    want = sampled_by_reference(settings[0], prompts[-1], 99, logits[5:, -1])
    assert first + [tokens[-1] for tokens in later] == want


def test_few_rows_need_a_sorted_vocabulary(monkeypatch):
    sorted_rows, original = [], TopPLogitsWarper.__call__

    def count(warper, input_ids, scores):
        sorted_rows.append(len(scores))
        return original(warper, input_ids, scores)

    monkeypatch.setattr(TopPLogitsWarper, "__call__", count)
    settings = [SamplingSettings.from_preset(preset) for preset in PRESETS] + [SamplingSettings(top_k=0, top_p=0.9)]
    sampler, generator = Sampler(len(settings), 300, CPU), torch.Generator().manual_seed(0)
    for seed, each in enumerate(settings):
        sampler.add(each, [1, 2], seed)
    for _ in range(200):
        sampler.sample(torch.randn(len(settings), 2_000, generator=generator) * 4)
    assert sum(sorted_rows) < 0.02 * 200 * len(settings)


@pytest.mark.parametrize("top_k", [0, 20])
def test_nan_and_infinity_affect_only_their_own_row(top_k):
    def sampler():
        made = Sampler(5, 9, CPU)
        for do_sample, top_p in ((True, 0.9), (True, 0.9), (False, 0.9), (True, 1.0), (True, 0.9)):
            made.add(SamplingSettings(do_sample=do_sample, top_p=top_p, top_k=top_k), [1], seed=1)
        return made

    logits = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    want = sampler().sample(logits.clone())
    logits[1, 7], logits[2, 3], logits[3, 9] = torch.nan, torch.inf, torch.nan
    assert sampler().sample(logits) == [want[0], None, None, None, want[4]]


def test_sampled_tokens_follow_the_distribution():
    logits, draws = torch.tensor([2.0, 1.0, 0.0, -1.0, -9.0]), 4_000
    want = torch.tensor([2.0, 1.0, 0.0, -torch.inf, -torch.inf]).div(0.8).softmax(-1)
    sampler = Sampler(1, 1 + draws, CPU)
    sampler.add(SamplingSettings(temperature=0.8, top_k=3), [0], seed=3)
    counts = torch.bincount(torch.tensor([sampler.sample(logits[None])[0] for _ in range(draws)]), minlength=5)
    assert counts[3:].sum() == 0
    assert (counts / draws - want).abs().max() < 3 * 0.5 / draws**0.5


def test_settings_of_presets_and_generation_configs():
    assert SamplingSettings.from_preset("plain") == SamplingSettings(**PRESETS["plain"])
    assert SamplingSettings.from_preset(GREEDY) == SamplingSettings(do_sample=False)
    with pytest.raises(UserError, match="no preset 'loud'"):
        SamplingSettings.from_preset("loud")
    own = SamplingSettings.from_generation_config({"do_sample": True, "temperature": 0.3, "top_p": None})
    assert own == SamplingSettings(temperature=0.3, top_k=50, top_p=1.0, repetition_penalty=1.0)
    assert SamplingSettings.from_generation_config({}) == SamplingSettings.from_preset("balanced")
    assert own.replace(top_k=0, top_p=None) == SamplingSettings(temperature=0.3, top_k=0)


def test_native_top_p_keeps_the_tokens_of_transformers():
    generator = torch.Generator().manual_seed(0)
    for number in range(120):
        scores = torch.randn(6, (96, 1000, 10_007)[number % 3], generator=generator) * (0.1, 1, 4, 30)[number % 4]
        if number % 5 == 0:
            scores = scores.round()  # ties
        if number % 7 == 0:
            scores[scores < scores.topk(50).values[:, -1:]] = -torch.inf
        if number == 50:
            scores[1, 3], scores[2, 3], scores[3] = torch.nan, torch.inf, -torch.inf
        for top_p in (0.0, 0.1, 0.5, 0.9, 0.95, 0.999):
            for least in (1, 2):
                theirs = TopPLogitsWarper(top_p, min_tokens_to_keep=least)
                want = theirs(None, scores)
                assert torch.equal(NativeTopPWarper.of(theirs)(None, scores).nan_to_num(7.0), want.nan_to_num(7.0))
