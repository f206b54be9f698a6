"""Trained and pruned tokenizers decode every text back, also after saving, and load in other libraries."""

import json
import logging
import pickle
import random
import subprocess
import sys
from collections import Counter
from itertools import accumulate
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, GPT2Config, GPT2TokenizerFast, LlamaConfig, Phi3Config
from transformers import PreTrainedTokenizerFast as StockTokenizer

from tinystories.tokenization import (
    BOS,
    EOS,
    PAD,
    UNK,
    PreTrainedTokenizerFast,
    TokenizerError,
    build_tokenizer,
    prune_to_top_k,
    tokenizer_report,
    train_bpe,
)
from tinystories.tokenization.bpe import BASE_SIZE, BYTE_ALPHABET, SPECIAL_TOKENS


def salad(n: int, seed: int, lexicon: int = 3000) -> list[str]:
    """`n` texts of several sentences; words are made of syllables, with frequencies by Zipf's law."""
    rng = random.Random(0)  # the same words for every seed
    words = ["a", "the", "an", "and", "was", "to"]
    while len(words) < lexicon:
        words.append("".join(rng.choice("bdfgklmnprstvw") + rng.choice("aeiou") for _ in range(rng.randint(1, 4))))
    weights = list(accumulate(1 / (i + 1) for i in range(lexicon)))
    rng = random.Random(seed)
    ends = [".", ".", "!", "?", ',"', '."\n\n']

    def sentence() -> str:
        return " ".join(rng.choices(words, cum_weights=weights, k=rng.randint(4, 12))).capitalize() + rng.choice(ends)

    return [" ".join(sentence() for _ in range(rng.randint(3, 8))) for _ in range(n)]


CORPUS = salad(1500, seed=1)
HELD_OUT = salad(200, seed=2)

AWKWARD = [
    "",
    " ",
    "\n",
    "a",
    "  two  spaces  ",
    "\t\ttabs\t",
    "line\r\nline\r\n\r\n",
    "\n\n\n   \n",
    "NUL \x00 and \x7f and \x1b[0m",
    "“Don’t,” she said — ‘it’s’ … it's 'tis I'LL",
    "e\u0301 is not \u00e9, \u1100\u1161 is not \uac00, \ufb01 is not fi, \u212b is not \u00c5",
    "\ufeffbyte order mark, no\u00a0break, zero\u200bwidth, \u202eright to left\u202c",
    "family 👨‍👩‍👧‍👦, flag 🇩🇪, thumbs 👍🏽, 🦊",
    "日本語 русский العربية हिन्दी \U0010ffff \ud7ff\ue000 \ufffd \uffff",
    "don't can't we're I've she'd they'll I'm",
    "1234567890 3.14 #$%&()*+/<=>@[]^_`{|}~\\",
    " the a an The",
]


