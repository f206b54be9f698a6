"""The settings of a run next to those of published recipes, each with its source.

A recipe is not wrong because it differs: a setting far from all of these is a note and never an error. Learning rates
can be compared only between equal optimizers, and only the published ones for AdamW are for models of this kind.
"""

from dataclasses import dataclass

from transformers import TrainingArguments

from .findings import Finding, SettingFinding


SOURCES = {
    "TinyStories": "model card of roneneldan/TinyStories-33M, the authors' own model (paper: arXiv 2305.07759)",
    "llama2.c": "github.com/karpathy/llama2.c, train.py: the defaults",
    "CS336": "Stanford CS336, assignment 1 (basics): the TinyStories model of 22.8M parameters",
    "nanoGPT": "github.com/karpathy/nanoGPT, train.py: the defaults, made for GPT-2 124M on OpenWebText",
    "origin": "github.com/karthyick/llm_tinystories, README: the first 24.5M story model",
}

# Figures in the units that `Setting` states. A source that does not fix a setting has no entry.
PUBLISHED: dict[str, dict[str, tuple[str, float | None]]] = {
    "learning rate": {
        "TinyStories": ("5e-4", 5e-4),
        "llama2.c": ("5e-4", 5e-4),
        "nanoGPT": ("6e-4", 6e-4),
        "origin": ("5e-4", 5e-4),
    },
    "end of the schedule": {
        "TinyStories": ("constant", 1.0),
        "llama2.c": ("cosine to 0", 0.0),
        "nanoGPT": ("cosine to a tenth", 0.1),
        "origin": ("cosine to a tenth", 0.1),
    },
    "betas": {
        "TinyStories": ("0.9, 0.95", 0.95),
        "llama2.c": ("0.9, 0.95", 0.95),
        "nanoGPT": ("0.9, 0.95", 0.95),
        "origin": ("0.9, 0.95", 0.95),
    },
    "weight decay": {
        "TinyStories": ("0.1", 0.1),
        "llama2.c": ("0.1", 0.1),
        "nanoGPT": ("0.1", 0.1),
        "origin": ("0.1", 0.1),
    },
    "tokens a step": {
        "TinyStories": ("655,360", 80 * 16 * 512),
        "llama2.c": ("131,072", 128 * 4 * 256),
        "nanoGPT": ("491,520", 12 * 40 * 1024),
        "origin": ("131,072", 64 * 4 * 512),
    },
    "tokens in all": {
        "llama2.c": ("13.1 billion", 100_000 * 131_072),
        "CS336": ("328 million", 327_680_000),
    },
    "epochs": {"origin": ("5", 5)},
    "warm-up steps": {"llama2.c": ("1,000 of 100,000", 0.01), "nanoGPT": ("2,000 of 600,000", 2_000 / 600_000)},
    "gradient clipping": {"llama2.c": ("1.0", 1.0), "nanoGPT": ("1.0", 1.0)},
}


@dataclass
class Run:
    """The length of a run: what the arguments alone do not say. None where it is not known.

    Attributes:
        steps: of the whole run, or that a run has made.
        epochs: those of `steps`.
        tokens_per_step: over all processes and accumulated batches, padding not counted.
        planned: steps that the schedule is made for, where the run made fewer.
        minutes: of a run by the clock.
    """

    steps: int | None = None
    epochs: float | None = None
    tokens_per_step: float | None = None
    planned: int | None = None
    minutes: float | None = None

    @property
    def tokens(self) -> float | None:
        if self.steps is None or self.tokens_per_step is None:
            return None
        return self.steps * self.tokens_per_step


