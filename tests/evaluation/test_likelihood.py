"""Bits per byte of any model with any tokenizer, against a reference that scores one token at a time."""

import json
import math

import numpy as np
import pytest
import torch
from helpers import sharpen, tiny_model
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from tinystories.data.corpus import load_corpus
from tinystories.data.synthetic import sample_stories
from tinystories.evaluation.likelihood import bits_per_byte, score_stories, start_tokens
from tinystories.generation import log_probabilities as scoring
from tinystories.generation.generate import context_length
from tinystories.utils.errors import UserError


CONTEXT = 32
STORIES = [
    "Once upon a time there was a fox.",
    "“Hi!” said Zoë, and  ate\n\n½ of the naïve crab's 🍎.",
    "One day it rained, and the fox ran home. " + "The rain fell and fell and fell. " * 4 + "The end.",
    "",
]
CORPUS = list(sample_stories(40, seed=3))


# ---- tokenizers of several kinds, and models for them


def byte_level(prefix_space=False, normalizer=None, post=None, bos=None, eos=None):
    backend = Tokenizer(models.BPE())
    if normalizer:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space)
    backend.decoder = decoders.ByteLevel()
    special = sorted({token for token in (bos, eos) if token})
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    backend.train_from_iterator(CORPUS, trainer)
    if post:
        ids = [(token, backend.token_to_id(token)) for token in special]
        backend.post_processor = processors.TemplateProcessing(single=post, special_tokens=ids)
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=bos, eos_token=eos)


def sentencepiece(add_bos):
    """A unigram tokenizer with a dummy space before the text, and byte fallback."""
    words = sorted({word for story in CORPUS for word in story.split()})[:60]
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)] + [(f"<0x{byte:02X}>", -9.0) for byte in range(256)]
    pieces += [(letter, -5.0) for letter in "▁abcdefghijklmnopqrstuvwxyz.,!"] + [(f"▁{word}", -6.0) for word in words]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    if add_bos:
        backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def whole_words():
    """A tokenizer of a few words; spaces are lost, and other words are unknown."""
    vocabulary = {word: number for number, word in enumerate(["<unk>", "the", "fox", "ran", "home", "."])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")


END = "<|endoftext|>"
TOKENIZERS = {
    "no special tokens": (lambda: byte_level(), 0),
    "end of text not added, as GPT-2": (lambda: byte_level(bos=END, eos=END), 1),
    "end of text added in front": (lambda: byte_level(bos=END, eos=END, post=f"{END} $A"), 1),
    "begin and end added": (lambda: byte_level(bos="<s>", eos="</s>", post="<s> $A </s>"), 1),
    "two tokens added": (lambda: byte_level(bos="<s>", eos=END, post=f"{END} <s> $A"), 2),
    "only an end added": (lambda: byte_level(eos="</s>", post="$A </s>"), 0),
    "begin of sentence not added": (lambda: byte_level(bos="<s>", eos="</s>"), 0),
    "prefix space": (lambda: byte_level(prefix_space=True, bos=END, eos=END), 1),
    "sentencepiece": (lambda: sentencepiece(add_bos=True), 1),
    "sentencepiece without begin": (lambda: sentencepiece(add_bos=False), 0),
}


def gpt2(tokenizer, context=CONTEXT):
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2}
    return sharpen(GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_positions=context, **shape)))


def llama(tokenizer, context=CONTEXT):
    shape = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer) + 3, max_position_embeddings=context, pad_token_id=0, **shape)
    return sharpen(LlamaForCausalLM(config))


