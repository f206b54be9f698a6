"""The model card of a run, rendered from `model_card.md.jinja` by `huggingface_hub`.

- Every figure comes from a file of the run (see `runs/metadata.py`). Unknown ones are omitted.
- The card names the licence of the training data if it is known. The licence of the model itself is in the card's
  YAML metadata only if the publisher chooses one.
"""

import html
import json
import re
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..data.synthetic import NAME as SAMPLE
from ..runs.metadata import TINYSTORIES, RunMetadata
from ..story_template import StoryTemplate


TEMPLATE = Path(__file__).with_name("model_card.md.jinja")
DATA_LICENSES = {TINYSTORIES: "[CDLA-Sharing-1.0](https://cdla.dev/sharing-1-0/)"}
TAGS = ["children-stories", "small-language-model"]
PERCENT, TENTH = "{:.1%}", "{:.1f}"
# Keys of the report with their labels and formats.
GENERATION_METRICS = {
    "mean_words": ("words per story", TENTH),
    "finished": ("EOS rate", PERCENT),
    "article_omission": ("omitted articles", PERCENT),
    "wrong_a_or_an": ('wrong "a" or "an"', PERCENT),
    "repeated_4grams": ("repeated 4-grams", PERCENT),
    "outside_vocabulary": ("words not in the training stories", PERCENT),
    "unintroduced_names": ("stories with a name that was never introduced", PERCENT),
    "faulty_stories": ("stories with that or another fault of coherence", PERCENT),
    "longest_copied_run": ("words in the longest copied sequence", TENTH),
}


def model_card(
    metadata: RunMetadata,
    repo_id: str,
    formats: dict[str, str],
    *,
    loss_plot: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """Return the model card of a run.

    Args:
        repo_id: repository that the model will be published in.
        formats: subfolder of each additional format ("llama", "gguf", "onnx").
        loss_plot: whether `loss.png` is published along with the card.
        revision: branch that the model is published on; main by default.
        license: SPDX identifier of the model's licence, for the YAML metadata; None if the publisher chose none.
    """
    name = repo_id.split("/")[-1]
    eval_results = _eval_results(metadata)
    data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        datasets=[metadata.hub_id] if metadata.hub_id else None,
        base_model=metadata.base.get("hub_id"),
        model_name=name if eval_results else None,
        eval_results=eval_results or None,
        widget=[{"text": sample["prompt"]} for sample in metadata.samples] or None,
    )
    return ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        revision=None if revision == "main" else revision,
        formats=formats,
        loss_plot=loss_plot,
        metadata=metadata,
        base=_base(metadata.base),
        fine_tuning=[
            (f"{kind} stories", *(f"{value:.3f}" for value in values)) for kind, values in metadata.fine_tuning.items()
        ],
        corpus=f"[{metadata.hub_id}](https://huggingface.co/datasets/{metadata.hub_id})"
        if metadata.hub_id
        else metadata.corpus,
        samples=[_blockquote(sample) for sample in metadata.samples],
        results=metadata.results,
        likelihood=_likelihood(metadata.results),
        pairs=_accuracies(metadata.results, "minimal_pairs"),
        probes=_accuracies(metadata.results, "coherence"),
        generation=_generation(metadata.results),
        message=_message(metadata.recipe.get("template")),
        command=None if revision not in (None, "main") else _command(repo_id, metadata.results.get("on")),
        objective=_objective(metadata.recipe),
        training=_training(metadata),
        architecture=_architecture(metadata),
        tinystories=metadata.hub_id == TINYSTORIES,
        synthetic=metadata.corpus == SAMPLE,
        data_license=DATA_LICENSES.get(metadata.hub_id or ""),
    )


def _base(base: dict[str, Any]) -> str | None:
    """The model that was fine-tuned, as a link if it is on the Hub."""
    if not base:
        return None
    hub_id, name, corpus = base.get("hub_id"), base.get("name"), base.get("corpus")
    text = f"[{hub_id}](https://huggingface.co/{hub_id})" if hub_id else f"{name}"
    return f"{text}, which was trained on stories from {corpus}," if corpus else text


def _message(template: str | None) -> str | None:
    """A Python string with the lines of the template that a message may have, values left open; None without any."""
    lines = [] if template is None else [f"{line.label} ..." for line in StoryTemplate(template).lines if line.label]
    return json.dumps("\n".join(lines), ensure_ascii=False) if lines else None


def _known(rows: Iterable[tuple[str, ...]]) -> list[tuple[str, ...]]:
    """The rows in which no cell is empty."""
    return [row for row in rows if all(row)]


def _format(form: str, value: Any, low: float | None = None, high: float | None = None) -> str:
    """The value, followed by its interval if it has one; empty if it is unknown."""
    if value is None:
        return ""
    interval = "" if low is None or high is None else f" ({form.format(low)} to {form.format(high)})"
    return form.format(value) + interval


def _blockquote(sample: dict[str, Any]) -> str:
    text = html.escape(sample["text"].strip(), quote=False)
    text += " *(truncated)*" if sample.get("ended") is False else ""
    return "\n".join(f"> {line}".rstrip() for line in text.splitlines())


def _likelihood(results: dict[str, Any]) -> list[tuple[str, ...]]:
    bits = results.get("bits_per_byte") or {}
    return _known(
        (
            ("bits per byte", _format("{:.3f}", bits.get("value"), bits.get("low"), bits.get("high"))),
            ("nats per token", _format("{:.3f}", results.get("nats_per_token"))),
            ("perplexity per token", _format("{:.2f}", results.get("perplexity"))),
            ("bytes per token", _format("{:.2f}", results.get("bytes_per_token"))),
        )
    )


