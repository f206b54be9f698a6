"""The model card of a run: what is known of it, and nothing else.

Design decisions
- **Every figure was read from a file of the run** (see `facts.py`). What is not known is left out with its sentence,
  and there is no template, so that no placeholder can survive.
- **A licence is the publisher's to choose.** The card names that of the training data where it is known. `license` of
  the metadata is the model's, and is set only where the user says so.
"""

import html
import re
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..runs.metadata import SAMPLE, TINYSTORIES, Facts


# Of the data. The card names them; what they ask of a model trained on it is for the publisher to judge.
DATA_LICENSES = {TINYSTORIES: "[CDLA-Sharing-1.0](https://cdla.dev/sharing-1-0/)"}
TAGS = ["children-stories", "small-language-model"]
PERCENT, TENTH = "{:.1%}", "{:.1f}"
# Figures of told stories by their names in the report, in words.
TOLD = {
    "mean_words": ("words a story", TENTH),
    "finished": ("stories that end by themselves", PERCENT),
    "article_omission": ("nouns that lack their article", PERCENT),
    "wrong_a_or_an": ("wrong a or an", PERCENT),
    "repeated_4grams": ("four words that stood before", PERCENT),
    "outside_vocabulary": ("words that no training story has", PERCENT),
    "longest_copied_run": ("longest run of words from one training story", TENTH),
}


def model_card(
    facts: Facts,
    repo_id: str,
    forms: dict[str, str],
    *,
    picture: bool = False,
    revision: str | None = None,
    license: str | None = None,
) -> ModelCard:
    """The card of a release.

    Args:
        repo_id: where it will be published.
        forms: the other forms in the repo: subfolder by kind ("llama", "gguf", "onnx").
        picture: whether `loss.png` lies beside it.
        revision: the branch that it is for; main by default.
        license: of the model, for the metadata.
    """
    name = repo_id.split("/")[-1]
    results = _eval_results(facts)
    data = ModelCardData(
        language="en",
        license=license,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=TAGS,
        datasets=[facts.hub_id] if facts.hub_id else None,
        model_name=name if results else None,
        eval_results=results or None,
        widget=[{"text": sample["prompt"]} for sample in facts.samples] or None,
    )
    sections = [
        f"# {name}",
        _opening(facts),
        _loading(repo_id, forms, revision),
        _section("Stories", _stories(facts)),
        _section("Results", _results(facts)),
        _section("Training", _training(facts, picture)),
        _section("The model", _architecture(facts)),
        _section("Limits", _limits(facts)),
        _section("Licence", _licence(facts)),
    ]
    body = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}\n")


def _say(sentence: str, **values: Any) -> str:
    """The sentence with its values in it, or nothing where one of them is not known."""
    return "" if any(value is None for value in values.values()) else sentence.format(**values)


def _section(title: str, parts: Iterable[str]) -> str:
    content = "\n\n".join(part for part in parts if part)
    return f"## {title}\n\n{content}" if content else ""


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of the rows that are whole."""
    rows = [row for row in rows if all(row)]
    if not rows:
        return ""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ("---",) * len(head), *rows])


def _figure(form: str, value: float | None, low: float | None = None, high: float | None = None) -> str:
    """A figure with its interval, where it has one; nothing where there is none."""
    if value is None:
        return ""
    interval = "" if low is None or high is None else f" ({form.format(low)} to {form.format(high)})"
    return (form.format(value) + interval).replace("%", " %")


def _opening(facts: Facts) -> str:
    corpus = f"[{facts.hub_id}](https://huggingface.co/datasets/{facts.hub_id})" if facts.hub_id else facts.corpus
    return " ".join(
        filter(
            None,
            (
                f"A small Llama-style language model ({facts.parameters:,} parameters) that writes short children's "
                f"stories in English.",
                _say("It was trained from scratch on stories of {corpus}.", corpus=corpus),
                _say("This is its state after step {step:,}, before training ended.", step=facts.step),
            ),
        )
    )


def _loading(repo_id: str, forms: dict[str, str], revision: str | None) -> str:
    at = f', revision="{revision}"' if revision not in (None, "main") else ""
    ways = [
        f"""With its own code, which lies in this repo, as a pipeline:

