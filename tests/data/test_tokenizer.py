"""Tokenizers trained on a corpus: on which stories, and that they are trained once."""

import pytest
from datasets import Dataset
from story_files import OTHER_TALES
from tokenizers import Tokenizer

from tinystories.data import tokenizer as tokenizers_of_corpora
from tinystories.data.tokenizer import corpus_tokenizer, describe_sample, sample_stories
from tinystories.tokenization import train_bpe


STORIES = [f"{tale} {number}." for number in range(12) for tale in OTHER_TALES]


@pytest.fixture
def corpus(write, load):
    return load(write("stories.txt", "<|endoftext|>".join(STORIES).encode()), text_split="<|endoftext|>")


def vocabulary(texts, size=400):
    return train_bpe(texts, size, progress=False).backend_tokenizer.to_str()


def test_the_sample_is_evenly_spaced_and_always_the_same(corpus):
    texts, number = corpus.train["text"][:], len(corpus.train)
    assert number % 100
    sample = sample_stories(corpus.train, 100)["text"][:]
    assert sample == [texts[row * number // 100] for row in range(100)] == sample_stories(corpus.train, 100)["text"]
    assert sample[-1] in texts[-4:], "the end of the corpus counts, too"
    tokenizer = corpus_tokenizer(corpus, 400, 100, model_max_length=64)
    assert tokenizer.backend_tokenizer.to_str() == vocabulary(sample) != vocabulary(texts)
    assert describe_sample(corpus.train, 100) == f"100 of {number} stories, evenly spaced"


def test_a_corpus_that_is_no_larger_than_the_sample_is_used_as_a_whole(corpus):
    number = len(corpus.train)
    for stories in ("all", number, number + 1, 100_000):
        tokenizer = corpus_tokenizer(corpus, 400, stories, model_max_length=64)
        assert tokenizer.backend_tokenizer.to_str() == vocabulary(corpus.train["text"][:])
        assert describe_sample(corpus.train, stories) is None


def test_of_a_stream_the_first_stories_are_used(corpus):
    stream = corpus.train.to_iterable_dataset()
    assert [row["text"] for row in sample_stories(stream, 5)] == corpus.train["text"][:5]
    assert describe_sample(stream, 5) == "the first 5 stories"
    corpus.train = stream
    tokenizer = corpus_tokenizer(corpus, 300, 5, model_max_length=64)
    assert tokenizer.backend_tokenizer.to_str() == vocabulary([row["text"] for row in stream.take(5)], 300)


def test_a_tokenizer_is_trained_once(corpus, tmp_path, monkeypatch):
    trained = []
    monkeypatch.setattr(
        tokenizers_of_corpora, "train_bpe", lambda *a, **k: trained.append(k) or train_bpe(*a, **k, progress=False)
    )
    first = corpus_tokenizer(corpus, 400, 20, model_max_length=64)
    again = corpus_tokenizer(corpus, 400, 20, model_max_length=32)
    assert len(trained) == 1 and again.model_max_length == 32
    again.model_max_length = 64
    first.save_pretrained(tmp_path / "first")
    again.save_pretrained(tmp_path / "again")
    for file in (tmp_path / "first").iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes(), file.name

    for size, stories in ((401, 20), (400, 21), (400, "all")):
        corpus_tokenizer(corpus, size, stories, model_max_length=64)
    assert len(trained) == 4
    corpus.fingerprint = "another corpus"
    corpus_tokenizer(corpus, 400, 20, model_max_length=64)
    assert len(trained) == 5
    kept = list(tmp_path.rglob("tokenizer-*.json"))
    assert len(kept) == 5 and all(Tokenizer.from_file(str(file)).get_vocab_size() for file in kept)


def test_a_corpus_in_memory_has_no_cache(corpus, tmp_path):
    corpus.validation = Dataset.from_dict({"text": OTHER_TALES})
    corpus_tokenizer(corpus, 300, "all", model_max_length=64)
    assert not list(tmp_path.rglob("tokenizer-*.json"))
