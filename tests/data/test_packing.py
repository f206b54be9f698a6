import copy
import pickle

import datasets
import numpy as np
import pytest
import torch
from helpers import tiny_model
from transformers import default_data_collator

from tinystories.data.packing import (
    IGNORE_INDEX,
    PackedStories,
    TokenLists,
    best_fit,
    pack_stories,
    shortest_full_row,
    split_long_stories,
    tokenize_stories,
)
from tinystories.evaluation.token_classes import TokenClassifier
from tinystories.tokenization import train_bpe
from tinystories.tokenization.pretokenizer import word_encoder
from tinystories.training.metrics import PackedMetrics, token_losses


CONTEXT, ROW = 32, 48
WORDS = "the a an cat dog sun ran sat saw big red old and then ball tree was happy".split()


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    return [" ".join(rng.choice(WORDS, size=size)) + "." for size in rng.integers(3, 90, size=300)]


@pytest.fixture(scope="module")
def tokenizer(texts):
    return train_bpe(texts, 300, model_max_length=CONTEXT, progress=False)


@pytest.fixture(scope="module")
def tokenized(texts, tokenizer):
    return tokenize_stories(datasets.Dataset.from_dict({"text": texts}), tokenizer, "packing-tests")


def pack(tokenized, tokenizer, overlap=8, **shape):
    shape = {"length": ROW, "context": CONTEXT, **shape}
    return PackedStories(tokenized, overlap=overlap, pad_token_id=tokenizer.pad_token_id, **shape)


def parts_of(row):
    """`(input_ids, labels)` of each document of a row, by the positions."""
    starts = (row["position_ids"] == 0).nonzero().flatten().tolist() + [len(row["input_ids"])]
    for start, end in zip(starts, starts[1:], strict=False):
        yield row["input_ids"][start:end], row["labels"][start:end]


def test_texts_are_packed_in_one_call(texts, tokenized, tokenizer):
    expected = pack(tokenized, tokenizer, overlap=4, length=None)
    for stories in (texts, iter(texts), datasets.Dataset.from_dict({"text": texts, "other": texts})):
        rows = pack_stories(stories, tokenizer, max_length=CONTEXT)
        assert (len(rows), rows.length, rows.bytes) == (len(expected), expected.length, expected.bytes)
        for row, other in zip(rows, expected, strict=True):
            assert row.keys() == other.keys() and all(torch.equal(row[name], other[name]) for name in row)
    rows = pack_stories(texts, tokenizer, max_length=CONTEXT, row_length=ROW, overlap=8)
    batch = default_data_collator([rows[0], rows[1]])
    assert torch.isfinite(tiny_model(vocab_size=300)(**batch).loss)


def test_packing_texts_refuses_what_it_cannot_use(texts, tokenizer):
    without = copy.deepcopy(tokenizer)
    without.pad_token = None
    with pytest.raises(ValueError, match="The tokenizer has no pad_token, which packing needs"):
        pack_stories(texts, without)
    with pytest.raises(ValueError, match="There are no stories"):
        pack_stories([], tokenizer)
    with pytest.raises(ValueError, match="row of 16 tokens is shorter"):
        pack_stories(texts, tokenizer, max_length=CONTEXT, row_length=16)
    with pytest.raises(ValueError, match="`overlap` \\(32\\) must be from 1 to 31"):
        pack_stories(texts, tokenizer, max_length=CONTEXT, overlap=CONTEXT)


def test_a_story_starts_with_bos_ends_with_eos_and_keeps_every_byte(texts, tokenized, tokenizer):
    for text, story in zip(texts[:20], tokenized, strict=False):
        assert story["input_ids"][0] == story["input_ids"][-1] == tokenizer.eos_token_id
        assert tokenizer.decode(story["input_ids"][1:-1]) == text
        assert story["bytes"] == len(text.encode())


