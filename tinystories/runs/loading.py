"""Load a model and its tokenizer from a run folder or the Hub."""

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tinystories.tokenization import PreTrainedTokenizerFast

from ..generation.native import require_native_decoding
from ..generation.presets import check_dtype
from ..generation.prompts import set_prompt_prefix
from ..utils.errors import UserError, first_line
from .adapter import adapter_base, merge_adapter_into
from .builtin_model import BUILTIN, model_path
from .download import PICKLES, SAFETENSORS, local_folder
from .run_folder import is_adapter, require_run


logger = logging.getLogger(__name__)


def load_model(
    path: str | Path = BUILTIN, dtype: str | None = None, *, tokenizer: str | None = None, as_saved: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from a run folder or the Hub, ready for generation.

    Args:
        path: run folder, checkpoint folder, LoRA adapter, folder of any causal model of transformers, model id on the
            Hub, or `builtin`, the model that is installed with this package.
        dtype: of the weights: None for the saved dtype, or "int8" for faster decoding on a CPU.
        tokenizer: folder or Hub id of another tokenizer; by default the model's own.
        as_saved: keep the EOS token that some tokenizers append to every text, also to a prompt.

    Returns:
        The model, in evaluation mode, on a GPU if there is one, and its tokenizer.

    Raises:
        UserError: if there is no such model, or it does not support this dtype.
    """
    import modeling_tinyllama  # noqa: F401  registers the architecture

    check_dtype(dtype)
    path = model_path(str(path))
    require_run(path)
    folder = local_folder(path, SAFETENSORS, PICKLES)
    loaded_tokenizer = load_tokenizer(tokenizer or folder, as_saved=as_saved)
    if is_adapter(folder):
        model = merge_adapter_into(load_weights(model_path(adapter_base(folder)), dtype=torch.float32), folder)
        set_generation_config(model, folder)
    else:
        model = load_weights(folder)
    if dtype == "int8":
        try:
            return require_native_decoding(model, dtype), loaded_tokenizer
        except UserError as reason:
            raise UserError(f"--dtype int8 is not available: {reason}.") from None
    return model.to(_device()), loaded_tokenizer  # type: ignore[arg-type]


def set_generation_config(model: PreTrainedModel, folder: Path) -> None:
    """Generate as the run of an adapter says, and not as its base model does."""
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)


def load_weights(path: str | Path, *, exact: bool = False, **options: Any) -> PreTrainedModel:
    """A causal language model on the CPU, with all of its weights from the folder or the Hub.

    transformers initialises missing weights at random and only warns.

    Args:
        exact: refuse also weights that the model does not have.
        options: of `from_pretrained`.

    Raises:
        UserError: if the weights cannot be read, or do not match the configuration.
    """
    folder = local_folder(path, SAFETENSORS, PICKLES)
    with errors_only():
        try:
            # A pair, because of `output_loading_info`; the stub knows only the model.
            loaded: Any = AutoModelForCausalLM.from_pretrained(
                folder, output_loading_info=True, ignore_mismatched_sizes=True, **options
            )
        except Exception as error:  # damaged files raise errors of many types
            raise UserError(
                f"The model in {path} cannot be loaded: {loading_problem(error)}. Its files may be damaged or "
                f"incomplete."
            ) from error
    model, report = loaded
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        if not report.get(kind):
            continue
        keys = sorted(key if isinstance(key, str) else _mismatch(*key) for key in report[kind])
        more = f" and {len(keys) - 3:,} more" if len(keys) > 3 else ""
        problem = f"{kind.replace('_', ' ')}: {', '.join(keys[:3])}{more}"
        if kind == "unexpected_keys" and not exact:
            logger.warning("%s: ignored weights that the model does not have, %s", path, problem)
        else:
            raise UserError(f"The weights in {path} do not match its config.json, {problem}.")
    return model.eval()


def _mismatch(name: str, saved: torch.Size, expected: torch.Size) -> str:
    return f"{name} has the shape {list(saved)} instead of {list(expected)}"


def loading_problem(error: Exception) -> str:
    """The message of an error while loading weights, without torch's advice to disable its safety check."""
    reason = re.search(r"WeightsUnpickler error:\s*(.+)", str(error))
    text = reason[1].strip() if reason else re.sub(r"^\[enforce fail at .*?\] \. ", "", first_line(error))
    return text.partition(". In PyTorch")[0].rstrip(".")


@contextmanager
def errors_only() -> Iterator[None]:
    """Suppress warnings of transformers, for code that reports each problem in one line itself."""
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)


def load_tokenizer(path: str | Path, *, as_saved: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub, of a class that saves files which every tool can read.

    Args:
        as_saved: keep the EOS token that some tokenizers append to every text. By default it is removed, so that the
            model continues prompts (see `generation/prompts.py`).

    Raises:
        UserError: if there is none, or it cannot be loaded.
    """
    folder = local_folder(path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if type(tokenizer) is transformers.PreTrainedTokenizerFast:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        int(tokenizer.model_max_length)  # which transformers does not check
    except Exception as error:  # damaged files raise errors of many types
        if folder.is_file():
            raise UserError(f"{path} is a file: specify the folder of the tokenizer.") from None
        if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json")):
            raise UserError(f"{path} has no tokenizer: neither tokenizer.json nor tokenizer_config.json.") from None
        raise UserError(
            f"The tokenizer in {path} cannot be loaded: {first_line(error)}. Its files may be damaged or incomplete."
        ) from error
    if not as_saved:
        set_prompt_prefix(tokenizer)
    return tokenizer


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
