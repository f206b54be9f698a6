"""SentencePiece tokenizers become tokenizers of transformers that encode the same, and models come with them."""

import random
from itertools import islice

import pytest
from transformers import AutoTokenizer

from tinystories.interop.spm import load_piece_tokenizer
from tinystories.sample import sample_stories


sentencepiece = pytest.importorskip("sentencepiece")

LLAMA2C = {  # train_vocab() in llama2.c's tinystories.py
    "model_type": "bpe",
    "character_coverage": 1.0,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
    "byte_fallback": True,
    "unk_surface": r" \342\201\207 ",
    "normalization_rule_name": "identity",
}
KINDS = {
    "llama2.c 512": {**LLAMA2C, "vocab_size": 512},
    "llama2.c 4096": {**LLAMA2C, "vocab_size": 4096},
    "Llama 2": {**LLAMA2C, "vocab_size": 1000, "remove_extra_whitespaces": False},
    "char, identity": {"model_type": "char", "vocab_size": 105, "normalization_rule_name": "identity"},
    "char": {"model_type": "char", "vocab_size": 105},
    "char, bytes": {"model_type": "char", "vocab_size": 400, "byte_fallback": True},
    "bpe": {"model_type": "bpe", "vocab_size": 800},
    "bpe, few characters": {"model_type": "bpe", "vocab_size": 300, "character_coverage": 0.98},
    "bpe, spaces kept": {"model_type": "bpe", "vocab_size": 800, "remove_extra_whitespaces": False},
    "bpe, no space in front": {**LLAMA2C, "vocab_size": 600, "add_dummy_prefix": False},
    "unigram": {"model_type": "unigram", "vocab_size": 700},
    "unigram, identity, bytes": {
        "model_type": "unigram", "vocab_size": 900, "byte_fallback": True, "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
    },
    "nfkc": {"model_type": "bpe", "vocab_size": 500, "normalization_rule_name": "nfkc"},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A function that trains a SentencePiece model: `trained("char")`, or with settings of its own."""
    folder = tmp_path_factory.mktemp("sentencepiece")
    stories = [story.replace("\n", " ") for story in islice(sample_stories(2500), 2500)]
    (folder / "stories.txt").write_text(
        "\n".join(
            [*stories, "The café é ½ “quoted”  twice ... & 100% (a+b)=[c] {d} <s> </s> <0x41> #1 @home_x|y~z^ *\\"]
        ),
        encoding="utf-8",
    )

    def train(kind, **settings):
        prefix = folder / "".join(letter if letter.isalnum() else "_" for letter in f"{kind}{settings}")
        if not prefix.with_suffix(".model").exists():
            sentencepiece.SentencePieceTrainer.train(
                input=str(folder / "stories.txt"), model_prefix=str(prefix), num_threads=1, minloglevel=2,
                hard_vocab_limit=False, **{**KINDS.get(kind, {}), **settings},
            )  # fmt: skip
        return prefix.with_suffix(".model")

    return train


def odd_lines(count, seed=0):
    """Lines with all that normalisation and unknown characters are about."""
    chance = random.Random(seed)
    stories = list(islice(sample_stories(200, seed=3), 200))
    odd = [
        *(" ", "  ", "\t", "\n", "\r\n", "\u00a0", "\u3000", "\u200b", "\u200d", "\x07", "▁", "<0x0A>", "<0x41>"),
        *("é", "e\u0301", "ế", "e\u0302\u0301", "½", "ﬁ", "Ａ", "…", "™", "①", "～", "ß", "İ", "Ω", "日本", "한국"),
        *("😀", "👩\u200d👧", "❤\ufe0f", "q", "Q", "“"),
    ]

    def one():
        story = chance.choice(stories)
        begin = chance.randrange(len(story))
        text = story[begin : begin + chance.randrange(1, 120)]
        kind = chance.randrange(5)
        if kind == 1:
            text = "".join(chance.choice(odd) for _ in range(chance.randrange(1, 15)))
        if kind == 2:
            text = text.replace(" ", "  ")
        if kind >= 3:
            words = text.split(" ")
            for _ in range(chance.randrange(1, 5)):
                words.insert(chance.randrange(len(words) + 1), chance.choice(odd))
            text = (
                chance.choice(["", " ", "   ", "\n"]) + chance.choice(["", " "]).join(words) + chance.choice(["", " "])
            )
        return text

    fixed = [
        *("", " ", "   ", "\t", "\n", "▁", " ▁ ", "a", " a ", "a  b", "a\r\nb", "½\u200d½", "\u00a0\u0301", "\x07"),
        *("²\ufe0f", "<s>", "\u200d\u200b"),
    ]
    return fixed + [one() for _ in range(count - len(fixed))]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece(kind, trained, tmp_path):
    file = trained(kind)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
    load_piece_tokenizer(file, theirs.vocab_size(), 96).save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    lines = odd_lines(1_000)
    expected = [[theirs.bos_id(), *ids] for ids in theirs.encode(lines)]
    found = tokenizer(lines, split_special_tokens=True)["input_ids"]
    differ = [(line, ours, ids) for line, ours, ids in zip(lines, found, expected, strict=True) if ours != ids]
    assert not differ, f"{len(differ)}: {ascii(differ[0])}"
    assert any(theirs.unk_id() in ids for ids in expected) != bool(KINDS[kind].get("byte_fallback"))

    for ids in expected:
        if theirs.unk_id() not in ids:
            text = tokenizer.decode(ids, skip_special_tokens=True)
            # Where no space is put in front, the library takes one away nevertheless.
            assert text.lstrip(" ") == theirs.decode(ids).lstrip(" ")
    for story in ("Once upon a time there was a girl.", "She had a red ball, and she loved it."):
        ids = tokenizer(story)["input_ids"]
        assert theirs.unk_id() in ids or tokenizer.decode(ids, skip_special_tokens=True) == theirs.decode(ids)


def test_another_normalisation_would_be_seen(trained):
    """The control: these lines tell the kinds apart."""
    lines = odd_lines(300)
    for one, other in (("char", "char, identity"), ("bpe", "bpe, spaces kept")):
        file = trained(one)
        theirs = sentencepiece.SentencePieceProcessor(model_file=str(file))
        spec = sentencepiece.SentencePieceProcessor(model_file=str(trained(other)))
        pieces = [[model.id_to_piece(i) for i in ids] for model in (theirs, spec) for ids in model.encode(lines)]
        assert pieces[:300] != pieces[300:]