@pytest.mark.parametrize("overlap", [1, 8, 16, 31])
def test_every_token_of_every_story_is_scored_exactly_once(tokenized, tokenizer, overlap):
    rows = pack(tokenized, tokenizer, overlap)
    assert max(map(len, tokenized["input_ids"])) > 2 * CONTEXT, "the corpus must hold stories of several parts"
    scored = [label for row in rows for label in row["labels"].tolist() if label != IGNORE_INDEX]
    expected = [token for story in tokenized["input_ids"] for token in story[1:]]
    assert sorted(scored) == sorted(expected)
    assert rows.scored == len(expected)


def test_rows_have_complete_stories_restarting_positions_and_unshifted_labels(tokenized, tokenizer):
    stories = {tuple(story) for story in tokenized["input_ids"]}
    whole = 0
    for row in pack(tokenized, tokenizer):
        assert set(row) == {"input_ids", "labels", "position_ids"}
        assert all(tensor.shape == (ROW,) and tensor.dtype == torch.int64 for tensor in row.values())
        assert row["position_ids"].max() < CONTEXT
        for tokens, labels in parts_of(row):
            assert labels[0] == IGNORE_INDEX
            scored = labels != IGNORE_INDEX
            assert torch.equal(labels[scored], tokens[scored])
            assert (tokens[~scored][1:] != tokenizer.eos_token_id).all()
            if tuple(tokens.tolist()) in stories:
                whole += 1
                assert scored[1:].all()
    assert whole == sum(len(story) <= CONTEXT for story in stories)


def test_padding_has_no_loss_and_its_own_positions(tokenized, tokenizer):
    rows = pack(tokenized.select(range(3)), tokenizer, length=400)
    (row,) = rows
    padding = row["input_ids"] == tokenizer.pad_token_id
    assert padding.sum() == 400 - rows.tokens and rows.padding == pytest.approx(padding.float().mean().item())
    assert (row["labels"][padding] == IGNORE_INDEX).all()
    assert row["position_ids"][padding][0] == 0


def test_best_fit_places_each_item_once_and_overfills_no_row():
    rng = np.random.default_rng(0)
    for _ in range(50):
        row_length = int(rng.integers(1, 60))
        lengths = rng.integers(1, row_length + 1, size=int(rng.integers(0, 80)))
        row_of = best_fit(lengths, row_length)
        filled = np.bincount(row_of, weights=lengths) if len(lengths) else np.zeros(0)
        assert (filled > 0).all() and (filled <= row_length).all() and filled.sum() == lengths.sum()


def test_best_fit_finds_a_packing_without_padding():
    rng = np.random.default_rng(1)
    cuts = [np.sort(rng.choice(np.arange(1, 100), size=3, replace=False)) for _ in range(200)]
    lengths = np.concatenate([np.diff([0, *cut, 100]) for cut in cuts])
    assert best_fit(rng.permutation(lengths), 100).max() + 1 <= 201


@pytest.mark.parametrize(("context", "median"), [(512, 190), (256, 200), (128, 200), (512, 60)])
def test_less_than_one_percent_of_story_rows_is_padding(context, median):
    # The distribution of TinyStories: half of the lengths within a sixth of the median, a tail beyond three times it.
    lengths = np.random.default_rng(0).lognormal(np.log(median), 0.33, size=5_000).astype(int)
    parts = split_long_stories(lengths, context, context // 8).length
    row_length = shortest_full_row(parts, context)
    assert context <= row_length <= 4 * context
    assert 1 - parts.sum() / ((best_fit(parts, row_length).max() + 1) * row_length) < 0.01


def test_a_few_stories_are_packed():
    assert 32 <= shortest_full_row(np.array([30, 5, 9]), 32) <= 256


def largest_leak(model, batch, **extra):
    """Largest difference between the logits of a story in its row and alone."""
    together = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], **extra).logits
    leak = 0.0
    for index in range(len(batch["input_ids"])):
        row = {key: tensor[index] for key, tensor in batch.items()}
        alone = [model(input_ids=tokens[None]).logits[0] for tokens, _ in parts_of(row)]
        leak = max(leak, (together[index] - torch.cat(alone)).abs().max().item())
    return leak


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_document_masking_packed_logits_equal_those_of_each_story_alone(tokenized, tokenizer, training, attention):
    model = tiny_model(vocab_size=len(tokenizer)).train(training)
    model.set_attn_implementation(attention)
    batch = default_data_collator(pack(tokenized, tokenizer).__getitems__([0, 1, 2, 3]))
    assert all(len(list(parts_of({k: v[i] for k, v in batch.items()}))) > 1 for i in range(2))
    assert largest_leak(model, batch) < 1e-5
    assert largest_leak(model, batch, use_cache=True) < 1e-5


