"""Speed of training a tokenizer and of packing stories, compared with other libraries.

    python benchmarks/data.py --corpus FOLDER/train.parquet
    python benchmarks/data.py --corpus FOLDER/train.parquet --copies 10   # a larger corpus

The variants alternate in one process for several rounds, and no round uses a cache of an earlier one. Speeds are in
megabytes of story text (UTF-8) per second. Training the tokenizer:

- `ours`: `tinystories.tokenization.train_bpe`.
- `tokenizers`: `BpeTrainer` of the library with the same settings; the vocabularies must be equal.
- `bpeasy`, if installed: the same vocabulary size, with a different vocabulary.

Tokenizing and packing, from a `datasets` corpus on disk to the first packed row:

- `ours`: `tokenize_stories` and `PackedStories` in one process, without splitting stories between rows.
- `run_clm`: `map` with the tokenizer and with `group_texts`, as in the example script of transformers, in two
  processes; the tokens of the stories must be equal.
- `tiktoken`, if installed: the same vocabulary in tiktoken with two threads; rows are slices of an array in memory.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import chain

import datasets
import numpy as np
import pyarrow.compute as pc
from figures import describe_machine, median_ratio, save_json
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from tinystories.data.corpus import load_texts
from tinystories.data.packing import PackedStories, tokenize_stories
from tinystories.tokenization import bpe, train_bpe
from tinystories.tokenization.pretokenizer import BYTE_LETTERS
from tinystories.utils.console import print_any_character
from tinystories.utils.errors import UserError


try:
    import bpeasy
except ImportError:
    bpeasy = None
try:
    import tiktoken
except ImportError:
    tiktoken = None

CONTEXT = 512
GPT2_WORDS = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", default="sample", help="stories, as for `tinystories tokenizer` (default: sample)")
    parser.add_argument("--copies", type=int, default=1, help="repeat the corpus this many times (default: 1)")
    parser.add_argument("--vocab-size", type=int, default=10_000, help="vocabulary size (default: 10000)")
    parser.add_argument("--rounds", type=int, default=5, help="timed runs of each variant (default: 5)")
    parser.add_argument(
        "--num-proc", type=int, default=2, help="processes or threads of the other variants (default: 2)"
    )
    parser.add_argument("--json", help="also write the figures to this JSON file")
    options = parser.parse_args()

    datasets.disable_progress_bars()
    folder = tempfile.TemporaryDirectory()
    try:
        texts = load_texts(options.corpus, cache_dir=folder.name)
    except UserError as error:
        parser.error(str(error))
    # Written to a file, which is how any corpus is read.
    datasets.concatenate_datasets([texts] * options.copies).to_parquet(os.path.join(folder.name, "stories.parquet"))
    stories = datasets.Dataset.from_parquet(os.path.join(folder.name, "stories.parquet"), cache_dir=folder.name)
    megabytes = sum(pc.sum(pc.binary_length(chunk)).as_py() for chunk in stories.data["text"].chunks) / 1e6
    tokenizer = train_bpe(batches(texts), options.vocab_size, progress=False)

    training = {
        "ours": lambda: train_bpe(batches(stories), options.vocab_size, progress=False).backend_tokenizer,
        "tokenizers": lambda: stock_tokenizer(stories, options.vocab_size),
    }
    if bpeasy:
        training["bpeasy"] = lambda: bpeasy.train_bpe(
            (text for batch in batches(stories) for text in batch), GPT2_WORDS, 128, options.vocab_size
        )
    trained = {}
    speeds = {"tokenizer": alternate(training, options.rounds, megabytes, trained)}
    if options.copies == 1 and model_of(trained["ours"]) != model_of(trained["tokenizers"]):
        raise SystemExit("The vocabularies of `ours` and `tokenizers` differ.")

    packing = {
        "ours": lambda: packed(stories, tokenizer),
        "run_clm": lambda: run_clm(stories, tokenizer, options.num_proc),
    }
    if tiktoken:
        encoding = tiktoken_of(tokenizer)
        packing["tiktoken"] = lambda: with_tiktoken(stories, encoding, options.num_proc)
    made = {}
    speeds["rows"] = alternate(packing, options.rounds, megabytes, made)
    if len(set(made.values())) > 1:
        raise SystemExit(f"The tokens of the stories differ: {made}.")

    print(f"\n{describe_machine()}")
    copies = f", {options.copies} copies" if options.copies > 1 else ""
    print(f"{options.corpus}{copies}: {len(stories):,} stories, {megabytes:,.1f} MB, {options.rounds} rounds")
    results = {}
    titles = {"tokenizer": f"training, {options.vocab_size:,} entries", "rows": "packing"}
    for work, base in (("tokenizer", "tokenizers"), ("rows", "run_clm")):
        print(f"\n{titles[work]:30} {'MB/s (median)':>13} {'min':>7} {'max':>7}  x {base}")
        results[work] = {}
        for name, values in speeds[work].items():
            ratio = median_ratio(values, speeds[work][base])
            print(f"{name:30} {statistics.median(values):13.1f} {min(values):7.1f} {max(values):7.1f}  {ratio:.2f}")
            results[work][name] = {"megabytes_per_second": values, "ratio": ratio}
    save_json(options.json, megabytes=megabytes, **results)


def batches(stories: datasets.Dataset):
    return (batch["text"] for batch in stories.iter(batch_size=1_000))


def alternate(variants: dict[str, Callable], rounds: int, megabytes: float, results: dict) -> dict[str, list[float]]:
    """MB/s of each variant in each round; the last result of each is stored in `results`."""
    speeds = {name: [] for name in variants}
    for round_number in range(rounds):
        for name in list(variants) if round_number % 2 == 0 else reversed(list(variants)):
            began = time.perf_counter()
            results[name] = variants[name]()
            speeds[name].append(megabytes / (time.perf_counter() - began))
            print(f"round {round_number + 1}  {name:12} {speeds[name][-1]:8.1f} MB/s", flush=True)
    return speeds


def stock_tokenizer(stories: datasets.Dataset, vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        show_progress=False,
        special_tokens=bpe.SPECIAL_TOKENS,
        initial_alphabet=bpe.BYTE_ALPHABET,
    )
    tokenizer.train_from_iterator(batches(stories), trainer=trainer)
    return tokenizer


def model_of(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.to_str())["model"]


def packed(stories: datasets.Dataset, tokenizer) -> int:
    """Number of tokens of the stories, without BOS and EOS."""
    tokenised = tokenize_stories(stories, tokenizer, f"benchmark {time.time()}")
    rows = PackedStories(tokenised, context=CONTEXT, overlap=CONTEXT // 8, pad_token_id=tokenizer.pad_token_id)
    assert len(rows[0]["input_ids"]) == rows.length
    return sum(len(chunk.flatten()) for chunk in tokenised.data["input_ids"].chunks) - 2 * len(stories)


def run_clm(stories: datasets.Dataset, tokenizer, num_proc: int) -> int:
    options = {"batched": True, "num_proc": num_proc, "load_from_cache_file": False}
    tokenised = stories.map(
        lambda batch: tokenizer(batch["text"], add_special_tokens=False, verbose=False),
        remove_columns=["text"],
        **options,
    )

    def group_texts(batch: dict) -> dict:
        joined = {name: list(chain.from_iterable(lists)) for name, lists in batch.items()}
        total = len(joined["input_ids"]) // CONTEXT * CONTEXT
        rows = {name: [items[at : at + CONTEXT] for at in range(0, total, CONTEXT)] for name, items in joined.items()}
        return {**rows, "labels": [list(row) for row in rows["input_ids"]]}

    rows = tokenised.map(group_texts, **options)
    assert len(rows[0]["input_ids"]) == CONTEXT
    return sum(len(chunk.flatten()) for chunk in tokenised.data["input_ids"].chunks)


def tiktoken_of(tokenizer):
    """The ranks are the order of merges, which is also the order of ids of a byte-level BPE."""
    letters = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
    special = set(tokenizer.all_special_tokens)
    ranks = {
        bytes(letters[letter] for letter in token): number
        for token, number in tokenizer.get_vocab().items()
        if token not in special
    }
    names = {token: number for token, number in tokenizer.get_vocab().items() if token in special}
    return tiktoken.Encoding("stories", pat_str=GPT2_WORDS, mergeable_ranks=ranks, special_tokens=names)


def with_tiktoken(stories: datasets.Dataset, encoding, threads: int) -> int:
    parts = []
    for batch in batches(stories):
        for ids in encoding.encode_ordinary_batch(batch, num_threads=threads):
            parts.append(np.array([0, *ids, 0], dtype=np.uint16))
    tokens = np.concatenate(parts)
    rows = tokens[: len(tokens) // CONTEXT * CONTEXT].reshape(-1, CONTEXT)
    assert len(rows[0]) == CONTEXT
    return len(tokens) - 2 * len(stories)


if __name__ == "__main__":
    print_any_character()
    main()
