"""Words of texts and their encoding, compared with the `tokenizers` library."""

import json
import pickle
import random

import datasets
import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tinystories.data import synthetic as sample
from tinystories.data.packing import tokenize_stories
from tinystories.tokenization import train_bpe
from tinystories.tokenization.pretokenizer import byte_level_words, slices, split_words, text_encoder, word_encoder


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
# Characters that determine where words begin, and those that Unicode versions or definitions of a space treat apart.
PIECES = [
    *" \t\n\r\x0b\x0c\x1c\x1f\x85'''''\"!?.,stmdlrevelST0123abc\x00",
    "ll",
    "re",
    "ve",
    "'s",
    "  ",
    " '",
    "<unk>",
]
PIECES += [
    *"\u00a0\u3000\u2028\u1680\u180e\u200b\ufeff\u2019\u0660\u00b2\u00bd\u2167\u0301é中😀ß\u0e31",
    "<|endoftext|>",
]


def odd_texts(count, seed=0, length=14):
    rng = random.Random(seed)
    return ["".join(rng.choice(PIECES) for _ in range(rng.randrange(length))) for _ in range(count)]


def words_of(texts):
    words, first = split_words(pa.array(texts, pa.string()))
    words = [word.decode() for word in words.to_pylist()]
    return [words[begin:end] for begin, end in zip(first, first[1:], strict=False)]


def by_library(text):
    return [text[begin:end] for _, (begin, end) in GPT2.pre_tokenize_str(text)]


@pytest.fixture(scope="module")
def tokenizer():
    return train_bpe(list(sample.sample_stories(200, 0)), 700, progress=False)


def encode_both_ways(tokenizer, texts):
    texts = pa.chunked_array([texts])
    return word_encoder(tokenizer)(texts), text_encoder(tokenizer)(texts)


def test_words_are_those_of_the_library_in_odd_text():
    texts = odd_texts(20_000)
    for text, words in zip(texts, words_of(texts), strict=True):
        assert words == by_library(text), text


@pytest.mark.parametrize("around", ["{}", "a{}", "1{}", "!{}", "a{} b", " {}{}a", "\n{}'s"])
def test_every_character_has_the_class_of_the_library(around):
    rng = random.Random(0)
    points = [*range(0x3000), *rng.sample([*range(0x3000, 0xD800), *range(0xE000, 0x110000)], 3_000)]
    texts = [around.replace("{}", chr(point)) for point in points]
    for text, words in zip(texts, words_of(texts), strict=True):
        assert words == by_library(text), text


@pytest.mark.parametrize(
    "text", ["don't", "'tis", "'s's's", "x'll'd", "''s", " 's", "\n's", "a 've", "l'l", "'", "'re", "'r"]
)
def test_contractions(text):
    assert words_of([text, text]) == [by_library(text)] * 2, "also at the end of a text, before another"


@pytest.mark.parametrize(
    "texts", [[], [""], ["", "a", "", "", "b ", " c", ""], [" ", "  ", "\n", "a"], ["é", "", "é"]]
)
def test_words_do_not_cross_texts(texts):
    assert words_of(texts) == [by_library(text) for text in texts]


def test_byte_level_words_match_the_library():
    texts = [*odd_texts(2_000, seed=2), "", " ".join(chr(point) for point in range(0x800))]
    spelt = [word for text in texts for word, _ in GPT2.pre_tokenize_str(text)]
    assert byte_level_words(split_words(pa.array(texts))[0]).split(" ") == ["", *spelt]
    for empty in (["", ""], []):
        assert byte_level_words(split_words(pa.array(empty, pa.string()))[0]) == ""


