"""`tinystories import`: convert a model trained with other code."""

import argparse
import sys

from ..utils.paths import expand_user


EXAMPLES = """
tinystories import stories260K/stories260K.bin stories260k    # llama2.c
tinystories import model.pth imported --tokenizer tokenizer/  # WikiMini
tinystories import your/llama imported                        # Llama or Phi-3 of transformers
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Convert a WikiMini checkpoint (.pth), a llama2.c model (.bin), or a stock Llama or Phi-3 to TinyLlama. The "
        "result is loaded again and its logits are compared with the source's; if they differ, nothing is written."
    )
    parser.add_argument("source", type=expand_user, help="file, folder, or model id on the Hub")
    parser.add_argument("out", type=expand_user, help="new or empty folder to write to")
    parser.add_argument(
        "--tokenizer",
        metavar="PATH",
        type=expand_user,
        help="the model's tokenizer (default: the one next to the source)",
    )


def run(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..export.import_model import import_model
    from ..export.stock import TOLERANCE

    logging.disable_progress_bar()
    written = import_model(options.source, options.out, options.tokenizer)
    print(f"source    {written.kind}, {written.parameters:,} parameters, {str(written.dtype)[6:]}")
    print(f"checked   largest logit difference {written.difference:.1e} over {written.positions:,} positions "
          f"(tolerance {TOLERANCE:.0e})")  # fmt: skip
    print(f"loss      {written.next_token_loss:.3f} nats per token on built-in stories ({written.two_ahead_loss:.3f} "
          f"for the token after the next)")  # fmt: skip
    print(f"saved in  {written.folder}")
    if written.shifted_twice:
        print(
            "tinystories: warning: this model predicts the token after the next one, because the labels were shifted "
            "twice in training. Its stories omit short words. Importing does not change that; fine-tuning repairs it: "
            f"tinystories finetune STORIES --init_from {written.folder}",
            file=sys.stderr,
        )