def random_texts(n: int, seed: int) -> list[str]:
    """Random characters from several ranges, so that ASCII, spaces and rare planes all occur."""
    rng = random.Random(seed)
    draws = [
        lambda: chr(rng.randrange(0x80)),
        lambda: rng.choice(" \n\t\r\u00a0\u2003'\"`"),
        lambda: rng.choice(" theand"),
        lambda: chr(rng.randrange(0x80, 0xD800)),
        lambda: chr(rng.randrange(0xE000, 0x110000)),
    ]
    return ["".join(rng.choice(draws)() for _ in range(rng.randrange(40))) for _ in range(n)]


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_bpe(CORPUS, vocab_size=1000, progress=False)


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory) -> GPT2TokenizerFast:
    """4,000 tokens in GPT-2's layout: vocab.json and merges.txt, bytes first, <|endoftext|> last."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=3999, show_progress=False, initial_alphabet=BYTE_ALPHABET)
    # Other words than those of the corpus for pruning, so that some tokens are unused.
    backend.train_from_iterator([*salad(800, seed=3), *salad(800, seed=4, lexicon=9000)], trainer)
    folder = tmp_path_factory.mktemp("gpt2")
    backend.model.save(str(folder))
    vocab = json.loads((folder / "vocab.json").read_text())
    assert len(vocab) == 3999
    (folder / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": 3999}))
    GPT2Config().save_pretrained(folder)
    tokenizer = GPT2TokenizerFast.from_pretrained(folder)
    assert tokenizer.eos_token_id == 3999 and tokenizer.pad_token is None
    return tokenizer


@pytest.fixture(scope="module")
def cut(gpt2) -> PreTrainedTokenizerFast:
    return prune_to_top_k(gpt2, CORPUS, 1000, progress=False)


@pytest.fixture(params=["trained", "cut"])
def either(request) -> PreTrainedTokenizerFast:
    """Trained and pruned tokenizers, for tests of both."""
    return request.getfixturevalue({"trained": "tokenizer", "cut": "cut"}[request.param])


def ids_of(tokenizer, text: str, **kwargs) -> list[int]:
    return tokenizer(text, add_special_tokens=False, **kwargs)["input_ids"]


def saved_config(tokenizer, folder: Path) -> tuple[dict, dict]:
    tokenizer.save_pretrained(folder)
    return (
        json.loads((folder / "tokenizer.json").read_text()),
        json.loads((folder / "tokenizer_config.json").read_text()),
    )


def test_special_tokens_then_bytes_then_merges(either):
    assert either.convert_tokens_to_ids([BOS, PAD, UNK]) == [0, 1, 2]
    assert (either.bos_token_id, either.eos_token_id, either.pad_token_id, either.unk_token_id) == (0, 0, 1, 2)
    assert BOS == EOS and len(BYTE_ALPHABET) == 256 and BASE_SIZE == 259
    assert either.convert_ids_to_tokens(list(range(3, 259))) == BYTE_ALPHABET
    assert all(len(token) > 1 for token in either.convert_ids_to_tokens(list(range(259, 1000))))
    assert len(either) == 1000 == len(set(either.get_vocab().values())) == max(either.get_vocab().values()) + 1


def test_every_text_is_decoded_exactly(either):
    for text in [*AWKWARD, *random_texts(500, seed=5), *HELD_OUT]:
        ids = ids_of(either, text)
        assert either.decode(ids) == text
        assert 2 not in ids
        assert either.decode(either(text)["input_ids"], skip_special_tokens=True) == text


def test_every_byte_has_an_id_of_its_own(either):
    """ids -> tokens -> bytes is exact in any order, also for bytes that are not valid UTF-8."""
    # GPT-2's map, from its definition: printable bytes stand for themselves, the rest for U+0100 onwards, in order.
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    char_of = {byte: chr(byte) for byte in printable} | {byte: chr(256 + i) for i, byte in enumerate(rest)}
    byte_of = {char: byte for byte, char in char_of.items()}
    data = bytes(range(256)) + random.Random(6).randbytes(1000)
    ids = either.convert_tokens_to_ids([char_of[byte] for byte in data])
    assert set(ids) == set(range(3, 259))
    assert bytes(byte_of[char] for token in either.convert_ids_to_tokens(ids) for char in token) == data
    assert either.decode(ids) == data.decode(errors="replace")


def test_prompts_begin_like_stories(either):
    words = ids_of(either, "the dog")
    assert either("the dog")["input_ids"] == [0, *words]
    assert either.encode("the dog") == [0, *words]
    assert 0 not in words
    assert either("", add_special_tokens=True)["input_ids"] == [0]
    assert either(["the", "the dog"])["input_ids"] == [[0, *ids_of(either, "the")], [0, *words]]
    assert set(either("the dog")) == {"input_ids", "attention_mask"}


def test_chat_is_a_story_that_the_user_began(either, tmp_path):
    def said(role: str, content: str) -> dict:
        return {"role": role, "content": content}

    earlier = [said("system", "Be brief."), said("user", "One day,"), said("assistant", " it rained.")]
    begun = [*earlier, said("user", "Once upon a time")]
    answered = [*begun, said("assistant", " there was a cat.")]
    either.save_pretrained(tmp_path)
    for tokenizer in (either, AutoTokenizer.from_pretrained(tmp_path)):
        prompt = tokenizer.apply_chat_template(begun, add_generation_prompt=True)["input_ids"]
        assert prompt == tokenizer("Once upon a time")["input_ids"]
        story = "Once upon a time there was a cat."
        assert tokenizer.apply_chat_template(answered, tokenize=False) == BOS + story + EOS
        assert tokenizer.apply_chat_template(answered, tokenize=False, continue_final_message=True) == BOS + story
        assert tokenizer.apply_chat_template(earlier[:1], tokenize=False, add_generation_prompt=True) == BOS
        twice = [said("user", "Hi"), said("assistant", "."), said("user", "Hi")]
        assert tokenizer.apply_chat_template(twice, tokenize=False, add_generation_prompt=True) == BOS + "Hi"


def test_pads_on_the_left_with_pad(either):
    batch = either(["the", "the the the the"], padding=True)
    short, long = batch["input_ids"]
    assert len(short) == len(long)
    assert short[0] == 1 and short[-1] != 1 and long[0] == 0
    assert batch["attention_mask"][0] == [int(i != 1) for i in short]
    assert either.model_max_length == 512
    assert len(either("the " * 600, truncation=True)["input_ids"]) == 512


def test_special_tokens_in_raw_text_are_special_unless_split(either):
    text = "the end <|endoftext|> of <|padding|> and <unk>"
    ids = ids_of(either, text)
    assert [i for i in ids if i < 3] == [0, 1, 2]
    literal = ids_of(either, text, split_special_tokens=True)
    assert min(literal) >= 3
    assert either.decode(literal) == text == either.decode(literal, skip_special_tokens=True)
    assert ids_of(either, text) == ids  # the switch is for one call


def test_saved_and_loaded_is_the_same(either, tmp_path):
    either.save_pretrained(tmp_path)
    texts = [*AWKWARD, *HELD_OUT[:50], "x <|endoftext|> y"]
    for loaded in (AutoTokenizer.from_pretrained(tmp_path), PreTrainedTokenizerFast.from_pretrained(tmp_path)):
        for kwargs in ({}, {"add_special_tokens": False}, {"split_special_tokens": True}):
            assert loaded(texts, **kwargs)["input_ids"] == either(texts, **kwargs)["input_ids"]
        assert loaded(texts, padding=True, truncation=True).data == either(texts, padding=True, truncation=True).data
        assert loaded.get_vocab() == either.get_vocab()
        assert loaded.special_tokens_map == either.special_tokens_map
        assert loaded.model_max_length == 512
        assert loaded.padding_side == "left"
        assert loaded.clean_up_tokenization_spaces is False
        assert loaded.model_input_names == ["input_ids", "attention_mask"]


@pytest.mark.parametrize("config", [LlamaConfig(), Phi3Config(), GPT2Config()], ids=lambda c: c.model_type)
def test_loads_beside_the_config_of_a_stock_model(tokenizer, tmp_path, config):
    """These model types have their own tokenizer classes, which must not be used."""
    tokenizer.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in AWKWARD:
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]


def test_folder_loads_in_transformers_4(either, tmp_path):
    backend, config = saved_config(either, tmp_path)
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["model_max_length"] == 512
    assert config["clean_up_tokenization_spaces"] is False
    assert config["model_input_names"] == [
        "input_ids",
        "attention_mask",
    ]  # no token_type_ids
    assert [config[f"{name}_token"] for name in ("bos", "eos", "pad", "unk")] == [BOS, EOS, PAD, UNK]
    assert backend["model"]["type"] == "BPE"
    assert backend["normalizer"] is None
    assert backend["pre_tokenizer"]["type"] == "ByteLevel" and not backend["pre_tokenizer"]["add_prefix_space"]
    assert [(t["id"], t["content"], t["special"], t["normalized"]) for t in backend["added_tokens"]] == [
        (i, token, True, False) for i, token in enumerate(SPECIAL_TOKENS)
    ]


def test_padding_and_truncation_of_a_call_are_not_saved(tokenizer, tmp_path):
    tokenizer(["a", "the the the"], padding=True, truncation=True, max_length=2)
    assert tokenizer.backend_tokenizer.padding and tokenizer.backend_tokenizer.truncation  # else this tests nothing
    backend, _ = saved_config(tokenizer, tmp_path)
    assert backend["padding"] is None and backend["truncation"] is None
    raw = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert len(raw.encode("the " * 600).ids) > 600


def test_saved_again_after_loading_is_the_same_file(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "one")
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path / "one")
    loaded(["a", "the the"], padding="max_length", truncation=True)
    loaded.save_pretrained(tmp_path / "two")
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_is_a_stock_tokenizer_that_pickles(tokenizer):
    assert isinstance(tokenizer, StockTokenizer)
    copy = pickle.loads(pickle.dumps(tokenizer))
    assert type(copy) is PreTrainedTokenizerFast
    assert copy("the dog")["input_ids"] == tokenizer("the dog")["input_ids"]


def test_training_is_repeatable_and_takes_strings_lists_and_generators(tokenizer):
    def batches():
        for i in range(0, len(CORPUS), 100):
            yield CORPUS[i : i + 100]

    again = train_bpe(batches(), vocab_size=1000, progress=False)
    assert again.backend_tokenizer.to_str() == train_bpe(iter(CORPUS), 1000, progress=False).backend_tokenizer.to_str()
    assert again.get_vocab() == tokenizer.get_vocab()


def test_special_names_in_the_corpus_are_not_learned():
    texts = [text + EOS + PAD for text in CORPUS]
    with_names = train_bpe(texts, vocab_size=600, progress=False)
    assert with_names.get_vocab() == train_bpe(CORPUS, vocab_size=600, progress=False).get_vocab()


def test_a_small_corpus_gives_a_smaller_tokenizer_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        small = train_bpe(["the dog and the dog"], vocab_size=5000, progress=False)
    assert BASE_SIZE < len(small) < 300
    assert len(caplog.records) == 1
    message = caplog.records[0].message
    assert f"{len(small)} entries" in message and "5,000" in message and "\n" not in message
    caplog.clear()
    train_bpe(["the dog and the dog"], vocab_size=len(small), progress=False)
    assert not caplog.records


@pytest.mark.parametrize(
    "texts", [[], iter([]), [""], ["", ""], [[]]], ids=["none", "no more", "empty", "two empty", "a list"]
)
def test_empty_corpus_is_refused(texts, gpt2, tokenizer):
    texts = list(texts)
    for use in (
        lambda: train_bpe(texts, progress=False),
        lambda: prune_to_top_k(gpt2, texts, 1000, progress=False),
        lambda: tokenizer_report(tokenizer, texts),
    ):
        with pytest.raises(TokenizerError, match="no text"):
            use()


@pytest.mark.parametrize(
    ("texts", "complaint"),
    [
        ("one long string", "pass a list"),
        (["fine", None], "Text 2 is of type NoneType"),
        ([["fine", "fine"], ["fine", 3]], "Text 4 is of type int"),
        ([b"bytes"], "Text 1 is of type bytes"),
        (["fine", "half \ud83d"], "Text 2 contains an unpaired surrogate"),
    ],
)
def test_wrong_texts_are_named(texts, complaint):
    with pytest.raises(TokenizerError, match=complaint) as error:
        train_bpe(texts, vocab_size=300, progress=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("size", [-1, 0, 256, 259])
def test_too_small_vocabulary_is_refused(size, gpt2):
    with pytest.raises(TokenizerError, match="at least 260 are needed"):
        train_bpe(CORPUS, vocab_size=size, progress=False)
    with pytest.raises(TokenizerError, match="at least 260 are needed"):
        prune_to_top_k(gpt2, CORPUS, size, progress=False)


def test_smallest_vocabulary_has_one_merge(gpt2):
    for tokenizer in (train_bpe(CORPUS, 260, progress=False), prune_to_top_k(gpt2, CORPUS, 260, progress=False)):
        assert len(tokenizer) == 260 and len(tokenizer.convert_ids_to_tokens(259)) == 2
        assert tokenizer.decode(ids_of(tokenizer, HELD_OUT[0])) == HELD_OUT[0]


def test_backend_without_the_layout_is_refused(gpt2):
    with pytest.raises(ValueError, match="ids 0, 1, 2"):
        build_tokenizer(gpt2.backend_tokenizer, 512)


def test_progress_goes_to_stderr(capsys):
    train_bpe(CORPUS, vocab_size=300, total=len(CORPUS), progress=True)
    out, err = capsys.readouterr()
    assert out == "" and f"{len(CORPUS)}/{len(CORPUS)}" in err and "Learning 41 merges" in err
    train_bpe(CORPUS, vocab_size=300, progress=False)
    assert capsys.readouterr() == ("", "")


def test_report(tokenizer):
    report = tokenizer_report(tokenizer, iter(HELD_OUT))
    ids = [ids_of(tokenizer, text) for text in HELD_OUT]
    n_bytes = sum(len(text.encode()) for text in HELD_OUT)
    assert report["tokens"] == sum(map(len, ids)) and report["bytes"] == n_bytes
    assert report["bytes_per_token"] == pytest.approx(n_bytes / report["tokens"])
    assert report["vocab_size"] == 1000
    assert report["single_token"] == {" a": True, " an": True, " the": True}
    assert report["unused_tokens"] == 997 - len({i for row in ids for i in row})
    json.dumps(report)


def test_report_counts_bytes_and_literal_names():
    without = train_bpe(["xyz xyz xyz"], vocab_size=262, progress=False)
    text = "é 🦊 <|endoftext|>"
    report = tokenizer_report(without, [text])
    assert report["bytes"] == len(text.encode()) == report["tokens"]  # nothing to merge, nothing special
    assert report["single_token"] == {" a": False, " an": False, " the": False}


MEASURE = """
import sys
from tinystories.tokenization import train_bpe

