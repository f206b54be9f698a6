"""The keys of a recipe, with their types, defaults and help."""

import dataclasses
import typing
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from ..sizes import SIZES
from .values import type_name


# Short names that other training scripts use, by the name of the setting.
SHORT_NAMES = {
    "learning_rate": ["lr"],
    "weight_decay": ["wd"],
    "adam_beta1": ["beta1"],
    "adam_beta2": ["beta2"],
    "max_grad_norm": ["grad_clip"],
    "lr_scheduler_type": ["scheduler"],
    "warmup_steps": ["warmup", "warmup_ratio"],  # a fraction of all steps if below 1
    "num_train_epochs": ["epochs", "num_epochs"],
    "max_steps": ["steps"],
    "per_device_train_batch_size": ["batch_size", "train_batch_size", "batch"],
    "per_device_eval_batch_size": ["eval_batch_size"],
    "gradient_accumulation_steps": ["grad_accum", "gradient_accumulation"],
    "output_dir": ["out", "out_dir"],
    "resume_from_checkpoint": ["resume"],
    "corpus": ["data", "dataset"],
    "init_from": ["model_name_or_path"],
    "max_minutes": ["minutes"],
    "max_length": ["block_size", "context_length", "max_seq_length", "seq_len"],
    "num_hidden_layers": ["layers", "n_layer"],
    "num_attention_heads": ["heads", "n_head"],
}
ALIASES = {alias: name for name, aliases in SHORT_NAMES.items() for alias in aliases}
TOP = ""  # the section of the keys at the top level
SECTIONS = ("model", "trainer")
# Derived from the tokenizer and `max_length`, so that a recipe cannot contradict those.
DERIVED = {"vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"}
# With `init_from`, a key that is not given has the value of the base model; until that is known, this one.
KEEP_AUTO = "auto"  # the value of `keep_corpus` for the corpus in the base model's recipe
FROM_BASE: dict[str, Any] = {"max_length": 0, "vocab_size": 0, "preset": ""}
PATHS = (
    *((TOP, name) for name in ("corpus", "validation_corpus", "tokenizer", "init_from", "keep_corpus")),
    *(("trainer", name) for name in ("output_dir", "resume_from_checkpoint", "deepspeed", "fsdp_config")),
)
MIN_SIMILARITY = 0.7  # difflib's ratio from which another name is suggested

Key = tuple[str, str]  # section and name