def compare_settings(args: TrainingArguments, run: Run, *, optimizer: str | None = None) -> list[Finding]:
    """A finding for each setting that the published recipes state.

    Args:
        optimizer: "muon" where it is not the one that `args.optim` names.
    """
    muon = "muon" in (optimizer or args.optim)
    adamw = not muon and "adamw" in args.optim
    end = end_of_schedule(args)
    findings = [
        _compare(
            "learning rate",
            f"{args.learning_rate:g}" + (" (Muon)" if muon else "" if adamw else f" ({args.optim})"),
            args.learning_rate if adamw else None,
            factor=4,
            unknown="the published rates are for AdamW",
            unusual="It is far from what is published, for models of 15M and more; smaller ones tolerate more.",
        ),
        _compare(
            "end of the schedule",
            f"{_kind(args)}, " + ("its end is not known" if end is None else f"to {end:g} of the learning rate"),
            end,
            low=0.0,
            high=1.0,
        ),
        _compare("betas", f"{args.adam_beta1:g}, {args.adam_beta2:g}", args.adam_beta2, low=0.9, high=0.995),
        _compare(
            "weight decay",
            f"{args.weight_decay:g}",
            args.weight_decay,
            low=0.01,
            high=0.2,
            unusual="Strong decay suits a large model trained for several epochs on few stories.",
        ),
        _compare(
            "gradient clipping",
            f"{args.max_grad_norm:g}" if args.max_grad_norm else "none",
            args.max_grad_norm or None,
            low=0.1,
            high=2.0,
            unknown="without clipping, one bad batch can make a run diverge",
        ),
    ]
    if run.tokens_per_step is not None:
        findings.append(
            _compare(
                "tokens a step",
                f"{run.tokens_per_step:,.0f}",
                run.tokens_per_step,
                factor=8,
                unusual="Small batches suit small machines; larger ones make better use of a GPU.",
            )
        )
    if run.tokens is not None:
        findings.append(
            _compare(
                "tokens in all",
                _count(run.tokens),
                run.tokens,
                low=3e7,
                high=1e11,
                unusual="More stories or more epochs would improve the model.",
            )
        )
    if run.epochs is not None:
        findings.append(
            _compare("epochs", f"{run.epochs:.3g}", run.epochs, low=0.0, high=20.0, unusual="Watch for overfitting.")
        )
    if (warm_up := _warm_up(args, run)) is not None:
        shown, part = warm_up
        findings.append(
            _compare(
                "warm-up steps",
                shown,
                part,
                low=1e-4,
                high=0.2,
                unusual="Without warm-up the first steps can make training diverge; more than a fifth wastes steps.",
            )
        )
    return findings


def _warm_up(args: TrainingArguments, run: Run) -> tuple[str, float] | None:
    """The warm-up in words, and as a fraction of the run."""
    if run.minutes is not None and args.warmup_steps < 1:
        return f"{args.warmup_steps:.2%} of the time", float(args.warmup_steps)
    if not (total := run.planned or run.steps):
        return None
    warm_up = args.get_warmup_steps(total)
    return f"{warm_up:,} of {total:,}", warm_up / total


def end_of_schedule(args: TrainingArguments) -> float | None:
    """The last step's learning rate as a fraction of the highest, where the type of schedule determines it."""
    kind, settings = _kind(args), dict(args.lr_scheduler_kwargs or {})
    if kind.startswith("constant"):
        return 1.0
    if kind in ("linear", "cosine", "warmup_stable_decay") or "min_lr" in kind:
        low = settings.get("min_lr_rate", settings.get("min_lr_ratio"))
        return float(settings.get("min_lr", 0.0)) / args.learning_rate if low is None else float(low)
    return None


def _kind(args: TrainingArguments) -> str:
    return getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)


def _compare(
    name: str,
    here: str,
    value: float | None,
    *,
    factor: float | None = None,
    low: float | None = None,
    high: float | None = None,
    unknown: str = "it is not known",
    unusual: str = "It is far from what is published: try a published value first.",
) -> SettingFinding:
    """Next to the published values: usual within `low` to `high`, or within `factor` of all of them."""
    published = {source: shown for source, (shown, _) in PUBLISHED[name].items()}
    figures = [figure for _, figure in PUBLISHED[name].values() if figure is not None]
    if factor is not None:
        low, high = min(figures) / factor, max(figures) * factor
    evidence = f"here {here}; " + ", ".join(f"{source} {shown}" for source, shown in published.items())
    remark = ""
    if value is None:
        status, advice, remark = "note", "", unknown
    elif low <= value <= high:
        status, advice = "ok", ""
    else:
        status, advice = "note", unusual
    evidence += f"; {remark}" if remark else ""
    return SettingFinding(f"setting: {name}", status, evidence, advice, here=here, remark=remark, published=published)


def _count(number: float) -> str:
    for size, word in ((1e9, "billion"), (1e6, "million")):
        if number >= size:
            return f"{number / size:.3g} {word}"
    return f"{number:,.0f}"
