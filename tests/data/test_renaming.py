import re

import datasets
import pyarrow as pa
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast, default_data_collator

from tinystories.data.names import BOYS, FIRST_NAMES, GIRLS, MORE_BOYS, MORE_GIRLS
from tinystories.data.packing import PackedStories, encode_stories, tokenize_stories
from tinystories.data.renaming import NameTokens
from tinystories.data.streaming import PackedStream
from tinystories.tokenization import train_bpe


GENDER = {name: gender for gender, names in enumerate((GIRLS + MORE_GIRLS, BOYS + MORE_BOYS)) for name in names}
TALE = (
    "Once upon a time there was a girl called {girl}. {girl} and {boy} saw a big tree.\n{boy} said, "
    '"{girl}, look!" They saw {girl}\'s ball under the tree. "It is {boy}’s," said {girl}. {boy} was happy.'
)
# Frequent names become single tokens, and the others several.
PAIRS = [(girl, boy) for girl, boy in zip(GIRLS[:12], BOYS[:12], strict=True) for _ in range(12)]
PAIRS += list(zip(GIRLS[12:90], BOYS[12:90], strict=True))
TALES = [TALE.format(girl=girl, boy=boy) for girl, boy in PAIRS]
WORDS = re.compile(r"[^\W\d_]+|[\W\d_]")


def byte_level() -> PreTrainedTokenizerFast:
    return train_bpe(TALES, 420, progress=False)


def sentencepiece() -> PreTrainedTokenizerFast:
    """A tokenizer like SentencePiece's: "▁" for a space, and one more before the text."""
    specials = ["<unk>", "<s>", "</s>", "<pad>", *(f"<0x{byte:02X}>" for byte in range(256))]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    backend.normalizer = normalizers.Prepend("▁")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="never"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.Split("\n", "isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=specials, show_progress=False)
    backend.train_from_iterator(TALES, trainer=trainer)
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>"
    )


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


def pack(tokenizer, texts, rename=True, context=256, overlap=32, **options):
    stories = tokenize_stories(
        datasets.Dataset.from_dict({"text": texts}), tokenizer, f"renaming-{hash(tuple(texts))}"
    )
    names = NameTokens(tokenizer) if rename else None
    pad = tokenizer.pad_token_id
    return PackedStories(stories, context=context, overlap=overlap, pad_token_id=pad, rename=names, **options)


def texts_of(rows, tokenizer, epoch=0):
    """The text of each document of packed rows, in their order."""
    rows.set_epoch(epoch)
    texts = []
    for row in rows.__getitems__(list(range(len(rows)))):
        texts += [decode(tokenizer, story) for story in documents(row)]
    return [text for text in texts if text]


def documents(row):
    starts = (row["position_ids"] == 0).nonzero().flatten().tolist() + [len(row["input_ids"])]
    return [row["input_ids"][start:end] for start, end in zip(starts, starts[1:], strict=False)]


def left_out(tokenizer):
    return (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)


def decode(tokenizer, ids):
    """Unlike `skip_special_tokens`, it keeps the byte tokens of SentencePiece."""
    return tokenizer.decode([index for index in ids.tolist() if index not in left_out(tokenizer)])


def new_names(old, new):
    """The new name of each name, after checking that nothing else differs between two stories."""
    old_words, new_words = WORDS.findall(old), WORDS.findall(new)
    assert len(old_words) == len(new_words)
    names = {}
    for before, after in zip(old_words, new_words, strict=True):
        if before in FIRST_NAMES:
            assert names.setdefault(before, after) == after, "half-renamed"
        else:
            assert before == after
    assert len(set(names.values())) == len(names), "merged characters"
    return names


@pytest.mark.parametrize("make", [byte_level, sentencepiece])
def test_rows_hold_the_same_stories_with_other_names(make):
    tokenizer = make()
    rows, plain = pack(tokenizer, TALES), pack(tokenizer, TALES, rename=False)
    before, renamed, mixed_lengths = texts_of(plain, tokenizer), 0, set()
    for old, new in zip(before, texts_of(rows, tokenizer), strict=True):
        names = new_names(old, new)
        assert all(GENDER[name] == GENDER[other] for name, other in names.items())
        changed = {name: other for name, other in names.items() if name != other}
        assert names.keys().isdisjoint(changed.values())
        renamed += bool(changed)
        mixed_lengths |= {len(tokenizer.tokenize(f"a {name}")) for name in changed}
    assert renamed > 0.85 * len(TALES) and len(mixed_lengths) > 1
    for row, other in zip(rows, plain, strict=True):
        # The tokens are those of the new text, and not other tokens that decode to it.
        for story in documents(row):
            inner = [index for index in story.tolist() if index not in left_out(tokenizer)]
            assert tokenizer(tokenizer.decode(inner), add_special_tokens=False)["input_ids"] == inner
        assert torch.equal(row["position_ids"], other["position_ids"])
        scored = row["labels"] != -100
        assert torch.equal(scored, other["labels"] != -100)
        assert torch.equal(row["labels"][scored], row["input_ids"][scored])