@pytest.mark.parametrize("text", ["stories", "odd"])
def test_a_trained_vocabulary_is_that_of_the_library(text):
    texts = list(sample.sample_stories(400, 4)) if text == "stories" else odd_texts(4_000, seed=4, length=40)
    texts = [text.replace("<|endoftext|>", "").replace("<unk>", "") for text in texts]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = GPT2
    trainer = trainers.BpeTrainer(
        vocab_size=1_200,
        min_frequency=2,
        show_progress=False,
        special_tokens=["<|endoftext|>", "<|padding|>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(texts, trainer)
    ours = train_bpe(iter([texts[:50], *texts[50:]]), 1_200, progress=False).backend_tokenizer
    ours, stock = (json.loads(tokenizer.to_str()) for tokenizer in (ours, backend))
    assert ours["model"] == stock["model"] and len(ours["model"]["merges"]) == 1_200 - 259
    assert ours["pre_tokenizer"] == stock["pre_tokenizer"]


def test_a_slice_of_a_larger_array_is_read_as_such():
    texts = pa.array(["zz", "the cat", "é ran", "zz"]).slice(1, 2)
    words, first = split_words(texts)
    assert words.to_pylist() == [b"the", b" cat", "é".encode(), b" ran"] and first.tolist() == [0, 2, 4]


def test_slices_contain_all_texts_in_order(monkeypatch):
    monkeypatch.setattr("tinystories.tokenization.pretokenizer.SLICE_BYTES", 10)
    texts = ["a" * size for size in (3, 0, 7, 30, 1, 9, 1, 0)]
    parts = [part.to_pylist() for part in slices(pa.chunked_array([texts[:5], texts[5:]]))]
    assert sum(parts, []) == texts and all(len("".join(part)) <= 10 or len(part) == 1 for part in parts)
    assert [part.to_pylist() for part in slices(pa.chunked_array([[text] for text in "abc"]))] == [["a", "b", "c"]]


def test_ids_are_those_of_the_tokenizer(tokenizer, monkeypatch):
    monkeypatch.setattr("tinystories.tokenization.pretokenizer.SLICE_BYTES", 5_000)
    texts = [*sample.sample_stories(100, 1), *odd_texts(3_000, seed=1), ""]
    (ids, counts), (expected, expected_counts) = encode_both_ways(tokenizer, texts)
    assert np.array_equal(ids, expected) and np.array_equal(counts, expected_counts)


def test_ids_are_correct_after_the_cache_is_cleared(tokenizer, monkeypatch):
    monkeypatch.setattr("tinystories.tokenization.pretokenizer.MAX_WORDS", 20)
    monkeypatch.setattr("tinystories.tokenization.pretokenizer.SLICE_BYTES", 500)
    (ids, _), (expected, _) = encode_both_ways(tokenizer, list(sample.sample_stories(20, 2)))
    assert np.array_equal(ids, expected)


def test_earlier_truncation_and_padding_change_nothing(tokenizer):
    tokenizer(["the cat ran away", "a"], truncation=True, max_length=2, padding="max_length")
    (ids, _), (expected, _) = encode_both_ways(tokenizer, ["the cat ran away from the dog", "a"])
    assert np.array_equal(ids, expected) and len(ids) > 4


def test_unsupported_tokenizers_encode_complete_texts(tokenizer):
    from tokenizers import AddedToken, normalizers

    def changed(change):
        backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        change(backend)
        return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")

    def set_(name, value):
        return lambda backend: setattr(backend, name, value)

    class Own(type(tokenizer)):
        def _encode_plus(self, *args, **kwargs):
            return super()._encode_plus(*args, **kwargs)

    vocab = {"<|endoftext|>": 0, "a": 1, "b": 2}
    others = [
        changed(set_("normalizer", normalizers.Lowercase())),
        changed(set_("pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True))),
        changed(set_("pre_tokenizer", pre_tokenizers.Whitespace())),
        changed(lambda backend: backend.add_tokens([AddedToken(" the cat")])),
        changed(set_("model", models.WordLevel(vocab, unk_token="a"))),
        changed(lambda backend: setattr(backend.model, "dropout", 0.5)),
        Own(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<|endoftext|>"),
    ]
    assert word_encoder(changed(lambda backend: None)) is not None
    assert [word_encoder(other) for other in others] == [None] * len(others)
    other, story = others[3], "once the cat ran."
    (tokens,) = tokenize_stories(datasets.Dataset.from_dict({"text": [story]}), other, "added")["input_ids"]
    assert tokens == [0, *other(story, add_special_tokens=False)["input_ids"], 0] and len(other) - 1 in tokens


def test_a_story_table_is_the_same_from_several_processes_and_from_picked_rows(tokenizer, tmp_path):
    stories = datasets.Dataset.from_dict({"text": [*sample.sample_stories(30, 3), *odd_texts(30, seed=3)]})
    alone = tokenize_stories(stories, tokenizer, "alone")
    expected = [
        [0, *ids, 0]
        for ids in tokenizer(stories["text"][:], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    ]
    assert alone["input_ids"][:] == expected
    assert alone["bytes"][:] == [len(text.encode()) for text in stories["text"]]
    together = tokenize_stories(stories, tokenizer, "together", num_proc=2)
    assert together["input_ids"][:] == expected and together.features == alone.features
    picked = tokenize_stories(stories.select([40, 3, 3, 59]), tokenizer, "picked")
    assert picked["input_ids"][:] == [expected[row] for row in (40, 3, 3, 59)]
    assert len(tokenize_stories(stories.select([]), tokenizer, "none")) == 0


def test_the_encoder_can_be_sent_to_another_process(tokenizer):
    encoder = word_encoder(tokenizer)
    texts = pa.chunked_array([["the cat's hat"]])
    assert np.array_equal(pickle.loads(pickle.dumps(encoder))(texts)[0], encoder(texts)[0])
