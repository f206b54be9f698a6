"""Load the model that fine-tuning starts from: a TinyLlama, or what `tinystories import` reads."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM

from ..runs.builtin_model import model_path
from ..runs.download import local_folder
from ..runs.loading import load_tokenizer
from ..runs.run_folder import find_checkpoints, is_adapter, require_run
from ..training.fine_tuning import BaseModel
from ..utils.errors import UserError
from .import_model import read_source
from .stock import SOURCES
from .verify import check_vocabulary, load_complete, read_config


def load_base(name: str, tokenizer: str | None = None) -> BaseModel:
    """The model to fine-tune, in float32 on the CPU, with its tokenizer.

    Args:
        name: `builtin`, a run folder, a checkpoint, a Llama or Phi-3 in a folder or on the Hub, or a file that
            `tinystories import` reads.
        tokenizer: of a model that has none beside it.

    Raises:
        UserError: if there is no such model, it has another architecture, or the tokenizer does not fit it.
    """
    path = model_path(name)
    if Path(path).is_file():
        source = read_source(path, tokenizer)
        model, loaded, architecture = source.model, source.tokenizer, "file"
    else:
        model, loaded, architecture = _read_folder(path, tokenizer)
        if tokenizer is not None:
            _check_tokenizer(loaded, tokenizer, path, name)
    check_vocabulary(loaded, model.config.vocab_size, name)
    return BaseModel.of(name, model, loaded, architecture)


def _read_folder(path: str, tokenizer: str | None) -> tuple[TinyLlamaForCausalLM, PreTrainedTokenizerBase, str]:
    folder = Path(path)
    checkpoints = find_checkpoints(folder)
    if checkpoints and not (folder / "config.json").exists() and not is_adapter(folder):
        raise UserError(f"{folder} has no finished model, only checkpoints: specify {checkpoints[0]}.")
    require_run(path)
    if is_adapter(folder):
        raise UserError(
            f"{folder} is a LoRA adapter: write an ordinary run folder with `tinystories merge {folder} OUT`, and use "
            f"--init_from OUT."
        )
    own = TinyLlamaConfig.model_type
    config = read_config(path, (own, *SOURCES), "only TinyLlama, Llama and Phi-3 can be fine-tuned")
    if config.model_type != own:
        source = read_source(path, tokenizer)
        return source.model, source.tokenizer, config.model_type
    model = load_complete(path)
    assert isinstance(model, TinyLlamaForCausalLM)
    return model, load_tokenizer(tokenizer or path), own


def _check_tokenizer(loaded: PreTrainedTokenizerBase, tokenizer: str, path: str, name: str) -> None:
    """Refuse another tokenizer than the one in the model's folder."""
    own = local_folder(path)
    if (own / "tokenizer.json").is_file() and loaded.get_vocab() != load_tokenizer(own).get_vocab():
        raise UserError(
            f"The tokenizer {tokenizer} is not that of the base model {name}, whose embeddings fit only its own "
            f"tokenizer: remove `tokenizer`."
        )
