"""`tinystories tokenizer`: train a tokenizer, or prune one."""

import argparse

from ..data.sources.files import hub_dataset
from ..utils.errors import UserError
from ..utils.paths import expand_user, output_folder
from .arguments import LARGEST_INT, add_reading_arguments, number, reading_options


EXAMPLES = """
tinystories tokenizer my_stories/ tokenizer-10k
tinystories tokenizer sample tokenizer-2k --vocab-size 2048
tinystories tokenizer my_stories/ gpt2-10k --top-k-of openai-community/gpt2
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "corpus", type=expand_user, help="`sample`, a dataset id on the Hub, or a file or folder of stories"
    )
    parser.add_argument("out", type=expand_user, help="folder to write the tokenizer to")
    parser.add_argument(
        "--vocab-size",
        type=number(int, 1, LARGEST_INT),
        default=10_000,
        help="vocabulary size, special tokens included (default: 10000)",
    )
    parser.add_argument(
        "--top-k-of",
        metavar="TOKENIZER",
        type=expand_user,
        help="prune this byte-level BPE tokenizer to its most frequent tokens (default: train a tokenizer)",
    )
    parser.add_argument(
        "--model-max-length",
        type=number(int, 1, LARGEST_INT),
        default=512,
        help="model_max_length of the tokenizer, in tokens (default: 512)",
    )
    add_reading_arguments(parser)
    parser.add_argument("--max-stories", type=number(int, 1), help="use at most this many stories (default: all)")


def run(options: argparse.Namespace) -> None:
    if (output_folder(options.out) / "tokenizer.json").exists():
        raise UserError(f"{options.out} already contains a tokenizer, which a model may need: choose another folder.")
    hub_dataset(options.corpus)
    # These imports take seconds; the checks above come first.
    from tinystories.tokenization import prune_to_top_k, tokenizer_report, train_bpe

    from ..data.corpus import load_texts
    from ..runs.loading import load_tokenizer

    pruned = None if options.top_k_of is None else load_tokenizer(options.top_k_of)
    reading = reading_options(options)
    stories = load_texts(options.corpus, max_stories=options.max_stories, text_split=reading.pop("split"), **reading)

    def texts():
        return (batch["text"] for batch in stories.iter(batch_size=1_000))

    shape = {"model_max_length": options.model_max_length, "total": len(stories)}
    if pruned is not None:
        tokenizer = prune_to_top_k(pruned, texts(), options.vocab_size, **shape)
    else:
        tokenizer = train_bpe(texts(), options.vocab_size, **shape)
    tokenizer.save_pretrained(options.out)
    report = tokenizer_report(tokenizer, texts())
    single = ", ".join(f'"{word}" {"yes" if is_one else "NO"}' for word, is_one in report["single_token"].items())
    print(f"vocabulary       {report['vocab_size']:,} ({report['unused_tokens']:,} do not occur in these stories)")
    print(f"bytes per token  {report['bytes_per_token']:.3f} ({report['bytes']:,} bytes, {report['tokens']:,} tokens)")
    print(f"single tokens    {single}")
    print(f"saved in         {options.out}")