def texts(megabytes):
    words = " ".join(chr(97 + i) + chr(97 + j) + chr(97 + k) for i in range(26) for j in range(26) for k in range(3))
    for i in range(int(megabytes * 1e6 / len(words))):
        yield f"{i % 100} {words}"  # 8 kB, a new string each time

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

train_bpe(texts(1), 500, progress=False)
before = peak()
train_bpe(texts(float(sys.argv[1])), 500, progress=False)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from Linux's /proc")
def test_memory_does_not_grow_with_the_corpus():
    """30 MB of text must need much less memory. The peak is measured in a separate process, because it never falls."""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", MEASURE, "30"], cwd=root, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 12, f"the peak rose by {done.stdout.strip()} MiB"


def test_merges_are_learned_from_the_first_distinct_words(monkeypatch, caplog):
    numbers = [f"{CORPUS[n % len(CORPUS)]} {n}" for n in range(600)]
    expected = train_bpe(numbers, 400, progress=False).get_vocab()
    known = len(
        {
            word
            for text in numbers
            for word, _ in pre_tokenizers.ByteLevel(add_prefix_space=False).pre_tokenize_str(text)
        }
    )
    monkeypatch.setattr("tinystories.tokenization.bpe.MAX_WORDS", known)
    assert train_bpe(numbers, 400, progress=False).get_vocab() == expected and not caplog.messages
    monkeypatch.setattr("tinystories.tokenization.bpe.MAX_WORDS", known - 5)
    train_bpe(numbers, 400, progress=False)
    assert f"more than {known - 5:,} distinct words" in caplog.text
    assert "5 occurrences of others are left out" in caplog.text
    monkeypatch.setattr("tinystories.tokenization.bpe.MAX_WORDS", 2)
    few = train_bpe([["zz zz", "yy zz"], "yy yy zz yy"], 262, progress=False)
    assert {token for token in few.get_vocab() if len(token) > 1 and token not in SPECIAL_TOKENS} == {"zz", "Ġzz"}