def _setting(default: Any, help: str) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class Recipe:
    """All settings of a training run. The same recipe on the same machine gives the same model."""

    corpus: str = _setting("sample", "`sample`, a dataset id on the Hub, or a file, folder or glob of stories.")
    validation_corpus: str | None = _setting(
        None,
        "Held-out stories from another source; null uses the validation split of the corpus, or holds out some of its "
        "stories.",
    )
    text_column: str = _setting(
        "text", "Column with the stories, not case-sensitive; if there is no column `text`, `story` is used."
    )
    split: str = _setting(
        "auto",
        "How .txt and .md files are split into stories: `file`, `line`, `blank-lines`, or a separator such as "
        "`<|endoftext|>`; `auto` detects it, and stops with an error if the text is ambiguous.",
    )
    skip_bad_rows: bool = _setting(False, "Skip and count unreadable rows instead of stopping with an error.")
    template: str | None = _setting(
        None,
        "Text in front of each story, with columns of the corpus as fields, such as `'Words: {words}\\nStory:'`. The "
        "model learns to write the story that the fields ask for. Lines with an empty field are left out.",
    )
    template_dropout: float = _setting(
        0.0,
        "Probability of leaving out each line of the `template`, so that the model also works without some of them.",
    )
    train_on_template: bool = _setting(
        False, "Train on the tokens of the `template`, too; by default the loss is that of the story alone."
    )
    streaming: bool = _setting(
        False, "Stream the training stories instead of storing them on disk; needs `max_steps` or `max_minutes`."
    )
    max_stories: int | None = _setting(None, "Maximum number of training stories; null for all.")
    max_validation_stories: int | None = _setting(None, "Maximum number of validation stories; null for all.")
    validation_fraction: float | None = _setting(
        None,
        "Fraction of the stories that is held out if the corpus has no validation stories; null for 2%, but at least "
        "50 stories or 10%, whichever is less.",
    )
    init_from: str | None = _setting(
        None,
        "Model to fine-tune: `builtin`, a run folder, a checkpoint, a Llama or Phi-3 in a folder or on the Hub, or a "
        "file that `tinystories import` reads. Weights, shape, vocabulary and tokenizer are those of this model, and "
        "so are `max_length` and `preset` unless they are given. null initialises the weights at random.",
    )
    keep_corpus: str | dict[str, Any] | None = _setting(
        None,
        "With `init_from`, stories on which each evaluation also measures bits per byte, to see what the model "
        "forgets: validation stories of the kind that it was trained on, `auto` for those of its own recipe, or "
        "the settings of their corpus, such as `{corpus: FOLDER, split: line}`.",
    )
    lora: dict[str, Any] | None = _setting(
        None,
        "With `init_from`, train a LoRA adapter and not the weights themselves: fields of `LoraConfig` of peft, such "
        "as `{r: 8}`; {} for the defaults, which are `r: 8`, twice that as `lora_alpha`, and all matrices of the "
        "layers as `target_modules`.",
    )
    replay: float | None = _setting(
        None, "Fraction of the training rows that are old stories, from `keep_corpus`; different ones in each epoch."
    )
    add_tokens: list[str] | None = _setting(
        None,
        "With `init_from`, names or markers to add to the vocabulary. The embedding of each is initialised with the "
        "mean of the embeddings of the tokens that it was encoded as before. A token is matched wherever its "
        "characters occur.",
    )
    tokenizer: str | None = _setting(None, "Folder or Hub id of a tokenizer; null trains one on the corpus.")
    vocab_size: int = _setting(10_000, "Vocabulary size of the tokenizer, if one is trained.")
    tokenizer_stories: int | Literal["all"] = _setting(
        100_000,
        "Number of training stories that a new tokenizer is trained on, evenly spaced in the corpus (of a stream, the "
        "first ones), or `all`.",
    )
    max_length: int = _setting(
        512, "Context length of the model in tokens; longer stories are split into overlapping chunks."
    )
    row_length: int | None = _setting(
        None, "Tokens per packed row; null for the shortest length with less than 1% padding."
    )
    rename_characters: bool = _setting(
        False,
        "Replace the first names in each training story by others of the same gender and number of tokens, different "
        "in each epoch, so that they can be predicted only from the context.",
    )
    num_proc: int | None = _setting(
        None, "Number of CPU cores for tokenization; null for all. The rows do not depend on it."
    )
    size: str | None = _setting(
        None,
        f"Preset for model shape and vocabulary size: {', '.join(SIZES)}. Individual settings override it, and a "
        f"size on the command line overrides the shape in the file.",
    )
    optimizer: Literal["adamw", "muon"] = _setting(
        "adamw",
        "`adamw` (or the optimizer set by `trainer.optim`), or `muon`: Muon for the weight matrices of the layers, "
        "AdamW for all other parameters.",
    )
    zero_init_residual: bool = _setting(
        False, "Initialise `o_proj` and `down_proj` with zeros, so that each layer starts as the identity."
    )
    copy_init: float | None = _setting(
        None,
        "Initialise the attention of the middle layer so that it copies the attended states, scaled by this "
        "factor; 1 suits small models, which then learn earlier to repeat the names of characters.",
    )
    max_minutes: float | None = _setting(
        None,
        "Train for this many minutes instead of `max_steps` or `num_train_epochs`; the learning rate schedule follows "
        "elapsed time. Such a run is not exactly reproducible.",
    )
    ema_decay: float | None = _setting(
        None, "Evaluate and save an exponential moving average of the weights with this decay, such as 0.999."
    )
    early_stopping_patience: int | None = _setting(
        None, "Stop after this many consecutive evaluations without improvement."
    )
    article_loss_weight: float = _setting(
        1.0, "Weight of `a`, `an` and `the` in the loss, up to 2; 1 (recommended) is standard cross-entropy."
    )
    check: bool = _setting(
        True, "Run the quick checks of `tinystories doctor` before the first step; an error stops the run."
    )
    overwrite_output_dir: bool = _setting(False, "Start over in a folder with checkpoints of an earlier run.")
    prompts: list[str] | None = _setting(
        None,
        "Prompts for the sample stories at the end of training; the first is also used at each evaluation. null for "
        "the openings of three validation stories, '[]' for no sample stories.",
    )
    preset: str = _setting("balanced", "Sampling preset for the sample stories and `generation_config.json`.")
    model: dict[str, Any] = _setting(
        {},
        "Fields of `TinyLlamaConfig`, except vocabulary size, context length and token ids, which follow from the "
        "keys above.",
    )
    trainer: dict[str, Any] = _setting(
        {}, "Fields of `TrainingArguments`; `bf16` and `torch_compile` can be `auto`, which depends on the hardware."
    )


class KeyReference(NamedTuple):
    """One key of a recipe, for `--help` and the reference documentation."""

    name: str
    type: str
    default: Any
    help: str


def recipe_reference() -> list[KeyReference]:
    """The keys of a recipe in the order of [`Recipe`]."""
    hints, defaults = typing.get_type_hints(Recipe), Recipe()
    return [
        KeyReference(f.name, type_name(hints[f.name]), getattr(defaults, f.name), f.metadata["help"])
        for f in dataclasses.fields(Recipe)
    ]


def known_keys() -> dict[Key, Any]:
    """The type hint of every key, those of the sections included."""
    from transformers import TrainingArguments

    from modeling_tinyllama.configuration_tinyllama import TinyLlamaConfig

    hints = {(TOP, name): hint for name, hint in typing.get_type_hints(Recipe).items() if name not in SECTIONS}
    model = {**TinyLlamaConfig.__annotations__, "partial_rotary_factor": float}
    hints |= {("model", name): hint for name, hint in model.items() if name not in DERIVED}
    trainer = typing.get_type_hints(TrainingArguments)
    for argument in dataclasses.fields(TrainingArguments):
        if argument.init and not argument.name.startswith("_"):
            hints["trainer", argument.name] = trainer[argument.name]
    auto = {("trainer", name): bool | Literal["auto"] for name in ("bf16", "torch_compile")}
    return hints | auto