def test_the_logits_comparison_detects_a_missing_document_mask(tokenized, tokenizer):
    from transformers import DynamicCache

    model = tiny_model(vocab_size=len(tokenizer)).eval()
    batch = default_data_collator(pack(tokenized, tokenizer).__getitems__([0, 1, 2, 3]))
    assert largest_leak(model, batch, attention_mask=torch.ones_like(batch["input_ids"])) > 0.1
    assert largest_leak(model, batch, past_key_values=DynamicCache(config=model.config)) > 0.1


def test_bits_per_byte_counts_every_byte_of_complete_stories_once(texts, tokenized, tokenizer):
    """Compared with a loop over single stories; long ones are scored in windows that advance by half their width."""
    from types import SimpleNamespace

    model = tiny_model(vocab_size=len(tokenizer)).eval()
    rows = pack(tokenized, tokenizer, overlap=CONTEXT // 2)
    batch = default_data_collator(rows.__getitems__(list(range(len(rows)))))
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"]).logits
    losses = token_losses(logits, batch["labels"]).numpy()
    metrics = PackedMetrics(rows, tokenizer.eos_token_id, TokenClassifier(tokenizer))(
        SimpleNamespace(predictions=losses, label_ids=batch["labels"].numpy())
    )

    nats, count, all_nats = 0.0, 0, 0.0
    for story in tokenized["input_ids"]:
        tokens, seen = torch.tensor(story), 1
        while seen < len(tokens):
            begin = 0 if seen == 1 else seen - CONTEXT // 2
            part = tokens[begin : begin + CONTEXT]
            with torch.no_grad():
                log_probs = model(input_ids=part[None]).logits[0, :-1].log_softmax(-1)
            part_losses = -log_probs.gather(1, part[1:, None])[:, 0][seen - begin - 1 :]
            is_end = part[seen - begin :] == tokenizer.eos_token_id
            nats += part_losses[~is_end].sum().item()
            all_nats += part_losses.sum().item()
            count += len(part_losses)
            seen = begin + len(part)
    assert rows.bytes == sum(len(text.encode()) for text in texts)
    assert metrics["bits_per_byte"] == pytest.approx(nats / np.log(2) / rows.bytes, rel=1e-5)
    assert metrics["nats_per_token"] == pytest.approx(all_nats / count, rel=1e-5)


def test_the_name_of_a_special_token_inside_a_story_does_not_end_it(tokenizer):
    story = "the cat<|endoftext|> ran."
    (tokens,) = tokenize_stories(datasets.Dataset.from_dict({"text": [story]}), tokenizer, "special")["input_ids"]
    assert tokens.count(tokenizer.eos_token_id) == 2
    assert tokenizer.decode(tokens[1:-1]) == story


def test_tokens_are_cached_under_corpus_and_tokenizer(tmp_path, texts, tokenizer):
    path = tmp_path / "stories.parquet"
    datasets.Dataset.from_dict({"text": texts}).to_parquet(path)
    stories = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))

    def files(tokenizer, fingerprint):
        return {file["filename"] for file in tokenize_stories(stories, tokenizer, fingerprint).cache_files}

    first = files(tokenizer, "one")
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("cache-*.arrow")}
    assert len(written) == 1
    tokenizer(["a", "the cat"], padding=True, truncation=True)
    assert files(tokenizer, "one") == first, "using the tokenizer must not change the key"
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("cache-*.arrow")} == written
    assert files(tokenizer, "two") != first
    assert files(train_bpe(texts, 280, progress=False), "one") != first


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr("tinystories.data.packing.THREAD_STORIES", 7)
    monkeypatch.setattr("tinystories.data.packing.MAX_BATCH", 50)


