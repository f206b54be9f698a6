"""Minimal pairs: made only if the error is certain, and scored so that a model without grammar has chance accuracy."""

import json
import logging
import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers import sharpen, tiny_model
from minimal_pair_exclusions import EVERY_KIND, EXCLUSIONS
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tinystories.commands.train import train
from tinystories.data.corpus import load_corpus
from tinystories.evaluation.minimal_pairs import (
    KINDS,
    Pair,
    PairScore,
    accuracy,
    make_pairs,
    score_pairs,
    text_log_likelihoods,
    write_pairs,
)
from tinystories.text.sentences import all_sentences, normalized, plain_sentences
from tinystories.tokenization import train_bpe
from tinystories.utils.errors import UserError


SWAPPED = ("article_swapped", "subject_verb_agreement", "tense")


@pytest.fixture(scope="module")
def stories() -> list[str]:
    return load_corpus("sample", max_stories=1, max_validation_stories=400).validation["text"][:]


@pytest.fixture(scope="module")
def pairs(stories) -> list[Pair]:
    return make_pairs(stories, per_kind=40, progress=False)


def changes(kind: str, story: str) -> list[str]:
    """All errors that the rule makes, as `Pair.change` shows them."""
    return [
        Pair(kind, str(sentence), str(bad.sentence), 0).change
        for sentence in plain_sentences(story)
        for bad in KINDS[kind].rule(sentence)
    ]


# Making pairs


@pytest.mark.parametrize(
    ("kind", "story", "expected"),
    [
        ("article_deleted", "Then she saw a big dog.", ["Then she saw [a -> ] big dog."]),
        ("article_deleted", "Then Tim sat on the bench, all alone.", []),
        ("article_deleted", "He put the milk on a new table.", ["He put the milk on [a -> ] new table."]),
        ("article_swapped", "Ben had an idea for a game.", ["Ben had [an -> a] idea for a game.",
                                                            "Ben had an idea for [a -> an] game."]),
        ("article_swapped", "It was a unicorn and a one-eyed owl.", []),
        ("article_doubled", "Then the girl had a nap.", ["Then the [ -> the] girl had a nap.",
                                                         "Then the girl had a [ -> a] nap."]),
        ("article_moved", "They saw the red ball.", ["They saw [the red -> red the] ball.",
                                                     "They saw [the red ball. -> red ball the.]"]),
        ("article_moved", "It was such a big dog.", []),
        ("subject_verb_agreement", "Lily and Tom were in the park.", ["Lily and Tom [were -> was] in the park."]),
        ("subject_verb_agreement", "The birds were in a tree.", ["The birds [were -> was] in a tree."]),
        ("subject_verb_agreement", "She likes her new hat.", ["She [likes -> like] her new hat."]),
        ("subject_verb_agreement", "The cat and the dog were happy.", []),
        ("tense", "They could not find it.", ["They could not [find -> finding] it."]),
        ("tense", "Mom had eaten the cake.", ["Mom had [eaten -> ate] the cake."]),
        ("tense", "She took her hat.", ["She [took -> take] her hat.", "She [took -> taken] her hat."]),
        ("tense", "They took their hats.", []),
        ("word_order", "They ran to the shop with a bag.", ["They ran to the shop [with a -> a with] bag."]),
        ("word_order", "Tim did not like his hat.", ["Tim [did not -> not did] like his hat.",
                                                     "Tim did not like [his hat. -> hat his.]"]),
        ("word_order", "Tim met his mom there.", ["Tim met [his mom -> mom his] there."]),
    ],
)  # fmt: skip
def test_a_rule_makes_these_errors_and_no_others(kind, story, expected):
    assert changes(kind, story) == expected