def _accuracies(results: dict[str, Any], key: str) -> list[tuple[str, ...]]:
    return _known(
        (
            kind.replace("_", " "),
            _format(PERCENT, pair.get("accuracy"), pair.get("low"), pair.get("high")),
            _format("{:,}", pair.get("pairs")),
        )
        for kind, pair in (results.get(key) or {}).items()
    )


def _generation(results: dict[str, Any]) -> dict[str, Any]:
    """Statistics of generated stories, a column per preset, and of real stories."""
    presets = {preset: entry.get("raw") or {} for preset, entry in (results.get("generation") or {}).items()}
    if not any(presets.values()):
        return {}
    columns = {f"`{preset}`": raw for preset, raw in presets.items()}
    columns["real stories"] = results.get("real_stories") or {}
    rows = []
    for key, (label, form) in GENERATION_METRICS.items():
        cells = [_format(form, c.get(key), c.get(f"{key}_low"), c.get(f"{key}_high")) for c in columns.values()]
        if any(cells):
            rows.append((label, *(cell or "&nbsp;" for cell in cells)))
    stories = max(raw.get("stories") or 0 for raw in presets.values())
    return {"columns": list(columns), "rows": rows, "stories": stories} if rows else {}


def _command(repo_id: str, corpus: str | None) -> str | None:
    """The command that repeats the evaluation; None for a corpus that only the publisher has."""
    if corpus == SAMPLE:
        corpus = "sample"
    elif not corpus or "/" not in corpus:
        return None
    return f"tinystories evaluate {repo_id} --corpus {corpus}"


def _objective(recipe: dict[str, Any]) -> str:
    weight = recipe.get("article_loss_weight")
    if weight is None:
        return ""
    loss = "Standard next-token cross-entropy" if weight == 1 else f"Cross-entropy with articles weighted {weight:g}"
    return f"{loss}. Each story is trained as `<|endoftext|> story <|endoftext|>`, with document masking."


def _training(metadata: RunMetadata) -> list[tuple[str, ...]]:
    known, recipe, data = metadata.training, metadata.recipe, metadata.data
    stories = _format("{:,} stories", data.get("training_stories"))
    steps = _format("{:,}", known.get("steps"))
    if steps and metadata.results.get("step") not in (None, known["steps"]):
        steps += f"; the weights are from step {metadata.results['step']:,}, which has the best validation result"
    tokens, padded = known.get("tokens"), known.get("tokens_padded")
    return _known(
        (
            ("data", ", ".join(filter(None, (metadata.corpus, stories)))),
            ("data fingerprint", _format("`{}`", data.get("fingerprint"))),
            ("tokens seen", _format("{:,}", tokens) or _format("{:,}, including padding", padded)),
            ("steps", steps),
            ("epochs", _format("{:.2f}", known.get("epochs"))),
            ("optimizer", _format("{}", recipe.get("optimizer"))),
            ("learning rate", _format("{:g}", recipe.get("learning_rate"))),
            ("schedule", _format("{}", recipe.get("lr_scheduler_type"))),
            ("EMA decay of the weights", _format("{:g}", recipe.get("ema_decay"))),
            ("seed", _format("{}", recipe.get("seed"))),
            ("hardware", known.get("hardware") or ""),
            ("precision", known.get("precision") or ""),
            (
                "training time",
                _time(known.get("seconds")) or _time(known.get("session_seconds"), " (last session only)"),
            ),
            ("versions", ", ".join(f"{name} {version}" for name, version in (known.get("versions") or {}).items())),
        )
    )


def _time(seconds: float | None, note: str = "") -> str:
    return "" if seconds is None else f"{timedelta(seconds=round(seconds))}{note}"


def _architecture(metadata: RunMetadata) -> list[tuple[str, ...]]:
    config = metadata.config
    return _known(
        (
            ("parameters", f"{metadata.parameters:,}"),
            ("layers", f"{config.num_hidden_layers}"),
            ("hidden size", f"{config.hidden_size:,}"),
            ("attention heads", f"{config.num_attention_heads} ({config.num_key_value_heads} key/value heads)"),
            ("head dimension", f"{config.head_dim}"),
            ("MLP", f"SwiGLU, intermediate size {config.intermediate_size:,}" if config.hidden_act == "silu" else ""),
            ("rotary embedding", _format("{:.0%} of each head", config.rope_parameters["partial_rotary_factor"])),
            ("context length", f"{config.max_position_embeddings:,}"),
            ("vocabulary size", f"{config.vocab_size:,}"),
        )
    )


def _eval_results(metadata: RunMetadata) -> list[EvalResult]:
    results = metadata.results
    name = results.get("on")
    if name is None:
        return []
    on_hub = metadata.hub_id if name == metadata.corpus else None
    held_out = {
        "task_type": "text-generation",
        "task_name": "Text generation",
        "dataset_type": on_hub or re.split(r"\W", name)[0].lower() or "stories",
        "dataset_name": name,
        "dataset_split": "validation",
    }
    pairs = {**held_out, "dataset_type": "minimal-pairs", "dataset_name": "Minimal pairs", "dataset_split": None}
    probes = {**pairs, "dataset_type": "coherence-probes", "dataset_name": "Coherence probes"}
    metrics = [
        (held_out, "bits_per_byte", "Bits per byte", (results.get("bits_per_byte") or {}).get("value")),
        (held_out, "perplexity", "Perplexity per token", results.get("perplexity")),
    ] + [
        (dataset, "accuracy", kind.replace("_", " ").capitalize(), pair.get("accuracy"))
        for dataset, key in ((pairs, "minimal_pairs"), (probes, "coherence"))
        for kind, pair in (results.get(key) or {}).items()
    ]
    return [
        EvalResult(**dataset, metric_type=kind, metric_name=label, metric_value=round(value, 4))
        for dataset, kind, label, value in metrics
        if value is not None
    ]
