"""`tinystories export`: write a model for other runtimes."""

import argparse

from ..runs.builtin_model import model_path
from ..runs.run_folder import require_run
from ..utils.console import counted
from ..utils.errors import UserError
from ..utils.paths import expand_user


EXAMPLES = """
tinystories export runs/quickstart quickstart-stock                      # Llama or Phi-3 of transformers
tinystories export runs/quickstart quickstart.gguf --to gguf --dtype q8_0
tinystories export runs/quickstart quickstart-onnx --to onnx
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write a model as a stock transformers architecture, which loads without trust_remote_code, as a GGUF file "
        "for llama.cpp, or as ONNX for transformers.js. The export is loaded again and its logits are compared with "
        "the model's; if they differ, nothing is written."
    )
    parser.add_argument("model", type=model_path, help="run folder, model id on the Hub, or builtin")
    parser.add_argument("out", type=expand_user, help="new or empty folder to write to; for gguf, a file name")
    parser.add_argument(
        "--to", help="llama, phi3, gguf or onnx (default: llama if whole heads are rotated, phi3 otherwise)"
    )
    parser.add_argument(
        "--dtype", help="gguf: f32, f16, bf16 or q8_0 (default: f16); onnx: f32, f16 or q8 (default: f32)"
    )


def run(options: argparse.Namespace) -> None:
    require_run(options.model)
    from transformers.utils import logging

    logging.disable_progress_bar()
    if options.to in _FORMATS:
        _FORMATS[options.to](options, {} if options.dtype is None else {"dtype": options.dtype})
        return
    from ..export.stock import TARGETS, TOLERANCE, export_stock

    if options.to is not None and options.to not in TARGETS:
        raise UserError(f"--to {options.to} is not supported: choose one of {', '.join([*TARGETS, *_FORMATS])}.")
    if options.dtype is not None:
        raise UserError("--dtype applies to --to gguf and --to onnx; other formats keep the dtype of the weights.")
    written = export_stock(options.model, options.out, options.to)
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {str(written.dtype)[6:]}")
    print(f"checked   largest logit difference {written.difference:.1e} over {written.positions:,} positions "
          f"(tolerance {TOLERANCE:.0e})")  # fmt: skip
    print(f"saved in  {written.folder}")


def _gguf(options: argparse.Namespace, dtype: dict[str, str]) -> None:
    from ..export.gguf import TOLERANCE, export_gguf

    written = export_gguf(options.model, options.out, **dtype)
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {written.dtype}, "
          f"{written.bytes / 1e6:.1f} MB")  # fmt: skip
    print(f"checked   largest logit difference {written.difference:.1e} over {written.positions:,} positions "
          f"(tolerance {TOLERANCE:.0e}); identical tokens in {counted(written.stories, 'story')}")  # fmt: skip
    if written.rounding:
        print(f"rounding  changes a logit by at most {written.rounding:.1e}")
    if written.not_quantized:
        print(f"as f16    {counted(written.not_quantized, 'tensor')} with a row length that is not a multiple of 32")
    print(f"saved in  {written.file}")


def _onnx(options: argparse.Namespace, dtype: dict[str, str]) -> None:
    from ..export.onnx import TOLERANCE, export_onnx

    written = export_onnx(options.model, options.out, **dtype)
    print(f"model     {written.architecture}, {written.parameters:,} parameters, {written.dtype}, "
          f"{written.bytes / 1e6:.1f} MB")  # fmt: skip
    print(f"checked   largest logit difference {written.difference:.1e} over {written.positions:,} positions, with "
          f"and without the cache, in float32 (tolerance {TOLERANCE:.0e})")  # fmt: skip
    if written.dtype != "f32":
        print(f"rounding  costs {written.cost:+.4f} nats per token on built-in stories")
    print(f"saved in  {written.folder}")


_FORMATS = {"gguf": _gguf, "onnx": _onnx}
