"""Functions that exports and imports share: loading with all checks, and the comparison of logits."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from modeling_tinyllama import TinyLlamaConfig, TinyLlamaForCausalLM
from tinystories.tokenization import vocabulary_size

from ..runs.download import local_folder
from ..runs.loading import errors_only, load_tokenizer, load_weights
from ..runs.run_folder import is_adapter, require_run
from ..utils.errors import UserError, first_line


TOLERANCE = 1e-5
LONGEST_CHECK = 2048  # tokens; longer comparisons take more time and detect nothing else
STORY = (
    "Once upon a time there was a little girl named Lily. She had a red ball, and she loved to play with it in the "
    'garden. One day the ball rolled under a big bush. "Oh no!" said Lily. A small brown dog came by. He looked at '
    "her and wagged his tail. Then he crawled under the bush and pushed the ball out with his nose. Lily was so happy "
    "that she gave him a hug. From that day on they played together every day.\n"
)


@dataclass(frozen=True)
class Verified:
    """A model that was written and verified.

    Attributes:
        parameters: number of parameters.
        positions: number of positions at which logits were compared.
        difference: largest difference between two logits.
    """

    parameters: int
    positions: int
    difference: float


def read_config(path: str | Path, model_types: Collection[str], requirement: str) -> PreTrainedConfig:
    """Read the configuration of a model in a folder or on the Hub.

    Args:
        requirement: end of the message about any other architecture.

    Raises:
        UserError: if it cannot be read, or is of another architecture.
    """
    folder = local_folder(path)
    with errors_only():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        except Exception as error:  # invalid values raise errors of many types
            raise UserError(
                f"The configuration in {path} cannot be read: {first_line(error)}. Correct its config.json, or "
                f"download it again."
            ) from error
    if config.model_type not in model_types:
        raise UserError(f"The model in {path} is a {config.model_type}; {requirement}.")
    return config


def load_complete(path: str | Path) -> PreTrainedModel:
    """Load a model on the CPU, with every weight from the folder or the Hub; no code of the folder is run.

    Raises:
        UserError: if the weights cannot be read, do not match the configuration, or are not finite.
    """
    model = load_weights(path, exact=True, trust_remote_code=False)
    weights = model.state_dict()
    for name, weight in weights.items():
        check_finite(weight, name, path)
    embedding, head = weights["model.embed_tokens.weight"], weights["lm_head.weight"]
    if model.config.tie_word_embeddings and not torch.equal(embedding, head):
        raise UserError(
            f"The weights in {path} do not match its config.json: `tie_word_embeddings` is true, but lm_head.weight "
            f"differs from the embedding. Set it to false if the model was trained with a separate head."
        )
    return model


def load_run(run: str | Path) -> tuple[TinyLlamaForCausalLM, PreTrainedTokenizerBase]:
    """Load the TinyLlama in a run folder or on the Hub on the CPU, with every weight, and its tokenizer.

    Raises:
        UserError: if there is none, its weights are incomplete or not finite, or the tokenizer has more tokens.
    """
    require_run(str(run))
    if is_adapter(Path(run)):
        raise UserError(
            f"{run} is a LoRA adapter: write an ordinary run folder with `tinystories merge {run} OUT`, and use OUT."
        )
    read_config(run, (TinyLlamaConfig.model_type,), "only tinyllama models can be exported or released")
    tokenizer = load_tokenizer(str(run))
    model = load_complete(run)
    assert isinstance(model, TinyLlamaForCausalLM)
    check_vocabulary(tokenizer, model.config.vocab_size, run)
    return model, tokenizer


def check_finite(weight: torch.Tensor, name: str, path: str | Path) -> None:
    """Check that a weight contains neither NaN nor infinity.

    Raises:
        UserError: if it does.
    """
    if not torch.isfinite(weight).all():
        raise UserError(f"{path} is damaged: {name} has values that are not finite.")


def check_vocabulary(tokenizer: PreTrainedTokenizerBase, vocab_size: int, path: str | Path) -> None:
    """Check that the model has an embedding for each token.

    Raises:
        UserError: if the tokenizer has more tokens.
    """
    tokens = vocabulary_size(tokenizer)
    if tokens > vocab_size:
        raise UserError(
            f"The tokenizer of {path} has {tokens:,} tokens, but the model has only {vocab_size:,} embeddings: use "
            f"the tokenizer that the model was trained with."
        )


def check_difference(difference: float, tolerance: float, model: str, source: str | Path, out: Path) -> None:
    """Check that a written model reproduces the logits of its source.

    Raises:
        UserError: if not, also if the difference is NaN.
    """
    if not difference <= tolerance:
        raise UserError(
            f"{model} does not reproduce the logits of {source} (largest difference {difference:.1e}, tolerance "
            f"{tolerance:.0e}), so nothing was written to {out}: please report this."
        )


@torch.no_grad()
def compare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> tuple[float, int]:
    """Compare a model and its tokenizer with those in a folder, in float64, where rounding is about 1e-12.

    Args:
        model: is converted to float64.

    Returns:
        The largest difference between two logits, infinite if the tokenizers differ, and the number of positions.
    """
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    model = model.double().eval()
    ids = tokenizer(STORY, verbose=False)["input_ids"]
    if AutoTokenizer.from_pretrained(folder)(STORY, verbose=False)["input_ids"] != ids:
        return float("inf"), 0

    # Also beyond the context length, where some rotary types change.
    length = min(model.config.max_position_embeddings + 8, LONGEST_CHECK)
    rows = [torch.tensor([row]) for row in (ids[:length], (ids * (length // len(ids) + 1))[:length])]
    differences = [(model(row).logits - written(row).logits).abs().max() for row in rows]
    return torch.stack(differences).max().item(), sum(row.shape[1] for row in rows)