MEASURE_WORDS = (
    MEASURE.partition("def texts")[0]
    + """
from tinystories.tokenization import bpe

def texts(count):
    for begin in range(0, count, 100):
        yield " ".join(map(str, range(10_000_000 + begin, 10_000_000 + begin + 100)))

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

bpe.MAX_WORDS = int(sys.argv[1])
train_bpe(texts(20_000), 300, progress=False)
before = peak()
train_bpe(texts(300_000), 300, progress=False)
print(peak() - before)
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of a process from Linux's /proc")
def test_memory_does_not_grow_with_the_number_of_distinct_words():
    root = Path(__file__).resolve().parents[2]
    growth = []
    for words in (20_000, 300_000):
        command = [sys.executable, "-c", MEASURE_WORDS, str(words)]
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
        growth.append(float(done.stdout))
    assert growth[0] < 15 < 100 < growth[1], f"the peak rose by {growth} MiB"


# --- pruning ---------------------------------------------------------------------------------------------------


def test_kept_tokens_are_encoded_as_before(gpt2, cut):
    """Text that was encoded as one token still is, if that token was kept."""
    kept = set(cut.get_vocab()) - set(SPECIAL_TOKENS)
    assert kept <= set(gpt2.get_vocab())
    checked = 0
    for token in kept:
        text = gpt2.decode(gpt2.convert_tokens_to_ids([token]))
        if gpt2.convert_ids_to_tokens(gpt2(text)["input_ids"]) == [token]:
            assert cut.convert_ids_to_tokens(ids_of(cut, text)) == [token]
            checked += 1
    assert checked > 700  # all but single bytes that are not valid UTF-8


def test_kept_merges_keep_their_order_and_their_halves(gpt2, cut):
    def merges_of(tokenizer):
        return [tuple(pair) for pair in json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]]

    before, after = merges_of(gpt2), merges_of(cut)
    rank = {pair: i for i, pair in enumerate(before)}
    assert [rank[pair] for pair in after] == sorted(rank[pair] for pair in after)
    assert {left + right for left, right in after} == set(cut.convert_ids_to_tokens(list(range(259, 1000))))
    vocab = set(cut.get_vocab())
    assert all(left in vocab and right in vocab for left, right in after)


def test_pruned_tokens_are_sorted_by_count(cut):
    used = Counter(i for row in cut(CORPUS, add_special_tokens=False)["input_ids"] for i in row)
    counts = [used[i] for i in range(259, 1000)]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 100 * max(counts[-1], 1)


def test_pruning_keeps_what_the_corpus_uses(gpt2, cut):
    """Better than the first merges of the large tokenizer, and close to a BPE trained on the corpus."""
    model = json.loads(gpt2.backend_tokenizer.to_str())["model"]
    first = [tuple(pair) for pair in model["merges"][: 1000 - BASE_SIZE]]
    tokens = [*SPECIAL_TOKENS, *BYTE_ALPHABET, *(left + right for left, right in first)]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=first))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    head = build_tokenizer(backend, 512)
    own = train_bpe(CORPUS, 1000, progress=False)
    score = {
        name: tokenizer_report(each, HELD_OUT)["bytes_per_token"]
        for name, each in {"whole": gpt2, "cut": cut, "head": head, "own": own}.items()
    }
    assert score["head"] < score["cut"] < score["whole"]
    assert score["cut"] > 0.97 * score["own"]
    assert all(tokenizer_report(cut, HELD_OUT)["single_token"].values())


def by_hand(merges: list[tuple[str, str]]) -> StockTokenizer:
    tokens = [*BYTE_ALPHABET, *dict.fromkeys(left + right for left, right in merges), "<|endoftext|>"]
    backend = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return StockTokenizer(tokenizer_object=backend, eos_token="<|endoftext|>")


def test_intermediate_tokens_are_kept_and_unused_ones_removed(caplog):
    """With one used word, its merges are kept, and others are removed until `k` entries are left."""
    chain = [("a", "b"), ("c", "d"), ("ab", "cd"), ("e", "f"), ("ef", "g"), ("abcd", "ef")]
    tokenizer = by_hand(chain)
    with caplog.at_level(logging.WARNING):
        cut = prune_to_top_k(tokenizer, ["abcd" * 3], BASE_SIZE + 3, progress=False)
    assert set(cut.get_vocab()) - set(SPECIAL_TOKENS) - set(BYTE_ALPHABET) == {"ab", "cd", "abcd"}
    assert cut.convert_ids_to_tokens(259) == "abcd"
    assert not caplog.records  # "ab" and "cd" never occur themselves, but without them "abcd" could not
    two = prune_to_top_k(tokenizer, ["abcd" * 3, "efg efg efg efg"], BASE_SIZE + 5, progress=False)
    assert {"ab", "cd", "abcd", "ef", "efg"} < set(two.get_vocab())
    with caplog.at_level(logging.WARNING):
        spare = prune_to_top_k(tokenizer, ["abcd"], BASE_SIZE + 5, progress=False)
    assert len(spare) == BASE_SIZE + 5
    assert [record.message for record in caplog.records] == [
        f"2 of the {BASE_SIZE + 5} entries are unused in this corpus: a vocabulary of {BASE_SIZE + 3} entries encodes "
        f"it identically."
    ]


def test_counts_of_a_removed_token_are_added_to_its_halves():
    """ "abc" is rarer than "xy", but "ab", its remaining half, is more frequent in total."""
    tokenizer = by_hand([("a", "b"), ("ab", "c"), ("ab", "d"), ("x", "y")])
    cut = prune_to_top_k(tokenizer, ["abc " * 4 + "abd " * 4 + "xy " * 5], BASE_SIZE + 1, progress=False)
    assert cut.convert_ids_to_tokens(259) == "ab"


def test_a_token_with_two_merges_keeps_the_used_one():
    """ "abc" is listed as a+bc and as ab+c; bc is never made from "abc", since a+b comes first."""
    tokenizer = by_hand([("a", "b"), ("b", "c"), ("a", "bc"), ("ab", "c")])
    cut = prune_to_top_k(tokenizer, ["abc abc"], BASE_SIZE + 2, progress=False)
    assert {"ab", "abc"} < set(cut.get_vocab()) and "bc" not in cut.get_vocab()
    assert cut.convert_ids_to_tokens(ids_of(cut, "abc")) == ["abc"]


def test_token_spelt_like_a_special_one_is_not_kept():
    tokenizer = by_hand([("u", "n"), ("un", "k"), ("<", "unk"), ("<unk", ">"), ("<unk>", "!"), ("a", "b")])
    cut = prune_to_top_k(tokenizer, ["<unk>! ab"], BASE_SIZE + 4, progress=False)
    assert set(cut.convert_ids_to_tokens(list(range(259, 263)))) == {"un", "unk", "<unk", "ab"}
    with pytest.raises(TokenizerError, match=f"{BASE_SIZE + 4} entries"):
        prune_to_top_k(tokenizer, ["ab"], BASE_SIZE + 5, progress=False)
    assert cut.convert_tokens_to_ids(UNK) == 2
    assert cut.decode(ids_of(cut, "<unk>! ab", split_special_tokens=True)) == "<unk>! ab"


def test_pruning_does_not_change_the_source_and_reads_a_generator_once(gpt2, cut):
    before = gpt2.backend_tokenizer.to_str()
    again = prune_to_top_k(gpt2, (text for text in CORPUS), 1000, progress=False)
    assert gpt2.backend_tokenizer.to_str() == before
    assert again.get_vocab() == cut.get_vocab()


def test_pruning_nothing_changes_no_encoding(gpt2):
    """With the largest k, every text is encoded as before, with other ids."""
    available = 3 + 3999
    with pytest.raises(TokenizerError, match=f"only {available:,} entries"):
        prune_to_top_k(gpt2, CORPUS, available + 1, progress=False)
    whole = prune_to_top_k(gpt2, CORPUS, available, progress=False)
    for text in [*AWKWARD, *HELD_OUT]:
        assert whole.convert_ids_to_tokens(ids_of(whole, text)) == gpt2.convert_ids_to_tokens(gpt2(text)["input_ids"])


def test_pruning_of_another_layout(tmp_path):
    """Not GPT-2's: separate digits, a prefix space, a normalizer, other special tokens."""
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=True)]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=900, show_progress=False, initial_alphabet=BYTE_ALPHABET, special_tokens=["<s>", "</s>", "<unk>"]
    )
    backend.train_from_iterator([*CORPUS, "1234 " * 50, "<s> <unk> " * 50], trainer)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    source = StockTokenizer(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    source.add_tokens(["dog dog"])
    cut = prune_to_top_k(source, CORPUS, 500, model_max_length=128, progress=False)
    assert len(cut) == 500 and cut.model_max_length == 128
    assert cut.convert_tokens_to_ids([BOS, PAD, UNK]) == [0, 1, 2]
    assert cut("the dog dog")["input_ids"] == [0, *ids_of(cut, "the dog dog")]
    assert len(ids_of(cut, "1234")) == 4  # the pre-tokenizer is kept
    assert min(ids_of(cut, "<s> and </s>")) > 2  # special there, text here
    for text in [*AWKWARD, *random_texts(100, seed=7)]:
        assert cut.decode(ids_of(cut, text)) == text


def wordpiece():
    return Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1}, unk_token="[UNK]"))