@pytest.mark.parametrize(
    ("kind", "exclusion"),
    [(kind, exclusion) for kind, exclusions in EXCLUSIONS.items() for exclusion in exclusions],
    ids=lambda value: getattr(value, "reason", value),
)
def test_each_exclusion_holds_and_is_no_wider_than_stated(kind, exclusion):
    kind = "article_doubled" if kind == EVERY_KIND else kind
    assert not changes(kind, exclusion.left_out)
    assert changes(kind, exclusion.taken)


def test_every_kind_has_exclusions():
    assert set(EXCLUSIONS) == {EVERY_KIND, *KINDS}


def test_sentences_do_not_end_at_a_title():
    story = 'Mr. Fox had a hat. "I see a dog! It is big." Then the dog ran off.\n\nIt ran to the sea.'
    found = list(plain_sentences(story))
    assert [str(sentence) for sentence in found] == ["Then the dog ran off.", "It ran to the sea."]
    assert all(story.startswith(sentence.before + str(sentence)) for sentence in found)


def test_the_sample_corpus_gives_pairs_of_every_kind(pairs):
    counts = Counter(pair.kind for pair in pairs)
    assert list(counts) == list(KINDS)
    assert min(counts.values()) >= 20


def test_good_sentences_are_from_their_story_and_bad_ones_from_none(pairs, stories):
    known = {sentence for story in stories for sentence in all_sentences(story)}
    for pair in pairs:
        assert pair.good in stories[pair.story] and normalized(pair.good) in known
        assert normalized(pair.bad) not in known
        assert pair.context == "" and pair.good.split()[0] == pair.bad.split()[0]


def test_each_pair_has_the_error_of_its_kind(pairs):
    articles = {"a", "an", "the"}
    for pair in pairs:
        good, bad = ([word.strip(",.!?").lower() for word in text.split()] for text in (pair.good, pair.bad))
        gone, new = Counter(good) - Counter(bad), Counter(bad) - Counter(good)
        if pair.kind == "article_deleted":
            assert set(gone) <= articles and (gone.total(), new.total()) == (1, 0)
        elif pair.kind == "article_doubled":
            assert set(new) <= articles and (gone.total(), new.total()) == (0, 1)
        elif pair.kind in SWAPPED:
            assert (gone.total(), new.total()) == (1, 1)
        else:
            assert good != bad and not gone and not new


def test_pairs_are_spread_over_stories(pairs):
    for kind in KINDS:
        of_kind = [pair for pair in pairs if pair.kind == kind]
        assert len({pair.good for pair in of_kind}) == len(of_kind)
        assert max(Counter(pair.story for pair in of_kind).values()) <= 3


@pytest.mark.parametrize("kind", SWAPPED)
def test_swapped_words_are_balanced(pairs, kind):
    swaps = Counter()
    for pair in pairs:
        if pair.kind == kind:
            [swap] = [both for both in zip(pair.good.split(), pair.bad.split(), strict=True) if both[0] != both[1]]
            swaps[tuple(word.strip(",.!?") for word in swap)] += 1
    assert swaps == Counter({swap[::-1]: count for swap, count in swaps.items()})


def test_the_same_seed_gives_the_same_pairs_whatever_else_is_asked_for(stories, pairs):
    assert make_pairs(iter(stories), per_kind=40, progress=False) == pairs
    alone = make_pairs(stories, per_kind=40, kinds=["tense"], progress=False)
    assert alone == [pair for pair in pairs if pair.kind == "tense"]
    assert make_pairs(stories, per_kind=40, kinds=["tense"], seed=1, progress=False) != alone


def test_a_sentence_of_the_stories_is_never_bad():
    story, quoted = "Then the dog ran home.", 'Tim wrote:  "Then dog ran home."'
    wanted = {"kinds": ["article_deleted"], "progress": False}
    assert [pair.bad for pair in make_pairs([story], **wanted)] == ["Then dog ran home."]
    assert not make_pairs([story, quoted], **wanted)


def test_one_story_gives_three_pairs_of_a_kind_at_most(caplog):
    story = " ".join(f"Then the {animal} ran home." for animal in "dog cat fox frog bear lion".split())
    with caplog.at_level(logging.WARNING):
        assert len(make_pairs([story], kinds=["article_doubled"], progress=False)) == 3
    assert "article_doubled 3" in caplog.text