def reference(model, sequence, unscored, context=CONTEXT, stride=CONTEXT // 2):
    """Nats of each token of `sequence` after the first `unscored`, each by a separate forward pass."""
    nats = []
    for at in range(unscored, len(sequence)):
        begin = max(0, -(-(at + 1 - context) // stride)) * stride
        if at == 0:
            nats.append(math.log(model.config.vocab_size))
            continue
        with torch.no_grad():
            logits = model(torch.tensor([sequence[begin:at]])).logits[0, -1]
        nats.append(-logits.double().log_softmax(-1)[sequence[at]].item())
    return np.array(nats)


def score(model, tokenizer, stories, **options):
    return score_stories(model, tokenizer, stories, progress=False, **options)


# ---- every byte once


@pytest.mark.parametrize("make_model", [gpt2, llama])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_every_token_is_scored_once_and_every_byte_counted_once(kind, make_model):
    make_tokenizer, unscored = TOKENIZERS[kind]
    tokenizer = make_tokenizer()
    model = make_model(tokenizer)
    scores = score(model, tokenizer, STORIES)
    assert scores.bytes.sum() == len("".join(STORIES).encode())
    assert scores.bytes.tolist() == [len(story.encode()) for story in STORIES]
    assert not scores.lossy.any() and not scores.unk_tokens.any() and scores.context == CONTEXT
    start = list(scores.start_tokens)
    assert len(start) == unscored and set(start) <= set(tokenizer.all_special_ids)
    lengths = []
    for story, nats, count in zip(STORIES, scores.nats, scores.tokens, strict=True):
        ids = tokenizer.backend_tokenizer.encode(story, add_special_tokens=False).ids
        assert count == len(ids) and nats == pytest.approx(reference(model, start + ids, unscored).sum(), rel=1e-5)
        lengths.append(len(ids))
    assert max(lengths) > 2 * CONTEXT, "or nothing was said of windows"
    assert scores.uniform_tokens.tolist() == [int(not unscored and length > 0) for length in lengths]
    assert bool(scores.notes) == (not unscored), scores.notes


def test_bytes_are_those_of_utf8():
    tokenizer = byte_level(bos=END, eos=END)
    model = gpt2(tokenizer)
    plain, longer = (score(model, tokenizer, [text]) for text in ("a cafe", "a café"))
    assert longer.bytes[0] == plain.bytes[0] + 1 == 7
    assert longer.nats[0] != pytest.approx(plain.nats[0])


def test_neither_start_tokens_nor_eos_are_scored():
    """A scorer that counts one of them would differ by far more than the tolerance."""
    tokenizer = byte_level(bos="<s>", eos="</s>", post="<s> $A </s>")
    model = llama(tokenizer)
    story = STORIES[0]
    ids = tokenizer(story)["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    found = score(model, tokenizer, [story]).nats[0]
    begin_and_text = reference(model, ids[:-1], 0, context=99).sum()
    text_and_end = reference(model, ids, 1, context=99).sum()
    assert abs(found - reference(model, ids[:-1], 1, context=99).sum()) < 1e-3
    assert begin_and_text - found > 0.1 and text_and_end - found > 0.1


def test_the_first_token_always_has_a_loss():
    tokenizer = byte_level()
    model = gpt2(tokenizer)
    scores = score(model, tokenizer, ["F"])
    assert scores.nats[0] == pytest.approx(math.log(len(tokenizer))) and scores.tokens[0] == 1
    assert "ln(" in scores.notes[0]
    all_of_it = score(model, tokenizer, STORIES)
    ids = [tokenizer(story)["input_ids"] for story in STORIES]
    dropped = sum(reference(model, sequence, 1).sum() for sequence in ids if sequence)
    assert all_of_it.nats.sum() - dropped == pytest.approx(3 * math.log(len(tokenizer)), rel=1e-3)


@pytest.mark.parametrize("kind", ["no special tokens", "end of text added in front", "sentencepiece"])
def test_a_uniform_model_has_a_loss_of_ln_of_the_vocabulary_per_token(kind):
    tokenizer = TOKENIZERS[kind][0]()
    model = gpt2(tokenizer)
    torch.nn.init.zeros_(model.lm_head.weight)
    scores = score(model, tokenizer, STORIES)
    expected = math.log2(len(tokenizer)) * scores.tokens.sum() / scores.bytes.sum()
    assert bits_per_byte(scores).value == pytest.approx(expected, rel=1e-6)
    assert scores.nats_per_token == pytest.approx(math.log(len(tokenizer)), rel=1e-6)
    assert scores.perplexity == pytest.approx(len(tokenizer), rel=1e-5)
    assert scores.bytes_per_token == scores.bytes.sum() / scores.tokens.sum()


@pytest.mark.parametrize("kind", ["end of text added in front", "prefix space"])
def test_the_name_of_a_special_token_in_a_story_is_ordinary_text(kind):
    tokenizer = TOKENIZERS[kind][0]()
    model = gpt2(tokenizer)
    story = f"He wrote {END} on the wall."
    scores = score(model, tokenizer, [story])
    assert scores.bytes[0] == len(story) and not scores.lossy[0] and not scores.notes
    assert scores.tokens[0] >= len(tokenizer(story, add_special_tokens=False)["input_ids"]) + 3, "it was parsed"


def test_a_special_token_that_cannot_be_ordinary_text_is_noted():
    tokenizer = sentencepiece(add_bos=True)
    scores = score(llama(tokenizer), tokenizer, ["the fox ran home", "the fox ran </s> home"])
    assert scores.lossy.tolist() == [False, True] and "1 of 2 stories" in scores.notes[0]


# ---- start tokens


def test_start_tokens():
    same, other = byte_level(bos=END, eos=END), byte_level(bos="<s>", eos="</s>")
    named = byte_level(eos=END)
    assert start_tokens(gpt2(same), same) == [same.bos_token_id]
    assert start_tokens(gpt2(other), other) == [], "nothing says that stories began with it"
    assert start_tokens(gpt2(named), named) == [named.eos_token_id]
    by_config = gpt2(other)
    by_config.config.bos_token_id = by_config.config.eos_token_id = other.eos_token_id
    assert start_tokens(by_config, other) == [other.eos_token_id]
    by_config.config.bos_token_id = by_config.config.eos_token_id = 50
    assert start_tokens(by_config, other) == [], "50 is an ordinary token here, as 50256 can be GPT-2's default"


def test_truncation_and_padding_in_the_tokenizer_file_change_nothing():
    tokenizer = byte_level(bos=END, eos=END, post=f"{END} $A")
    model = gpt2(tokenizer)
    expected = score(model, tokenizer, STORIES)
    baked = byte_level(bos=END, eos=END, post=f"{END} $A")
    baked.backend_tokenizer.enable_truncation(8)
    baked.backend_tokenizer.enable_padding(length=64)
    found = score(model, baked, STORIES)
    assert found.tokens.tolist() == expected.tokens.tolist() and found.nats == pytest.approx(expected.nats)


# ---- lossy tokenizers


@pytest.mark.parametrize(
    ("normalizer", "changed", "kept"),
    [
        (normalizers.Lowercase(), "The fox ran.", "the fox ran."),
        (normalizers.Strip(), "the fox ran. ", "the fox ran."),
        (normalizers.NFKC(), "the ﬁsh ½ swam", "the fish 1/2 swam"),
        (normalizers.Replace("\n", " "), "the fox\nran.", "the fox ran."),
    ],
)
def test_a_tokenizer_that_changes_the_text_is_noted(normalizer, changed, kept, caplog):
    tokenizer = byte_level(normalizer=normalizer, bos=END, eos=END)
    scores = score(gpt2(tokenizer), tokenizer, [changed, kept])
    assert scores.lossy.tolist() == [True, False]
    assert "1 of 2 stories" in scores.notes[0] and "too low" in scores.notes[0]
    assert caplog.messages == list(scores.notes)
    assert not score(gpt2(tokenizer), tokenizer, [kept]).notes


def test_a_lost_leading_space_is_noted():
    """Sentencepiece's dummy space makes " the fox" and "the fox" the same tokens."""
    stories = [" the fox ran.", "the fox ran."]
    for tokenizer, lossy in ((byte_level(), [False, False]), (sentencepiece(add_bos=True), [True, False])):
        assert score(gpt2(tokenizer), tokenizer, stories).lossy.tolist() == lossy


def test_unknown_tokens_are_counted_and_noted():
    tokenizer = whole_words()
    scores = score(gpt2(tokenizer), tokenizer, ["the fox ran home", "the dog ran home and the crab ran."])
    assert scores.unk_tokens.tolist() == [0, 3]
    assert scores.bytes.sum() == 16 + 34
    assert (
        scores.notes[0].startswith("3 tokens in 1 of 2 stories are the unknown token") and "too low" in scores.notes[0]
    )


# ---- windows and batches


@pytest.mark.parametrize(
    ("context", "stride"), [(2, None), (3, None), (8, None), (9, None), (8, 1), (8, 7), (32, None)]
)
@pytest.mark.parametrize("kind", ["no special tokens", "end of text added in front"])
def test_windows(kind, context, stride):
    make_tokenizer, unscored = TOKENIZERS[kind]
    tokenizer = make_tokenizer()
    model = gpt2(tokenizer)
    widths = []
    model.lm_head.register_forward_hook(lambda module, args, output: widths.append(output.shape[1]))
    digits = "31415926535897932384626433"
    stories = [digits[:length] for length in (1, 2, 3, 7, 8, 9, 16, 17, 24)]
    scores = score(model, tokenizer, stories, context=context, stride=stride)
    assert scores.tokens.tolist() == [len(story) for story in stories] and max(widths) < context
    stride = stride or context - context // 2
    for story, nats in zip(stories, scores.nats, strict=True):
        sequence = list(scores.start_tokens) + tokenizer(story, add_special_tokens=False)["input_ids"]
        assert nats == pytest.approx(reference(model, sequence, unscored, context, stride).sum(), rel=1e-5)


def test_a_smaller_stride_gives_more_context():
    tokenizer = byte_level(bos=END, eos=END)
    model = gpt2(tokenizer)
    half, most = (score(model, tokenizer, STORIES, stride=stride) for stride in (None, 1))
    short = half.tokens < CONTEXT
    assert half.nats[short] == pytest.approx(most.nats[short]) and half.nats[2] != pytest.approx(most.nats[2])


@pytest.mark.parametrize("make_model", [gpt2, llama])
def test_batches_change_nothing(make_model, monkeypatch):
    tokenizer = byte_level(bos=END, eos=END)
    model = make_model(tokenizer)
    stories = CORPUS[:6] + STORIES
    together = score(model, tokenizer, stories)
    for size in (1, 3):
        apart = score(model, tokenizer, stories, batch_size=size)
        assert apart.nats == pytest.approx(together.nats, abs=1e-4)
    order = np.random.default_rng(0).permutation(len(stories))
    shuffled = score(model, tokenizer, [stories[at] for at in order])
    assert shuffled.nats == pytest.approx(together.nats[order], abs=1e-4)
    monkeypatch.setattr(scoring, "LOGITS_PER_CHUNK", 5 * len(tokenizer))
    monkeypatch.setattr(scoring, "LOGITS_PER_BATCH", 50 * len(tokenizer))
    assert score(model, tokenizer, stories).nats == pytest.approx(together.nats, abs=1e-4)


def test_a_batch_has_a_maximum_number_of_logits(monkeypatch):
    tokenizer = byte_level(bos=END, eos=END)
    model = gpt2(tokenizer)
    shapes = []
    model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape))
    monkeypatch.setattr(scoring, "TOKENS_PER_BATCH", 100)
    score(model, tokenizer, CORPUS[:10])
    assert max(rows * length for rows, length, _ in shapes) <= 100
    tokens = sum(rows * length for rows, length, _ in shapes)
    monkeypatch.setattr(scoring, "LOGITS_PER_BATCH", 40 * len(tokenizer))
    shapes.clear()
    score(model, tokenizer, CORPUS[:10])
    assert max(rows * length for rows, length, _ in shapes) <= 40
    assert tokens < 1.1 * sum(rows * length for rows, length, _ in shapes), "little of it is padding"


@pytest.mark.parametrize("keeps", [True, False], ids=["logits_to_keep", "without"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_logits_before_the_first_scored_position_are_not_computed(keeps, batch_size, monkeypatch):
    tokenizer = byte_level(bos=END, eos=END)
    model = llama(tokenizer, context=512)
    if not keeps:
        whole = model.forward
        monkeypatch.setattr(model, "forward", lambda input_ids, use_cache: whole(input_ids, use_cache=use_cache))
    sequences = [tokenizer(story)["input_ids"] for story in CORPUS[:10]]
    first = [len(ids) - 1 - index for index, ids in enumerate(sequences)]
    shapes, given = [], {}
    model.lm_head.register_forward_hook(lambda module, args, output: shapes.append(output.shape[:2]))

    def keep(index, logits):
        given[index] = logits.clone()
        return index

    assert scoring.score_sequences(model, sequences, keep, first=first, batch_size=batch_size) == list(range(10))
    computed = sum(rows * length for rows, length in shapes)
    shapes.clear()
    monkeypatch.undo()
    for index, ids in enumerate(sequences):
        with torch.no_grad():
            expected = model(torch.tensor([ids])).logits[0, first[index] :]
        torch.testing.assert_close(given[index], expected, atol=1e-4, rtol=1e-4)
    total = sum(map(len, sequences))
    assert computed >= total if not keeps else computed < total / 2


def test_a_model_without_a_limit_gets_whole_stories():
    tokenizer = byte_level(bos=END, eos=END)
    model = sharpen(BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2)))
    assert context_length(model) is None
    scores = score(model, tokenizer, STORIES)
    assert scores.context is None
    sequence = list(scores.start_tokens) + tokenizer(STORIES[2])["input_ids"]
    assert scores.nats[2] == pytest.approx(reference(model, sequence, 1, context=999).sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("model_class", "config_class", "context", "shape"),
    [
        (OPTForCausalLM, OPTConfig, 32, {"word_embed_proj_dim": 32, "ffn_dim": 32, "max_position_embeddings": 32}),
        (RobertaForCausalLM, RobertaConfig, 30, {"is_decoder": True, "max_position_embeddings": 32}),
        (MambaForCausalLM, MambaConfig, None, {"state_size": 4}),
    ],
    ids=["positions with an offset", "positions behind the pad token", "no positions"],
)
def test_other_architectures(model_class, config_class, context, shape):
    tokenizer = byte_level(bos=END, eos=END)
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "pad_token_id": 1, **shape}
    model = sharpen(model_class(config_class(vocab_size=len(tokenizer), **shape)))
    scores = score(model, tokenizer, STORIES)
    assert scores.context == context
    for story, nats in zip(STORIES, scores.nats, strict=True):
        sequence = list(scores.start_tokens) + tokenizer(story)["input_ids"]
        expected = reference(model, sequence, 1, context or 999, (context or 2) // 2).sum()
        assert nats == pytest.approx(expected, rel=1e-5)


def test_context_length_is_read_from_all_config_fields():
    tokenizer = byte_level()
    assert context_length(gpt2(tokenizer)) == context_length(llama(tokenizer)) == CONTEXT
    assert context_length(tiny_model()) == 64
    model = sharpen(BloomForCausalLM(BloomConfig(vocab_size=9, hidden_size=32, n_layer=1, n_head=2, seq_length=77)))
    assert context_length(model) == 77


def test_the_model_is_unchanged_and_autocast_is_off(capsys):
    tokenizer = byte_level(bos=END, eos=END)
    model = llama(tokenizer)
    expected = score(model, tokenizer, STORIES).nats
    model.train().model.norm.eval()  # a frozen part keeps its own mode
    model.config.attention_dropout = 0.5
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert score(model, tokenizer, STORIES).nats == pytest.approx(expected, abs=1e-4)
    assert model.training and not model.model.norm.training and "Scoring" not in capsys.readouterr().err
    assert all(parameter.grad is None for parameter in model.parameters())
    score_stories(model, tokenizer, STORIES)
    assert "Scoring: 100%" in capsys.readouterr().err


# ---- intervals


def test_the_interval_holds_the_value_and_narrows_with_more_stories():
    tokenizer = byte_level(bos=END, eos=END)
    stories = list(sample_stories(120, seed=3))
    scores = score(gpt2(tokenizer), tokenizer, stories)
    few = score(gpt2(tokenizer), tokenizer, stories[:6])
    wide, narrow = bits_per_byte(few), bits_per_byte(scores)
    for interval in (wide, narrow):
        assert interval.low < interval.value < interval.high
    assert narrow.high - narrow.low < 0.6 * (wide.high - wide.low)
    assert bits_per_byte(scores) == narrow != bits_per_byte(scores, seed=1)
    wider = bits_per_byte(scores, confidence=0.99)
    assert wider.low < narrow.low < narrow.high < wider.high
    assert narrow.value == pytest.approx(scores.nats.sum() / math.log(2) / scores.bytes.sum())
    assert narrow.value == pytest.approx(scores.nats_per_token / math.log(2) / scores.bytes_per_token)
    alone = bits_per_byte(score(gpt2(tokenizer), tokenizer, CORPUS[:1]))
    assert alone.low == alone.value == alone.high


# ---- training


def test_bits_per_byte_agrees_with_training(tiny_run):
    """Up to 0.1%, because training may use bf16. Stories longer than the context are split in the same way."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_run), AutoTokenizer.from_pretrained(tiny_run)
    stories = load_corpus("sample", max_stories=600, max_validation_stories=40).validation["text"]
    scores = score(model, tokenizer, stories)
    reported = json.loads((tiny_run / "eval_results.json").read_text())["eval_bits_per_byte"]
    assert bits_per_byte(scores).value == pytest.approx(reported, abs=1e-3)
    assert scores.tokens.max() > scores.context == 128 and scores.start_tokens == (0,) and not scores.notes
    cut = score(model, tokenizer, stories, context=32)
    assert abs(bits_per_byte(cut).value - reported) > 1e-2, "or the windows would not matter"


# ---- mistakes


@pytest.mark.parametrize(
    ("stories", "options", "message"),
    [
        ([], {}, "There are no stories"),
        ([""], {}, "are empty"),
        ("One day", {}, "single string"),
        (["One day", 3], {}, "Story 2 is int"),
        (["One \ud83c day"], {}, "Story 1 contains an unpaired surrogate"),
        (["One day"], {"context": CONTEXT + 1}, "at most 32, the model's limit"),
        (["One day"], {"context": 1}, "at least 2 tokens"),
        (["One day"], {"stride": 0}, "`stride` \\(0\\) must be from 1 to 31"),
        (["One day"], {"stride": CONTEXT}, "`stride` \\(32\\) must be from 1 to 31"),
        (["One day"], {"batch_size": 0}, "`batch_size` \\(0\\)"),
    ],
)
def test_bad_input_is_refused(stories, options, message):
    tokenizer = byte_level(bos=END, eos=END)
    with pytest.raises(UserError, match=message):
        score(gpt2(tokenizer), tokenizer, stories, **options)


def test_models_that_cannot_be_scored_are_refused():
    tokenizer = byte_level(bos=END, eos=END)
    other = gpt2(whole_words())
    with pytest.raises(UserError, match="the model has only 6 embeddings"):
        score(other, tokenizer, STORIES)
    broken = gpt2(tokenizer)
    with torch.no_grad():
        broken.lm_head.weight[5] = math.nan
    with pytest.raises(UserError, match="loss is nan on 3 of 4 texts"):
        score(broken, tokenizer, STORIES)
    t5 = T5ForConditionalGeneration(T5Config(vocab_size=400, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2))
    with pytest.raises(UserError, match="encoder-decoder"):
        score(t5, tokenizer, STORIES)
    unlimited = BloomForCausalLM(BloomConfig(vocab_size=len(tokenizer), hidden_size=32, n_layer=1, n_head=2))
    with pytest.raises(UserError, match="`stride` needs `context`"):
        score(unlimited, tokenizer, STORIES, stride=4)
