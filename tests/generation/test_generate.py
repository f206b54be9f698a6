"""Generation of single stories and batches."""

import random

import numpy as np
import pytest
import torch
from helpers import sharpen
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tinystories.cli import main
from tinystories.generation import batch
from tinystories.generation import generate as generate
from tinystories.generation.batch import ARTICLE_FOLLOWS, PROMPTS, generate_stories
from tinystories.generation.generate import generate_story, preset_config
from tinystories.generation.postprocess import post_process
from tinystories.generation.presets import GREEDY, PRESETS
from tinystories.runs.loading import load_model
from tinystories.utils.errors import UserError


# Many stories at once


def tokenizer_without_padding(metaspace=False):
    """A tokenizer without pad and BOS token that pads on the right."""
    backend = Tokenizer(models.BPE(unk_token=None))
    if metaspace:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = list("▁ abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,'") if metaspace else []
    trainer = trainers.BpeTrainer(
        vocab_size=96, special_tokens=["<end>"], initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(["the cat sat on the mat. Once upon a time there was a dog, and it ran"] * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<end>")


def gpt2(seed=0, eos_bias=0.0):
    """A random GPT-2; `eos_bias` is added to the logit of EOS."""
    sizes = {"vocab_size": 96, "n_positions": 48, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = sharpen(GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)), seed)
    end = model.transformer.wte.weight.data[0]
    model.transformer.ln_f.bias.data += eos_bias * end / end.square().sum()
    return model


UNEVEN = ["the cat", "Once upon a time there was a dog, and", "a", "the mat. a dog ran on the"]


@pytest.fixture(scope="module")
def trained(tiny_run):
    return load_model(str(tiny_run))


def by_hand(model, tokenizer, prompt, max_new_tokens):
    """Greedy decoding of one story without a cache: `(text, ended, new tokens)`."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"].to(model.device)
    begin = ids.shape[1]
    ended = False
    with torch.no_grad():
        while ids.shape[1] < begin + max_new_tokens and not ended:
            likeliest = model(input_ids=ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)
            ended = likeliest.item() == tokenizer.eos_token_id
            ids = ids if ended else torch.cat([ids, likeliest], dim=1)
    text = tokenizer.decode(ids[0], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text, ended, ids.shape[1] - begin


def as_tuples(stories):
    return [(story.text, story.ended, story.new_tokens) for story in stories]


def test_a_batch_generates_what_each_prompt_alone_would(trained, monkeypatch):
    model, tokenizer = trained
    prompts = PROMPTS[:6]
    options = {"preset": GREEDY, "max_new_tokens": 60, "batch_size": 4, "progress": False}
    stories = generate_stories(model, tokenizer, prompts, **options)
    assert [story.prompt for story in stories] == prompts
    assert as_tuples(stories) == [by_hand(model, tokenizer, prompt, 60) for prompt in prompts]

    def unmasked(rows, device):
        inputs = padded(rows, device)
        return {**inputs, "attention_mask": torch.ones_like(inputs["attention_mask"])}

    padded = batch._left_padded
    monkeypatch.setattr(batch, "_left_padded", unmasked)
    wrong = generate_stories(model, tokenizer, prompts, **options)
    assert as_tuples(wrong) != as_tuples(stories)


@pytest.mark.parametrize("preset", [*PRESETS, GREEDY])
def test_every_preset_generates_stories_and_a_seed_repeats_them(trained, preset):
    def generate(seed):
        return generate_stories(
            *trained, PROMPTS[:5], preset=preset, seed=seed, max_new_tokens=30, batch_size=4, progress=False
        )

    first, again, other = generate(1), generate(1), generate(2)
    assert first == again
    assert (first == other) == (preset == GREEDY)
    assert [story.prompt for story in first] == PROMPTS[:5]
    for story in first:
        assert story.text == story.prompt + story.completion and "<|endoftext|>" not in story.text
        assert story.new_tokens < 30 if story.ended else story.new_tokens == 30


def test_stories_may_fill_the_context(trained):
    model, tokenizer = trained
    prompts = ["One day", PROMPTS[0]]
    remaining = 128 - len(tokenizer(PROMPTS[0])["input_ids"])
    stories = generate_stories(model, tokenizer, prompts, preset=GREEDY, progress=False)
    assert [story.new_tokens for story in stories] == [remaining, remaining] and not any(
        story.ended for story in stories
    )


def test_presets_generate_different_stories(trained):
    stories = {
        preset: tuple(generate_stories(*trained, PROMPTS[:2], preset=preset, max_new_tokens=40, progress=False))
        for preset in (*PRESETS, GREEDY)
    }
    assert len(set(stories.values())) == len(PRESETS) + 1


def test_a_model_with_learned_positions_and_no_pad_token():
    tokenizer = tokenizer_without_padding()
    remaining = 48 - max(len(tokenizer(prompt)["input_ids"]) for prompt in UNEVEN)
    ended = set()
    for seed in range(4):
        model = gpt2(seed, eos_bias=3.0)
        stories = generate_stories(model, tokenizer, UNEVEN, preset=GREEDY, progress=False)
        assert as_tuples(stories) == [by_hand(model, tokenizer, prompt, remaining) for prompt in UNEVEN]
        ended |= {story.ended for story in stories}
    assert ended == {True, False}


def test_padding_does_not_change_the_repetition_penalty(monkeypatch):
    tokenizer = tokenizer_without_padding()
    # Deterministic, so that a row of a batch must be the story that is generated alone.
    monkeypatch.setitem(PRESETS, "plain", {"top_k": 1, "repetition_penalty": 1.5})

    def generate(batch_size):
        options = {"preset": "plain", "max_new_tokens": 20, "batch_size": batch_size, "progress": False}
        models = [gpt2(seed, eos_bias=3.0) for seed in range(8)]
        return [story for model in models for story in generate_stories(model, tokenizer, UNEVEN, **options)]

    alone = generate(1)
    assert generate(4) == alone
    monkeypatch.setitem(PRESETS, "plain", {"top_k": 1, "repetition_penalty": 1.0})
    assert generate(4) != alone


def test_the_space_after_the_prompt_is_kept():
    """SentencePiece tokenizers drop a leading space when they decode."""
    config = LlamaConfig(vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=48, eos_token_id=0)  # fmt: skip
    model, tokenizer = sharpen(LlamaForCausalLM(config)), tokenizer_without_padding(metaspace=True)
    stories = generate_stories(model, tokenizer, UNEVEN, preset=GREEDY, max_new_tokens=20, progress=False)
    assert as_tuples(stories) == [by_hand(model, tokenizer, prompt, 20) for prompt in UNEVEN]
    assert any(story.completion.startswith(" ") for story in stories)


def test_every_eos_token_of_the_model_ends_a_story_of_a_batch():
    model, tokenizer = gpt2(), tokenizer_without_padding()

    def generate():
        return generate_stories(model, tokenizer, ["the cat"], preset=GREEDY, max_new_tokens=9, progress=False)[0]

    before = generate()
    fourth = model.generate(**tokenizer(["the cat"], return_tensors="pt"), max_new_tokens=9, do_sample=False)[0, -6]
    model.generation_config.eos_token_id = [0, fourth.item()]
    after = generate()
    assert not before.ended and after.ended
    assert after.new_tokens <= 3 and before.text.startswith(after.text)


def test_the_models_own_settings_are_not_used(trained):
    model, tokenizer = trained
    plain = generate_stories(model, tokenizer, PROMPTS[:3], preset=GREEDY, max_new_tokens=30, progress=False)
    own = model.generation_config
    model.generation_config = preset_config("balanced", tokenizer, 30)
    model.generation_config.update(repetition_penalty=5.0, suppress_tokens=list(range(300, 400)), min_new_tokens=30)
    try:
        again = generate_stories(model, tokenizer, PROMPTS[:3], preset=GREEDY, max_new_tokens=30, progress=False)
        alone = [generate_story(model, tokenizer, prompt, preset=GREEDY, max_new_tokens=30) for prompt in PROMPTS[:3]]
        ids = tokenizer(PROMPTS[0], return_tensors="pt", return_token_type_ids=False)
        leaky = model.generate(**ids, generation_config=preset_config(GREEDY, tokenizer, 30))[0]
    finally:
        model.generation_config = own
    assert again == plain and alone == [story.text for story in plain]
    assert tokenizer.decode(leaky, skip_special_tokens=True) != plain[0].text


def test_model_tokenizer_and_random_state_are_unchanged(trained, tmp_path, monkeypatch):
    model, tokenizer = trained
    others = tokenizer_without_padding()
    config = model.generation_config
    modules = list(model.modules())
    model.train()
    modules[-1].eval()
    modes = [module.training for module in modules]
    torch.manual_seed(5)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    def unchanged():
        return (
            model.generation_config is config
            and [module.training for module in modules] == modes
            and torch.equal(torch.get_rng_state(), states[0])
            and random.getstate() == states[1]
            and np.array_equal(np.random.get_state()[1], states[2])
        )

    others.save_pretrained(tmp_path / "before")
    try:
        assert unchanged()
        generate_stories(model, tokenizer, PROMPTS[:3], preset="balanced", max_new_tokens=5, progress=False)
        assert unchanged()
        monkeypatch.setattr(model, "generate", lambda **_: torch.rand(1) and (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            generate_stories(model, tokenizer, PROMPTS[:3], preset="balanced", max_new_tokens=5, progress=False)
        assert unchanged()
        torch.rand(1)
        assert not unchanged()
    finally:
        model.eval()
    generate_stories(gpt2(), others, UNEVEN, preset="balanced", max_new_tokens=5, progress=False)
    assert others.pad_token is None and others.padding_side == "right"
    others.save_pretrained(tmp_path / "after")
    for file in sorted((tmp_path / "before").iterdir()):
        assert (tmp_path / "after" / file.name).read_bytes() == file.read_bytes(), file.name


def test_mistakes_are_one_line(trained):
    model, tokenizer = trained
    plain = tokenizer_without_padding()
    endless = sharpen(BloomForCausalLM(BloomConfig(vocab_size=96, hidden_size=32, n_layer=1, n_head=2)))

    def refuses(words, model=model, tokenizer=tokenizer, prompts=PROMPTS[:2], preset="plain", **options):
        with pytest.raises(UserError, match=words) as caught:
            generate_stories(model, tokenizer, prompts, preset=preset, progress=False, **options)
        assert "\n" not in str(caught.value)

    refuses("no preset 'wild'; the presets are balanced, .*plain and greedy", preset="wild")
    refuses("batch size must be at least 1", batch_size=0)
    refuses("must be from 1 to .*but is 0", max_new_tokens=0)
    refuses("must be from 1 to 1?[0-9]+ .*but is 200", max_new_tokens=200)
    refuses("shorten 'again and again", prompts=["One day", "again and " * 80])
    refuses("empty prompt", model=gpt2(), tokenizer=plain, prompts=["the", ""])
    refuses("no context length", model=endless, tokenizer=plain, prompts=UNEVEN)
    with pytest.raises(UserError, match="no context length"):
        generate_story(endless, plain, "the")
    assert generate_story(endless, plain, "the", preset=GREEDY, max_new_tokens=4).startswith("the")
    stories = generate_stories(endless, plain, UNEVEN, preset=GREEDY, max_new_tokens=8, progress=False)
    assert as_tuples(stories) == [by_hand(endless, plain, prompt, 8) for prompt in UNEVEN]
    assert generate_stories(model, tokenizer, [], preset="plain", progress=False) == []
    assert len(generate_stories(model, tokenizer, [""], preset="plain", max_new_tokens=4, progress=False)) == 1


def test_progress_goes_to_stderr(trained, capsys):
    generate_stories(*trained, PROMPTS[:3], preset="plain", max_new_tokens=4, batch_size=2)
    drawn = capsys.readouterr()
    assert "Generating stories (plain): 100%" in drawn.err and drawn.out == ""
    generate_stories(*trained, PROMPTS[:3], preset="plain", max_new_tokens=4, progress=False)
    assert capsys.readouterr() == ("", "")


def test_prompts_are_diverse_and_do_not_end_with_an_article():
    assert len(PROMPTS) == len(set(PROMPTS)) >= 25
    assert set(ARTICLE_FOLLOWS) <= set(PROMPTS)
    last_words = [prompt.split()[-1].strip('",').lower() for prompt in PROMPTS]
    assert not set(last_words) & {"a", "an", "the"}
    starts = {prompt.split()[0] for prompt in PROMPTS}
    assert len(starts) > 20 and sum(prompt.startswith('"') for prompt in PROMPTS) >= 3


# From the command line


def test_the_command_prints_a_post_processed_story(tiny_run, trained, capsys):
    options = ["generate", str(tiny_run), "once upon a time , there was", "--seed", "1", "--max-new-tokens", "30"]
    assert main([*options, "--post-process"]) == 0
    processed = capsys.readouterr().out
    assert main(options) == 0
    streamed = capsys.readouterr().out
    assert streamed.startswith("once upon a time , there was")
    assert processed == post_process(streamed) + "\n" and processed.startswith("Once upon a time, there was")


def test_every_eos_token_of_the_model_ends_a_story(tiny_run):
    """llama2.c's models end a story with BOS, which is not the EOS token of their tokenizer."""
    model, tokenizer = load_model(str(tiny_run))
    prompt = "Once upon a time there was"
    whole = generate_story(model, tokenizer, prompt, preset=GREEDY, max_new_tokens=30)
    third = tokenizer(whole)["input_ids"][len(tokenizer(prompt)["input_ids"]) + 2]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, third]
    cut = generate_story(model, tokenizer, prompt, preset=GREEDY, max_new_tokens=30)
    assert whole.startswith(cut) and len(cut) < len(whole)
