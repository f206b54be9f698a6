"""`tinystories merge`: merge a LoRA adapter into its base model."""

import argparse

from ..runs.builtin_model import model_path
from ..utils.paths import expand_user


EXAMPLES = """
tinystories merge runs/finetune merged
tinystories merge runs/finetune/checkpoint-200 merged
tinystories merge your_adapter/ merged
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Add a LoRA adapter to the weights of its base model, and write an ordinary run folder, which every command "
        "and transformers without peft can use. The result is loaded again, and its logits are compared with "
        "those of the merged model."
    )
    parser.add_argument(
        "adapter", type=model_path, help="run folder or checkpoint of a run with `lora`, or a folder that peft saved"
    )
    parser.add_argument("out", type=expand_user, help="new or empty folder to write to")


def run(options: argparse.Namespace) -> None:
    from transformers.utils import logging

    from ..export.merge import merge
    from ..export.verify import TOLERANCE

    logging.disable_progress_bar()
    merged = merge(options.adapter, options.out)
    print(f"base      {merged.base}")
    print(f"checked   largest logit difference {merged.difference:.1e} over {merged.positions:,} positions "
          f"(tolerance {TOLERANCE:.0e})")  # fmt: skip
    print(f"saved in  {merged.folder}, {merged.parameters:,} parameters")
