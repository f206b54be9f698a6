"""Metadata of a run, read from the files in its folder and from nothing else.

- Missing values stay None. Only the tokens of a run without `run.json` are derived, from the floating point operations
  that `Trainer` counts; they include padding.
- Results come from the report of an evaluation, otherwise from training itself. A report that is older than the
  weights, or of another model, is ignored, and `RunMetadata.notes` says so.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig, PreTrainedModel

from ..data.synthetic import NAME as SAMPLE
from ..recipe import Recipe
from ..utils.errors import UserError, first_line
from .builtin_model import BUILTIN, FOLDER, model_path
from .download import may_be_hub_id
from .run_folder import BASE_METADATA, EVAL_RESULTS, RUN_METADATA, TRAINER_STATE, checkpoint_step, run_of, run_recipe


TINYSTORIES = "roneneldan/TinyStories"
BUILTIN_MODEL = "the built-in model of tinyllama-stories"
SAMPLES = 3


@dataclass
class RunMetadata:
    """Metadata of a run or checkpoint; None or empty if unknown.

    Attributes:
        step: of a checkpoint; None for the end of a run.
        corpus: name of the training corpus, and `hub_id` if it is a dataset on the Hub.
        data: `corpus` of `run.json`.
        training: `tokens`, `tokens_padded` (derived), `seconds`, `session_seconds`, `hardware`, `precision`,
            `versions`, `steps` and `epochs`.
        recipe: the settings of the recipe, those of its sections included.
        results: bits per byte and other metrics, with the corpus that they were measured on (`on`, `stories`,
            `bytes`).
        samples: `{"prompt", "text"}`, and in `samples_by` how they were generated.
        base: of a fine-tuned model, `name` and `hub_id` of the model that training started from, and the `corpus` of
            that model, if it is known.
        fine_tuning: bits per byte on the `new` and the `old` stories before and after fine-tuning.
        notes: which files were ignored, and why.
    """

    config: PreTrainedConfig
    parameters: int
    step: int | None = None
    corpus: str | None = None
    hub_id: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    recipe: dict[str, Any] = field(default_factory=dict)
    results: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    samples_by: str = ""
    base: dict[str, Any] = field(default_factory=dict)
    fine_tuning: dict[str, tuple[float, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def write_run_metadata(
    run: Path,
    *,
    corpus: dict[str, Any],
    tokens_seen: int,
    seconds: float | None,
    hardware: str,
    precision: str,
    versions: dict[str, str],
) -> None:
    """Write `run.json` when training ends.

    Args:
        corpus: `name` and `fingerprint` of the `Corpus`, `training_stories` (None for a stream),
            `validation_stories` and `validation_bytes`.
        tokens_seen: in all sessions of the run, EOS tokens included and padding not.
        seconds: of training in all sessions, evaluations included.
        hardware, precision: in words, such as "1 x NVIDIA H100" and "bf16 autocast, fp32 weights".
        versions: by package.
    """
    record = {
        "format": 1,
        "corpus": corpus,
        "tokens_seen": tokens_seen,
        "seconds": seconds,
        "hardware": hardware,
        "precision": precision,
        "versions": versions,
    }
    (run / RUN_METADATA).write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def write_base_metadata(run: Path, base: str | None) -> None:
    """Write which model a run starts from, as it may be gone at its end; None for training from scratch."""
    file = run / BASE_METADATA
    if base is None:
        file.unlink(missing_ok=True)
        return
    hub_id = base if may_be_hub_id(base) else None
    path = Path(model_path(base))
    recipe = None if hub_id is not None or not path.is_dir() else _recipe_or_none(path)
    record = {
        "name": BUILTIN_MODEL if base == BUILTIN and path == FOLDER else hub_id or path.resolve().name,
        "hub_id": hub_id,
        "corpus": None if recipe is None else _corpus_name(recipe.corpus)[0],
    }
    file.write_text(json.dumps(record, indent=2) + "\n", "utf-8")


def _recipe_or_none(path: Path) -> Recipe | None:
    try:
        return run_recipe(path)
    except UserError:
        return None


def read_run_metadata(folder: Path, model: PreTrainedModel) -> RunMetadata:
    """The metadata of a run folder or checkpoint, whose model is `model`.

    Raises:
        UserError: if one of the files is damaged.
    """
    run, step = run_of(folder.resolve()), checkpoint_step(folder.resolve())
    metadata = RunMetadata(model.config, model.num_parameters(), step)
    _read_recipe(metadata, run)
    _read_training(metadata, folder, run, model)
    _read_results(metadata, folder)
    if step is None:
        _read_report(metadata, folder)
    return metadata


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({first_line(error)}): delete it, or create it again.") from None
    return content


def _read_recipe(metadata: RunMetadata, run: Path) -> None:
    try:
        recipe = run_recipe(run)
    except UserError as error:
        metadata.notes.append(f"recipe.yaml is ignored, because it cannot be read: {error}")
        return
    if recipe is None:
        return
    metadata.recipe = {**recipe.trainer, **{k: v for k, v in vars(recipe).items() if k not in ("model", "trainer")}}
    metadata.corpus, metadata.hub_id = _corpus_name(recipe.corpus)
    if recipe.init_from is not None:
        metadata.base = _read_json(run / BASE_METADATA)


def _corpus_name(source: str) -> tuple[str, str | None]:
    """The name of a recipe's corpus and, if that is certain, its id on the Hub."""
    if re.split("[:@]", source)[0] == TINYSTORIES:
        return source, TINYSTORIES
    # Only `run.json` states whether another name with a slash is a folder or an id on the Hub.
    return SAMPLE if source == "sample" else Path(source).name, None