def test_names_differ_between_epochs_and_seeds_and_are_spread(tokenizer):
    rows, texts = pack(tokenizer, TALES), []
    for epoch in (0, 1, 0):
        texts.append(texts_of(rows, tokenizer, epoch))
    assert texts[0] == texts[2]
    assert sum(one != other for one, other in zip(*texts[:2], strict=True)) > 0.6 * len(TALES)
    other_seed = pack(tokenizer, TALES, seed=1)
    assert sorted(texts_of(other_seed, tokenizer)) != sorted(texts[0])
    # All epochs together use many names for the girl of the first twelve stories.
    drawn = {name for epoch in range(12) for text in texts_of(rows, tokenizer, epoch) for name in WORDS.findall(text)}
    assert len(drawn & GENDER.keys()) > 150


KEPT = {  # stories whose first name must stay, and the same with a name that can be replaced
    "Lily saw a lily in the tree. Lily was happy.": "Lily saw a ball in the tree. Lily was happy.",
    '"TIM!" said Mia. Tim was happy.': '"Tim!" said Mia. Tim was happy.',
    "Tim was happy. Timmy saw a tree.": "Tim was happy. Max saw a tree.",
    "Tim was happy. Timothy saw a tree.": "Tim was happy. Thomas saw a tree.",
    "Anna-lise saw Anna.": "Anna saw Anna.",
    "Sam, the ice-Sam, was happy.": "Sam, the ice Sam, was happy.",
    "Tim was called Tim\u0301.": "Tim was called Tim.",
}


@pytest.mark.parametrize("kept", KEPT)
def test_a_name_that_occurs_in_another_form_stays(tokenizer, kept):
    name = "Tim" if kept.startswith('"') else WORDS.findall(kept)[0]
    for story, stays in ((kept, True), (KEPT[kept], False)):
        rows = pack(tokenizer, [story], length=256)
        for epoch in range(3):
            (text,) = texts_of(rows, tokenizer, epoch)
            assert (name in WORDS.findall(text)) == stays, text


def test_stories_without_first_names_are_unchanged(tokenizer):
    texts = ["Once upon a time there was a big tree. The tree was happy.", "Whiskers saw a ball.", ""]
    rows = pack(tokenizer, texts, length=256)
    assert sorted(texts_of(rows, tokenizer)) == sorted(texts[:2])
    assert rows.renaming_report().stories == 0


def test_parts_of_a_long_story_get_the_same_names(tokenizer):
    long = "\n".join(TALE.format(girl="Lily", boy="Tom") for _ in range(8))
    rows = pack(tokenizer, [long, *TALES[:40]], context=64, overlap=8)
    parts = [segment for segment in range(len(rows._segments.story)) if rows._segments.story[segment] == 0]
    assert len(parts) > 5
    # Parts are joined by what they repeat, so names that are split between parts count as well.
    tokens = torch.full((int(rows._segments.start[parts].max()) + 64,), -1)
    for row, item in enumerate(rows.__getitems__(list(range(len(rows))))):
        begin = 0
        for segment in range(rows._row_starts[row], rows._row_starts[row + 1]):
            length, start = rows._segments.length[segment], rows._segments.start[segment]
            if segment in parts:
                new = item["input_ids"][begin : begin + length]
                known = tokens[start : start + length]
                assert torch.equal(known[known >= 0], new[known >= 0])
                tokens[start : start + length] = new
            begin += length
    text = decode(tokenizer, tokens[tokens >= 0])
    assert all(name != other for name, other in new_names(long, text).items())


def test_running_workers_use_the_names_of_the_next_epoch(tokenizer):
    rows = pack(tokenizer, TALES)
    loader = DataLoader(
        rows, batch_size=2, num_workers=2, persistent_workers=True, collate_fn=default_data_collator, shuffle=False
    )
    for epoch in range(3):
        rows.set_epoch(epoch)
        expected = torch.stack([row["input_ids"] for row in rows.__getitems__(list(range(len(rows))))])
        assert torch.equal(torch.cat([batch["input_ids"] for batch in loader]), expected)


def test_streamed_stories_get_other_names_each_time(tokenizer):
    stories = datasets.Dataset.from_dict({"text": TALES[:16]}).to_iterable_dataset()

    def texts():
        stream = PackedStream(stories, tokenizer, context=256, overlap=8, rename=NameTokens(tokenizer))
        found = []
        for row in stream:
            found.append(decode(tokenizer, row["input_ids"]))
            if len(found) == 40:
                return found, stream.renaming_report()

    found, report = texts()
    assert texts()[0] == found
    assert report.stories == 1 and report.mentions == 1
    assert len(set(found)) == 40


def test_the_report_counts_stories_and_names(tokenizer):
    rows = pack(tokenizer, ["Lily saw a tree. Lily was happy.", "Lily saw a lily.", "A tree.", "Spot saw Tom."])
    report = rows.renaming_report()
    assert report.stories == 0.5 and report.mentions == pytest.approx(3 / 5)
    assert str(report).startswith("60% of the mentions, in 50% of the stories, are replaced by ")
    assert 10 < report.names < len(GENDER)
    assert pack(tokenizer, TALES[:2], rename=False).renaming_report() is None


def test_names_at_the_edges_of_a_file_of_tokens(tokenizer):
    """The scan covers all stories of a chunk at once; the last token of one is beside the first of the next."""
    names = NameTokens(tokenizer)
    table = encode_stories(tokenizer)(pa.table({"text": ["Lily", "y saw Tim", "Tim", "my saw Lily"]}))
    tokens = table["input_ids"].combine_chunks().values.to_numpy()
    _, codes = names.find(tokens)
    assert [names.names[names.words[code].name] for code in codes] == ["Lily", "Tim", "Tim", "Lily"]
