"""Compare the settings of a run with published recipes, each with its source.

A recipe may differ: a setting far from all published ones is a note and never an error. Learning rates are comparable
only for the same optimizer, and all published recipes for models of this kind use AdamW.
"""

from dataclasses import dataclass

from transformers import TrainingArguments

from ..training.lr_schedules import schedule_of
from .findings import Finding, SettingFinding


SOURCES = {
    "TinyStories": "model card of roneneldan/TinyStories-33M, the authors' own model (paper: arXiv 2305.07759)",
    "llama2.c": "github.com/karpathy/llama2.c, train.py: the defaults",
    "CS336": "Stanford CS336, assignment 1 (basics): the TinyStories model of 22.8M parameters",
    "nanoGPT": "github.com/karpathy/nanoGPT, train.py: the defaults, made for GPT-2 124M on OpenWebText",
    "llm_tinystories": "github.com/karthyick/llm_tinystories, README: a story model of 24.5M parameters",
}
FAR = "This is far from the published values: try one of them first."


@dataclass(frozen=True)
class Setting:
    """The published values of a setting, and its usual range.

    Attributes:
        published: value by source; a source that does not state the setting has no entry.
        low, high: the usual range.
        advice: for a value outside of it.
        unknown: the reason if a value cannot be compared.
    """

    published: dict[str, str]
    low: float
    high: float
    advice: str = FAR
    unknown: str = "not known"


SETTINGS = {
    "learning rate": Setting(
        {"TinyStories": "5e-4", "llama2.c": "5e-4", "nanoGPT": "6e-4", "llm_tinystories": "5e-4"},
        low=1.25e-4,
        high=2.4e-3,  # a factor of 4
        advice="This is far from the published values, which are for models of 15M parameters and more; smaller "
        "models tolerate higher rates.",
        unknown="the published rates are for AdamW",
    ),
    "end of the schedule": Setting(
        {
            "TinyStories": "constant",
            "llama2.c": "cosine to 0",
            "nanoGPT": "cosine to 0.1 of the peak",
            "llm_tinystories": "cosine to 0.1 of the peak",
        },
        low=0.0,
        high=1.0,  # of the highest learning rate
    ),
    "betas": Setting(
        {"TinyStories": "0.9, 0.95", "llama2.c": "0.9, 0.95", "nanoGPT": "0.9, 0.95", "llm_tinystories": "0.9, 0.95"},
        low=0.9,
        high=0.995,  # of the second
    ),
    "weight decay": Setting(
        {"TinyStories": "0.1", "llama2.c": "0.1", "nanoGPT": "0.1", "llm_tinystories": "0.1"},
        low=0.01,
        high=0.2,
        advice="Strong decay suits a large model trained for several epochs on few stories.",
    ),
    "gradient clipping": Setting(
        {"llama2.c": "1.0", "nanoGPT": "1.0"},
        low=0.1,
        high=2.0,
        unknown="without clipping, one bad batch can make a run diverge",
    ),
    "tokens per step": Setting(
        {"TinyStories": "655,360", "llama2.c": "131,072", "nanoGPT": "491,520", "llm_tinystories": "131,072"},
        low=131_072 / 8,
        high=655_360 * 8,
        advice="Small batches suit small machines; larger ones make better use of a GPU.",
    ),
    "total tokens": Setting(
        {"llama2.c": "13.1 billion", "CS336": "328 million"},
        low=3e7,
        high=1e11,
        advice="More stories or more epochs would improve the model.",
    ),
    "epochs": Setting({"llm_tinystories": "5"}, low=0.0, high=20.0, advice="Watch for overfitting."),
    "warm-up steps": Setting(
        {"llama2.c": "1,000 of 100,000", "nanoGPT": "2,000 of 600,000"},
        low=1e-4,
        high=0.2,  # of the run
        advice="Without warm-up, training can diverge in the first steps; a warm-up of more than a fifth of all steps "
        "wastes training time.",
    ),
}


@dataclass
class RunLength:
    """The length of a run, which the arguments alone do not determine. None if unknown.

    Attributes:
        steps: of the whole run; of a finished run, those that it made.
        epochs: those of `steps`.
        tokens_per_step: over all processes and accumulated batches, without padding.
        planned: steps of the schedule, if the run made fewer.
        minutes: of a run with a time limit.
        corpus_tokens: of one epoch, padding not counted.
    """

    steps: int | None = None
    epochs: float | None = None
    tokens_per_step: float | None = None
    planned: int | None = None
    minutes: float | None = None
    corpus_tokens: float | None = None

    @property
    def tokens(self) -> float | None:
        if self.steps is None or self.tokens_per_step is None:
            return None
        return self.steps * self.tokens_per_step


def compare_settings(args: TrainingArguments, run: RunLength, *, muon: bool = False) -> list[Finding]:
    """A finding for each setting that the published recipes state and that is known of this run."""
    muon = muon or "muon" in args.optim
    adamw = not muon and "adamw" in args.optim
    optimizer = " (Muon)" if muon else "" if adamw else f" ({args.optim})"
    (kind, _), end = schedule_of(args), end_of_schedule(args)
    ending = ", end not known" if end is None else f" to {end:g} of the peak" if end else " to 0"
    clipping = args.max_grad_norm or None
    findings: list[Finding] = [
        _compare("learning rate", f"{args.learning_rate:g}{optimizer}", args.learning_rate if adamw else None),
        _compare("end of the schedule", f"{kind}{ending}", end),
        _compare("betas", f"{args.adam_beta1:g}, {args.adam_beta2:g}", args.adam_beta2),
        _compare("weight decay", f"{args.weight_decay:g}", args.weight_decay),
        _compare("gradient clipping", "none" if clipping is None else f"{clipping:g}", clipping),
    ]
    if run.tokens_per_step is not None:
        findings.append(_compare("tokens per step", f"{run.tokens_per_step:,.0f}", run.tokens_per_step))
    if run.tokens is not None:
        findings.append(_compare("total tokens", _in_words(run.tokens), run.tokens))
    if run.epochs is not None:
        findings.append(_compare("epochs", f"{run.epochs:.3g}", run.epochs))
    if run.minutes is not None and args.warmup_steps < 1:
        findings.append(_compare("warm-up steps", f"{args.warmup_steps:.2%} of the time", args.warmup_steps))
    elif total := run.planned or run.steps:
        steps = args.get_warmup_steps(total)
        findings.append(_compare("warm-up steps", f"{steps:,} of {total:,}", steps / total))
    return findings


def end_of_schedule(args: TrainingArguments) -> float | None:
    """The learning rate of the last step as a fraction of the highest; None if the type of schedule does not determine
    it."""
    kind, settings = schedule_of(args)
    if kind.startswith("constant"):
        return 1.0
    if kind in ("linear", "cosine", "warmup_stable_decay") or "min_lr" in kind:
        low = settings.get("min_lr_rate", settings.get("min_lr_ratio"))
        return float(settings.get("min_lr", 0.0)) / args.learning_rate if low is None else float(low)
    return None


def _compare(name: str, here: str, value: float | None) -> SettingFinding:
    """Compare a value with the published ones; None if it cannot be compared."""
    setting = SETTINGS[name]
    evidence = f"this run: {here}; " + ", ".join(f"{source} {shown}" for source, shown in setting.published.items())
    status, advice, remark = "ok", "", ""
    if value is None:
        status, remark = "note", setting.unknown
        evidence += f"; {remark}"
    elif not setting.low <= value <= setting.high:
        status, advice = "note", setting.advice
    return SettingFinding(f"setting: {name}", status, evidence, advice, here, remark, dict(setting.published))


def _in_words(number: float) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"