def _read_training(metadata: RunMetadata, folder: Path, run: Path, model: PreTrainedModel) -> None:
    state, record = _read_json(folder / TRAINER_STATE), _read_json(run / RUN_METADATA)
    training = metadata.training
    metadata.fine_tuning = _before_and_after(state.get("log_history", []), metadata.step)
    training["steps"], training["epochs"] = state.get("global_step"), state.get("epoch")
    if flops := state.get("total_flos"):
        training["tokens_padded"] = round(padded_tokens(flops, model))
    if metadata.step is None:
        ends = [entry["train_runtime"] for entry in state.get("log_history", []) if "train_runtime" in entry]
        training["session_seconds"] = ends[-1] if ends else None
        training["tokens"], training["seconds"] = record.get("tokens_seen"), record.get("seconds")
    training |= {name: record.get(name) for name in ("hardware", "precision", "versions")}
    metadata.data = record.get("corpus") or {}
    if name := metadata.data.get("name"):
        # Only an id on the Hub has a slash; files are named by the last part of their path.
        metadata.corpus = name
        metadata.hub_id = re.split("[:@]", name)[0] if "/" in name else None


def _before_and_after(history: list[dict], step: int | None) -> dict[str, tuple[float, float]]:
    """Bits per byte of the base model, which are logged at step 0, and of the model at a step or at the end."""
    before = next((entry for entry in history if not entry.get("step") and "eval_bits_per_byte" in entry), {})
    evaluations = [entry for entry in history if "eval_bits_per_byte" in entry and step in (None, entry.get("step"))]
    names = {"new": "eval_bits_per_byte", "old": "eval_old_bits_per_byte"}
    return {
        kind: (before[name], evaluations[-1][name])
        for kind, name in names.items()
        if evaluations and name in before and name in evaluations[-1]
    }


def padded_tokens(total_flos: float, model: PreTrainedModel) -> float:
    """Tokens, padding included: `Trainer` counts 6 operations per token and parameter outside of the embedding."""
    return total_flos / 6 / model.num_parameters(exclude_embeddings=True)


def _read_results(metadata: RunMetadata, run: Path) -> None:
    """The metrics that training logged at its end, or at the step of a checkpoint."""
    if metadata.step is None:
        found = _read_json(run / EVAL_RESULTS)
    else:
        history = _read_json(run / TRAINER_STATE).get("log_history", [])
        found = next((e for e in history if e.get("step") == metadata.step and "eval_bits_per_byte" in e), {})
    if "eval_bits_per_byte" in found:
        metadata.results = {
            "bits_per_byte": {"value": found["eval_bits_per_byte"]},
            "nats_per_token": found.get("eval_nats_per_token"),
            "on": metadata.corpus,
            "stories": metadata.data.get("validation_stories"),
            "bytes": metadata.data.get("validation_bytes"),
        }


def _read_report(metadata: RunMetadata, run: Path) -> None:
    path = run / "report.json"
    report = _read_json(path)
    entries = [entry for entry in report.get("models", []) if isinstance(entry, dict)]
    exact = [entry for entry in entries if Path(str(entry.get("model"))).resolve() == run.resolve()]
    moved = [entry for entry in entries if Path(str(entry.get("model"))).name == run.resolve().name]
    found = exact or moved
    if not found:
        return
    weights = max(file.stat().st_mtime for file in run.glob("*.safetensors"))
    if len(found) > 1 or found[0].get("parameters", metadata.parameters) != metadata.parameters:
        metadata.notes.append(
            "report.json describes another model, so its figures are omitted; evaluate the run again."
        )
    elif path.stat().st_mtime < weights - 1:
        metadata.notes.append(
            "report.json is older than the weights, so its figures are omitted; evaluate the run again."
        )
    else:
        entry, corpus = found[0], report.get("corpus") or {}
        metadata.results = {**entry, "on": corpus.get("name"), "stories": corpus.get("stories")}
        metadata.results |= {"bytes": corpus.get("bytes"), "real_stories": report.get("real_stories") or {}}
        samples = {preset: by.get("samples") or [] for preset, by in (entry.get("generation") or {}).items()}
        preset = metadata.recipe.get("preset")
        preset = preset if samples.get(preset) else next(iter(samples), None)
        if preset and samples[preset]:
            metadata.samples = samples[preset][:SAMPLES]
            metadata.samples_by = f"Generated with the preset `{preset}`, not post-processed."
