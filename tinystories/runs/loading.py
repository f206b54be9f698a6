"""Load a model and its tokenizer from a run folder or the Hub."""

from pathlib import Path

import torch
import transformers
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from tinystories.tokenization import PreTrainedTokenizerFast

from ..generation.native import require_native_decoding
from ..generation.presets import check_dtype
from ..generation.prompts import keep_prompts_open
from ..utils.errors import UserError, first_line
from .run_folder import require_run


def load_model(
    path: str, dtype: str | None = None, *, tokenizer: str | None = None, as_saved: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A causal language model and its tokenizer from a run folder or the Hub, ready for generation.

    Args:
        dtype: of the weights: None for the saved dtype, or "int8" for faster decoding on a CPU.
        tokenizer, as_saved: as of [`load_tokenizer`]; by default the tokenizer of the model.

    Raises:
        UserError: if there is no such model, or it does not support this dtype.
    """
    import modeling_tinyllama  # noqa: F401  registers the architecture

    check_dtype(dtype)
    require_run(path)
    loaded_tokenizer = load_tokenizer(tokenizer or path, as_saved=as_saved)
    try:
        model = AutoModelForCausalLM.from_pretrained(path)
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"The model in {path} cannot be loaded: {first_line(error)}.") from None
    if dtype == "int8":
        try:
            return require_native_decoding(model.eval(), dtype), loaded_tokenizer
        except UserError as reason:
            raise UserError(f"--dtype int8 is not available: {reason}.") from None
    return model.to(_device()).eval(), loaded_tokenizer  # type: ignore[arg-type]


def load_tokenizer(path: str, *, as_saved: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or on the Hub, of a class that saves files which every tool can read.

    Args:
        as_saved: keep the EOS token that some tokenizers append to every text; without it, the model can continue a
            prompt (see `generation/prompts.py`).

    Raises:
        UserError: if there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(path)
        if type(tokenizer) is transformers.PreTrainedTokenizerFast:
            tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    except (OSError, ValueError) as error:
        files = [Path(path) / name for name in ("tokenizer.json", "tokenizer_config.json")]
        if Path(path).is_dir() and not any(file.exists() for file in files):
            raise UserError(f"{path} has no tokenizer: neither tokenizer.json nor tokenizer_config.json.") from None
        where = f"The tokenizer in {path} cannot be loaded"
        if not Path(path).exists():
            where = f"There is no folder {path}, and no tokenizer of that name can be loaded from the Hub"
        raise UserError(f"{where}: {first_line(error)}.") from None
    if not as_saved:
        keep_prompts_open(tokenizer)
    return tokenizer


def _device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