@pytest.mark.parametrize("threads", [1, 2, 5, 64])
def test_tokens_and_rows_do_not_depend_on_the_number_of_threads(
    texts, tokenized, tokenizer, threads, small_batches, tmp_path
):
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "stories.parquet")
    stories = datasets.Dataset.from_parquet(str(tmp_path / "stories.parquet"), cache_dir=str(tmp_path / "cache"))
    in_threads = tokenize_stories(stories, tokenizer, "threads", threads)
    assert in_threads.to_dict() == tokenized.to_dict()
    for row, other in zip(pack(in_threads, tokenizer), pack(tokenized, tokenizer), strict=True):
        assert all(torch.equal(row[name], other[name]) for name in row)


def test_threads_share_a_tokenizer_that_is_not_encoded_word_by_word(texts, tokenizer, small_batches):
    from tokenizers import normalizers

    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert word_encoder(other) is None
    tokens = tokenize_stories(datasets.Dataset.from_dict({"text": texts}), other, "not by words", 4)["input_ids"]
    assert [ids[1:-1] for ids in tokens] == other(texts, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "rows",
    [
        [number for number in range(3, 290) if number % 50],  # as without held-out stories
        [5],
        [7, 299, 3, 3],
        list(range(0, 300, 29)),
        list(range(299, -1, -1)),
    ],
)
def test_selected_stories_are_tokenized_in_their_order(texts, tokenized, tokenizer, rows, small_batches, tmp_path):
    datasets.Dataset.from_dict({"text": texts}).to_parquet(tmp_path / "stories.parquet")
    stories = datasets.Dataset.from_parquet(str(tmp_path / "stories.parquet"), cache_dir=str(tmp_path / "cache"))
    selected = tokenize_stories(stories.select(rows), tokenizer, "selected", 3)
    assert selected.to_dict() == tokenized.select(rows).to_dict()
    first = tokenize_stories(stories.select(rows).select(range(1)), tokenizer, "first of the selected", 3)
    assert first.to_dict() == tokenized.select(rows[:1]).to_dict()


def test_words_that_occur_once_do_not_fill_the_memory(texts, tokenizer, small_batches, monkeypatch):
    """A distinct number in each story; threads share the words that are remembered."""
    monkeypatch.setattr("tinystories.tokenization.pretokenizer.MAX_WORDS", 40)
    stories = datasets.Dataset.from_dict({"text": [f"{text} {7_919 * n}" for n, text in enumerate(texts)]})
    encoder = word_encoder(tokenizer)
    monkeypatch.setattr("tinystories.data.packing.word_encoder", lambda _: encoder)
    tokens = tokenize_stories(stories, tokenizer, "numbers", 4)["input_ids"]
    assert [ids[1:-1] for ids in tokens] == tokenizer(stories["text"][:], add_special_tokens=False)["input_ids"]
    assert 0 < len(encoder._known) <= 40 + 4 * (len(WORDS) * 2 + 2 * 7)


def test_a_row_shorter_than_the_context_is_an_error(tokenized, tokenizer):
    with pytest.raises(ValueError, match="shorter than the model's context"):
        pack(tokenized, tokenizer, length=CONTEXT - 1)
    with pytest.raises(ValueError, match="overlap"):
        pack(tokenized, tokenizer, overlap=CONTEXT)


def test_token_lists_read_selections_of_stories(tokenized):
    """Slices, other orders, several files, and after pickling."""
    several = datasets.concatenate_datasets([tokenized.select(range(200)), tokenized.select(range(200, 300))])
    for stories in (tokenized, several, tokenized.select(range(50, 120)), tokenized.select([7, 3, 250, 3])):
        tokens = pickle.loads(pickle.dumps(TokenLists(stories)))
        assert tokens.lengths.tolist() == [len(ids) for ids in stories["input_ids"]]
        for number, ids in enumerate(stories["input_ids"]):
            assert tokens[number].tolist() == ids


def test_the_same_seed_gives_the_same_rows(tokenized, tokenizer):
    first, again, other = (pack(tokenized, tokenizer, seed=seed) for seed in (0, 0, 1))
    assert all(torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a["input_ids"], b["input_ids"]) for a, b in zip(first, other, strict=False))
