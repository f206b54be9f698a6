"""Merge a LoRA adapter into its base model: an ordinary run folder."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from modeling_tinyllama import TinyLlamaForCausalLM

from ..runs.adapter import adapter_base, merge_adapter_into
from ..runs.loading import load_tokenizer, set_generation_config
from ..runs.run_folder import (
    BASE_METADATA,
    EVAL_RESULTS,
    LOSS_PLOT,
    RECIPE,
    RUN_METADATA,
    TRAINER_STATE,
    is_adapter,
    require_run_folder,
)
from ..utils.errors import UserError
from ..utils.paths import require_new_folder, staged
from .base_model import load_base
from .verify import TOLERANCE, Verified, check_difference, check_vocabulary, compare


# What describes the training of the run, for its card and for `tinystories doctor`.
RECORDS = (RECIPE, RUN_METADATA, BASE_METADATA, TRAINER_STATE, EVAL_RESULTS, LOSS_PLOT, "log.csv", "stories.jsonl")


@dataclass(frozen=True)
class Merged(Verified):
    """Result of `merge`."""

    folder: Path
    base: str


def merge(run: str | Path, out: str | Path) -> Merged:
    """Write the model of a LoRA run, or of one of its checkpoints, to the folder `out`.

    Raises:
        UserError: if `run` is no adapter, its base model does not exist, or `out` is not empty. Then nothing is
            written.
    """
    run, out = Path(run), Path(out)
    require_new_folder(out)
    if not is_adapter(run):
        require_run_folder(run)
        raise UserError(f"{run} is not a LoRA adapter but a complete model: there is nothing to merge.")
    base = adapter_base(run)
    model = merge_adapter_into(load_base(base).model, run)
    assert isinstance(model, TinyLlamaForCausalLM)
    tokenizer = load_tokenizer(run)
    check_vocabulary(tokenizer, model.config.vocab_size, run)
    set_generation_config(model, run)
    with staged(out) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        for name in RECORDS:
            if (run / name).is_file():
                shutil.copyfile(run / name, folder / name)
        difference, positions = compare(model, tokenizer, folder)
        check_difference(difference, TOLERANCE, "The merged model", run, out)
    return Merged(model.num_parameters(), positions, difference, out, base)