def test_rare_swaps_are_found_among_many_frequent_ones():
    stories = ["Then Tim saw a dog."] * 500 + ["Then Tim saw an owl."]
    made = make_pairs(stories, per_kind=2, kinds=["article_swapped"], progress=False)
    assert {pair.good for pair in made} == set(stories)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kinds": ["article_delete"]}, "did you mean article_deleted"),
        ({"kinds": ["spelling of words"]}, "the kinds are article_deleted, "),
        ({"per_kind": 0}, "`per_kind` must be at least 1"),
        ({"stories": "Then the dog ran."}, "stories are a single string"),
        ({"stories": ["Then the dog ran.", None]}, "Story 2 is NoneType"),
    ],
)
def test_bad_input_gets_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message):
        make_pairs(**{"stories": ["Then the dog ran."], "progress": False, **arguments})


def test_pairs_are_written_as_tsv_and_jsonl(tmp_path):
    written = [
        Pair("article_swapped", "She had an egg.", "She had a egg.", 7),
        Pair("pronoun", "She ran.", "He ran.", 8, "Mia\thad a hat.\n\n", 4),
    ]
    write_pairs(written, tmp_path / "new" / "pairs.tsv")
    header, first, second = (tmp_path / "new" / "pairs.tsv").read_text().splitlines()
    assert header.split("\t") == ["kind", "story", "distance", "change", "good", "bad", "context"]
    assert first.split("\t")[:4] == ["article_swapped", "7", "", "She had [an -> a] egg."]
    assert second.split("\t")[2:] == ["4", "[She -> He] ran.", "She ran.", "He ran.", "Mia had a hat."]

    write_pairs(written, tmp_path / "pairs.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
    assert [Pair(**{key: row[key] for key in row if key != "change"}) for row in rows] == written
    with pytest.raises(UserError, match="must end in .tsv or .jsonl"):
        write_pairs(written, tmp_path / "pairs.csv")


# Scoring


def byte_level(stories, start: bool) -> PreTrainedTokenizerFast:
    tokenizer = train_bpe(stories[:200], vocab_size=400, progress=False)
    if not start:
        tokenizer.backend_tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer)
    return tokenizer