```python
from transformers import pipeline

storyteller = pipeline("text-generation", model="{repo_id}"{at}, trust_remote_code=True)
print(storyteller("Once upon a time there was")[0]["generated_text"])
```""",
        f"""or as a model and a tokenizer:

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo_id}"{at}, trust_remote_code=True)
tokenizer = AutoTokenizer.from_pretrained("{repo_id}"{at}, trust_remote_code=True)
inputs = tokenizer("One day, a little girl named Lily", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
```""",
    ]
    if "llama" in forms:
        folder = forms["llama"]
        ways.append(
            f"""Without code from this repo, as a model of transformers itself (the same function, in `{folder}/`):

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("{repo_id}"{at}, subfolder="{folder}")
tokenizer = AutoTokenizer.from_pretrained("{repo_id}"{at}, subfolder="{folder}")
```"""
        )
    elif not at:
        ways.append(
            f"""With the package that it was trained with, which tells the story as it comes:

```bash
tinystories generate {repo_id} "Once upon a time" --preset creative
```"""
        )
    if "gguf" in forms:
        ways.append(f"For llama.cpp and what builds on it, `{forms['gguf']}/` holds the model as GGUF.")
    if "onnx" in forms:
        ways.append(f"For ONNX Runtime, `{forms['onnx']}/` holds the model, with its cache, as ONNX.")
    return "## How to use it\n\n" + "\n\n".join(ways)


def _stories(facts: Facts) -> list[str]:
    if not facts.samples:
        return []
    told = []
    for sample in facts.samples:
        text = html.escape(sample["text"].strip(), quote=False)
        text += " *(cut here)*" if sample.get("ended") is False else ""
        told.append("\n".join(f"> {line}".rstrip() for line in text.splitlines()))
    return [facts.samples_by, "\n\n---\n\n".join(told)]


def _results(facts: Facts) -> list[str]:
    found = facts.results
    bits = found.get("bits_per_byte") or {}
    pairs = found.get("minimal_pairs") or {}
    where = _say(" of {on}", on=found.get("on")) + _say(" ({n:,} bytes)", n=found.get("bytes"))
    return [
        "Measured on " + _say("{n:,} ", n=found.get("stories")) + f"held-out stories{where}." if bits else "",
        _table(
            ("measure", "figure (95 % interval)" if bits.get("low") is not None else "figure"),
            (
                ("bits per byte", _figure("{:.3f}", bits.get("value"), bits.get("low"), bits.get("high"))),
                ("nats per token", _figure("{:.3f}", found.get("nats_per_token"))),
                ("perplexity per token", _figure("{:.2f}", found.get("perplexity"))),
                ("bytes per token", _figure("{:.2f}", found.get("bytes_per_token"))),
            ),
        ),
        "Bits per byte are nats per token / ln 2 / bytes per token, the one figure that compares across tokenizers; "
        "lower is better."
        if bits
        else "",
        "Minimal pairs: how often it finds a correct sentence likelier than the same sentence with one fault in it. "
        "Guessing gives 50 %."
        if pairs
        else "",
        _table(
            ("fault", "correct (95 % interval)", "pairs"),
            [
                (
                    kind.replace("_", " "),
                    _figure(PERCENT, pair.get("accuracy"), pair.get("low"), pair.get("high")),
                    _say("{pairs:,}", pairs=pair.get("pairs")),
                )
                for kind, pair in pairs.items()
            ],
        ),
        *_told(found),
        *(f"Note: {note}" for note in found.get("notes") or []),
    ]


def _told(found: dict[str, Any]) -> list[str]:
    """Figures of the stories that it told, beside those of real stories."""
    columns = {f"`{preset}`": by.get("raw") or {} for preset, by in (found.get("generation") or {}).items()}
    if not any(columns.values()):
        return []
    stories = max(raw.get("stories") or 0 for raw in columns.values())
    columns["real stories"] = found.get("real_stories") or {}
    rows = []
    for name, (label, form) in TOLD.items():
        cells = [_figure(form, c.get(name), c.get(f"{name}_low"), c.get(f"{name}_high")) for c in columns.values()]
        if any(cells):
            rows.append((label, *(cell or "&nbsp;" for cell in cells)))
    told = _say("The stories that it tells by itself ({n:,} a preset, prompts not counted):", n=stories or None)
    return [told, _table(("", *columns), rows)] if rows else []


def _training(facts: Facts, picture: bool) -> list[str]:
    known, recipe, data = facts.training, facts.recipe, facts.data
    tokens = _say("{n:,}", n=known.get("tokens")) or _say("{n:,}, padding included", n=known.get("tokens_padded"))
    took = _say("{time}", time=_time(known.get("seconds"))) or _say(
        "{time} (the last session of the run)", time=_time(known.get("session_seconds"))
    )
    versions = ", ".join(f"{name} {version}" for name, version in (known.get("versions") or {}).items())
    stories = _say("{n:,} stories", n=data.get("training_stories"))
    rows = (
        ("data", ", ".join(filter(None, (facts.corpus, stories)))),
        ("fingerprint of the stories", _say("`{f}`", f=data.get("fingerprint"))),
        ("tokens seen", tokens),
        ("steps", _steps(known.get("steps"), facts.results.get("step"))),
        ("epochs", _say("{n:.2f}", n=known.get("epochs"))),
        ("optimizer", _say("{name}", name=recipe.get("optimizer"))),
        ("learning rate", _say("{rate:g}", rate=recipe.get("learning_rate"))),
        ("schedule", _say("{kind}", kind=recipe.get("lr_scheduler_type"))),
        ("average of the weights (EMA)", _say("{decay:g}", decay=recipe.get("ema_decay"))),
        ("seed", _say("{seed}", seed=recipe.get("seed"))),
        ("hardware", known.get("hardware") or ""),
        ("precision", known.get("precision") or ""),
        ("time", took),
        ("versions", versions),
    )
    return [
        _objective(recipe),
        _table(("", ""), rows),
        "`recipe.yaml` holds all settings." if recipe else "",
        "![Loss during training](loss.png)" if picture else "",
    ]


def _steps(made: int | None, of_weights: int | None) -> str:
    if made is None or of_weights in (None, made):
        return _say("{n:,}", n=made)
    return f"{made:,}; the weights are those of step {of_weights:,}, the best in validation"


def _objective(recipe: dict[str, Any]) -> str:
    weight = recipe.get("article_loss_weight")
    if weight is None:
        return ""
    loss = (
        "Standard next-token cross-entropy"
        if weight == 1
        else f"Cross-entropy in which articles count {weight:g} times"
    )
    return f"{loss}; each story is trained as `<|endoftext|> story <|endoftext|>`, and no story sees another."


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else str(timedelta(seconds=round(seconds)))


def _architecture(facts: Facts) -> list[str]:
    config = facts.config
    rotated = config.rope_parameters["partial_rotary_factor"]
    rows = (
        ("parameters", f"{facts.parameters:,}"),
        ("layers", f"{config.num_hidden_layers}"),
        ("hidden size", f"{config.hidden_size:,}"),
        (
            "heads",
            f"{config.num_attention_heads} of {config.head_dim}, {config.num_key_value_heads} of keys and values",
        ),
        ("MLP", f"SwiGLU, {config.intermediate_size:,}" if config.hidden_act == "silu" else ""),
        ("positions", f"rotary, on {rotated:.0%} of each head".replace("%", " %")),
        ("context", f"{config.max_position_embeddings:,} tokens"),
        ("vocabulary", f"{config.vocab_size:,}"),
    )
    return [_table(("", ""), rows)]


def _limits(facts: Facts) -> list[str]:
    limits = [
        "It writes short stories in simple English and does nothing else: it follows no instructions, answers no "
        "questions, and knows no facts.",
        f"A story and its beginning together have room for {facts.config.max_position_embeddings:,} tokens.",
        "A model as small as this one forgets and contradicts what it told: names change, and things that were lost "
        "are there again.",
        "Nothing filters what it writes. Read a story before you read it to a child.",
    ]
    if facts.hub_id == TINYSTORIES:
        limits.append(
            "TinyStories were written by GPT-3.5 and GPT-4, not by people, and the model has their habits: the same "
            "few names, plots and endings."
        )
    if facts.corpus == SAMPLE:
        limits.append(
            "It was trained and measured on synthetic stories that rules made up. That shows that training works; its "
            "figures say nothing about real text."
        )
    return ["\n".join(f"- {limit}" for limit in limits)]


def _licence(facts: Facts) -> list[str]:
    return [
        _say(
            "The training data, {data}, is under {license}.",
            data=facts.hub_id,
            license=DATA_LICENSES.get(facts.hub_id or ""),
        ),
        "The code in `modeling_tinyllama.py` and `configuration_tinyllama.py` is under Apache-2.0.",
    ]


def _eval_results(facts: Facts) -> list[EvalResult]:
    found = facts.results
    if found.get("on") is None:
        return []
    on_hub = facts.hub_id if found["on"] == facts.corpus else None
    held_out = {
        "task_type": "text-generation",
        "task_name": "Text generation",
        "dataset_type": on_hub or re.split(r"\W", found["on"])[0].lower() or "stories",
        "dataset_name": found["on"],
        "dataset_split": "validation",
    }
    results = [
        EvalResult(**held_out, metric_type=kind, metric_name=name, metric_value=round(value, 4))
        for kind, name, value in (
            ("bits_per_byte", "Bits per byte", (found.get("bits_per_byte") or {}).get("value")),
            ("perplexity", "Perplexity per token", found.get("perplexity")),
        )
        if value is not None
    ]
    pairs = {**held_out, "dataset_type": "minimal-pairs", "dataset_name": "Minimal pairs", "dataset_split": None}
    for kind, pair in (found.get("minimal_pairs") or {}).items():
        if pair.get("accuracy") is not None:
            figure = {"metric_name": kind.replace("_", " ").capitalize(), "metric_value": round(pair["accuracy"], 4)}
            results.append(EvalResult(**pairs, metric_type="accuracy", **figure))
    return results