def unigram():
    return Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))


def sentencepiece_bpe():
    return Tokenizer(models.BPE(vocab={"<unk>": 0, "▁": 1, "a": 2}, merges=[], unk_token="<unk>", byte_fallback=True))


def metaspace_bpe():
    backend = Tokenizer(models.BPE(vocab={"▁": 0, "a": 1}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    return backend


def word_end_bpe():
    backend = Tokenizer(models.BPE(vocab={"a</w>": 0, "a": 1}, merges=[], end_of_word_suffix="</w>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    return backend


def character_bpe():
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return backend


def some_bytes_bpe():
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    return backend


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (wordpiece, "WordPiece"),
        (unigram, "Unigram"),
        (sentencepiece_bpe, "BPE"),
        (metaspace_bpe, "BPE"),
        (word_end_bpe, "BPE"),
        (character_bpe, "BPE"),
        (some_bytes_bpe, "BPE"),
    ],
)
def test_pruning_another_kind_of_tokenizer_is_an_error(make, kind):
    with pytest.raises(TokenizerError, match=rf"\({kind}\) cannot be pruned: use a fast tokenizer") as error:
        prune_to_top_k(StockTokenizer(tokenizer_object=make()), CORPUS, 1000, progress=False)
    assert "\n" not in str(error.value)


def test_pruning_a_slow_tokenizer_is_an_error():
    with pytest.raises(TokenizerError, match="object .not a fast tokenizer. cannot be pruned"):
        prune_to_top_k(object(), CORPUS, 1000, progress=False)