def metaspace(stories, start: bool) -> PreTrainedTokenizerFast:
    """A tokenizer like SentencePiece's: "▁" for a space, one more before the text, and byte fallback."""
    specials = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Prepend("▁")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(prepend_scheme="never"), pre_tokenizers.Punctuation()]
    )
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(stories[:200], trainer=trainer)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    if start:
        backend.post_processor = processors.TemplateProcessing(
            single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def rotary(**settings):
    return tiny_model(max_position_embeddings=256, **settings)


def learned_positions(**settings):
    return sharpen(GPT2LMHeadModel(GPT2Config(n_positions=256, n_embd=32, n_layer=2, n_head=2, **settings)))


@pytest.fixture(scope="module", params=[True, False], ids=["start token", "no start token"])
def start(request) -> bool:
    return request.param


@pytest.fixture(scope="module", params=[byte_level, metaspace])
def tokenizer(request, stories, start):
    return request.param(stories, start)


@pytest.fixture(scope="module", params=[rotary, learned_positions])
def model(request, tokenizer):
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    return request.param(vocab_size=len(tokenizer), **ends)


TEXTS = [
    "Then the dog ran home.",
    "It was a big, big park with many tall trees and a pond, and they all played there.",
    "Él vio 3 gatos.",
    "She ran.",
    "Then the cat ran home.",
]


def by_hand(model, tokenizer, text: str, start: bool) -> float:
    """The log-likelihood of a text by transformers' own loss, in a batch of one."""
    ids = tokenizer(text, return_tensors="pt", return_token_type_ids=False)["input_ids"]
    assert (ids[0, 0] in tokenizer.all_special_ids) == start
    with torch.no_grad():
        return -model(input_ids=ids, labels=ids).loss.double().item() * (ids.shape[1] - 1)


def test_log_likelihood_of_the_whole_text(model, tokenizer, start):
    scores = text_log_likelihoods(model, tokenizer, TEXTS, progress=False)
    assert scores.log_likelihood == pytest.approx([by_hand(model, tokenizer, text, start) for text in TEXTS], abs=1e-3)
    counts = [len(tokenizer(text)["input_ids"]) - 1 for text in TEXTS]
    assert scores.tokens.tolist() == counts


def test_padding_changes_nothing(model, tokenizer):
    contexts = ["", "", "Once there was a cat. ", "", "One day, Lily went to the park with her mom.\n\n"]
    alone, together = (
        text_log_likelihoods(model, tokenizer, TEXTS, contexts, batch_size=size, progress=False) for size in (1, 16)
    )
    for one, other in zip(alone[:3], together[:3], strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert np.concatenate(alone.by_token) == pytest.approx(np.concatenate(together.by_token), abs=1e-4)

    # A model without a causal mask would be detected.
    def look_ahead(module, arguments, output):
        output.logits = output.logits + output.logits.mean(1, keepdim=True)

    hook = model.register_forward_hook(look_ahead)
    alone, together = (
        text_log_likelihoods(model, tokenizer, TEXTS, batch_size=size, progress=False) for size in (1, 16)
    )
    hook.remove()
    assert np.abs(alone.log_likelihood - together.log_likelihood).max() > 1e-2


def test_log_likelihood_after_a_context(model, tokenizer):
    context, text = "Once there was a cat.", " She had a hat."
    after = text_log_likelihoods(model, tokenizer, [text], [context], progress=False)
    whole, first = text_log_likelihoods(model, tokenizer, [context + text, context], progress=False).log_likelihood
    assert after.log_likelihood[0] == pytest.approx(whole - first, abs=1e-3)
    moved = text_log_likelihoods(model, tokenizer, [text[1:]], [context + " "], progress=False)
    assert moved.log_likelihood == pytest.approx(after.log_likelihood, abs=1e-4)


def test_a_long_context_is_truncated_on_the_left(stories):
    tokenizer = byte_level(stories, start=True)
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=32)
    long, text = " and then the dog ran home" * 20, " to the park."
    room = 31 - len(tokenizer(text, add_special_tokens=False)["input_ids"])
    fits = tokenizer.decode(tokenizer(long, add_special_tokens=False)["input_ids"][-room:])
    scores = text_log_likelihoods(model, tokenizer, [text, text], [long, fits], progress=False)
    assert scores.log_likelihood[0] == pytest.approx(scores.log_likelihood[1], abs=1e-4)
    with pytest.raises(UserError, match="longer than the model's context of 32 tokens"):
        text_log_likelihoods(model, tokenizer, [long], progress=False)


def test_each_text_is_scored_once_and_the_model_is_unchanged(stories):
    tokenizer = byte_level(stories, start=True)
    model = tiny_model(vocab_size=len(tokenizer)).train()
    rows = []
    hook = model.register_forward_hook(lambda module, arguments, output: rows.append(output.logits.shape[0]))
    scores = text_log_likelihoods(model, tokenizer, ["She ran.", "He ran.", "She ran."], progress=False)
    hook.remove()
    assert sum(rows) == 2 and model.training
    assert scores.log_likelihood[0] == scores.log_likelihood[2] != scores.log_likelihood[1]


def test_texts_that_cannot_be_scored_are_refused(stories):
    tokenizer, without = byte_level(stories, start=True), byte_level(stories, start=False)
    model = tiny_model(vocab_size=len(tokenizer))
    initial = Pair("pronoun", "She ran.", "He ran.", 0)
    assert len(score_pairs(model, tokenizer, [initial], progress=False)) == 1
    for message, call in {
        "must share their first word": lambda: score_pairs(model, without, [initial], progress=False),
        "no texts": lambda: score_pairs(model, tokenizer, [], progress=False),
        "no tokens to score": lambda: text_log_likelihoods(model, tokenizer, [""], progress=False),
        "batch_size": lambda: text_log_likelihoods(model, tokenizer, ["a b"], batch_size=0, progress=False),
        "only 50 embeddings": lambda: text_log_likelihoods(tiny_model(vocab_size=50), tokenizer, ["She ran."]),
    }.items():
        with pytest.raises(UserError, match=message):
            call()
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    with pytest.raises(UserError, match="loss is nan"):
        text_log_likelihoods(model, tokenizer, ["She ran."], progress=False)


# Accuracy


def test_ties_count_half_and_the_interval_is_wilsons():
    margins = [1.0] * 80 + [0.0] * 2 + [-1.0] * 181
    table = accuracy([PairScore("tense", margin, 0, 0) for margin in margins] + [PairScore("word_order", -5, -7, 3)])
    assert list(table) == ["tense", "word_order"]
    assert table["tense"]["accuracy"] == 81 / 263 and table["tense"]["pairs"] == 263
    # R. G. Newcombe, Two-sided confidence intervals for the single proportion (1998), table I: 81 of 263
    assert (table["tense"]["low"], table["tense"]["high"]) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert table["word_order"]["accuracy"] == 0


def mean_accuracy(results: list[PairScore], **options) -> float:
    return float(np.mean([row["accuracy"] for row in accuracy(results, **options).values()]))


@pytest.mark.parametrize("make_tokenizer", [byte_level, metaspace])
def test_a_model_without_context_scores_exactly_one_half(pairs, stories, make_tokenizer):
    tokenizer = make_tokenizer(stories, start=True)
    counts = np.bincount(sum(tokenizer(stories)["input_ids"], []), minlength=len(tokenizer)) + 0.1
    unigram = torch.tensor(np.log(counts / counts.sum()), dtype=torch.float32)
    config = LlamaConfig(vocab_size=len(tokenizer), hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                         num_attention_heads=1)  # fmt: skip
    model = LlamaForCausalLM(config)

    def forget(module, arguments, output):
        output.logits = unigram.expand(output.logits.shape)

    model.register_forward_hook(forget)
    results = score_pairs(model, tokenizer, pairs, batch_size=64, progress=False)
    assert {kind: row["accuracy"] for kind, row in accuracy(results).items()} == dict.fromkeys(KINDS, 0.5)
    by_length = accuracy(results, correct_length=False)
    assert (by_length["article_deleted"]["accuracy"], by_length["article_doubled"]["accuracy"]) == (0, 1)


def test_an_untrained_model_scores_about_chance(pairs, stories):
    tokenizer = byte_level(stories, start=True)
    model = tiny_model(vocab_size=len(tokenizer), max_position_embeddings=256)
    assert 0.35 < mean_accuracy(score_pairs(model, tokenizer, pairs, batch_size=64, progress=False)) < 0.65


def test_a_trained_model_prefers_good_sentences_and_its_inverse_bad_ones(tiny_recipe, pairs):
    run = train(tiny_recipe(max_steps=240, check=False, eval_strategy="no"))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    results = score_pairs(model, tokenizer, pairs, batch_size=64, progress=False)
    table = accuracy(results)
    # After 240 steps, a model has learned word order, but not yet inflection.
    for kind in ("article_deleted", "article_doubled", "article_moved", "word_order"):
        assert table[kind]["low"] > 0.65, table
    assert min(row["high"] for row in table.values()) > 0.5
    assert mean_accuracy(results) > 0.65

    def invert(module, arguments, output):
        output.logits = -output.logits

    model.register_forward_hook(invert)
    assert mean_accuracy(score_pairs(model, tokenizer, pairs, batch_size=64, progress=False)) < 0.35
