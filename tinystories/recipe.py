"""A recipe: one YAML file, overridden by the command line, that becomes a [`Recipe`].

- The recipes in `configs/` are installed with the package and found by name: `quickstart`, `race/5`.
- Keys of this package are at the top level. The sections `model` and `trainer` hold fields of `TinyLlamaConfig` and of
  transformers' `TrainingArguments` under their own names.
- On the command line the name alone is enough (`--learning_rate 1e-3`), and some have a short one (`ALIASES`).
- `model` and `trainer` hold only what is given, since further defaults depend on it (`training/arguments.py`).
  `HfArgumentParser` cannot tell a given value from a default, and has no `null`, `auto` or lists in YAML.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import yaml
from huggingface_hub.dataclasses import type_validator

from .sizes import SIZES
from .story_template import StoryTemplate
from .utils.errors import UserError, first_line
from .utils.paths import expand_user, installed_folder


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
MIN_VOCAB_SIZE = 260  # special tokens, a token for each byte, and one more
MAX_ROW_CONTEXTS = 64  # rows of 8 contexts are already full; longer ones only cost attention and memory

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
    text_column: str = _setting("text", "Column with the stories; not case-sensitive.")
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
        0.0, "Probability with which a line of the `template` is left out, so that the model needs no line of it."
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
        "file that `tinystories import` reads. Weights, shape, vocabulary and tokenizer are its own; `max_length` and "
        "`preset` are, too, unless they are given. null "
        "initialises the weights at random.",
    )
    keep_corpus: str | dict[str, Any] | None = _setting(
        None,
        "With `init_from`, stories on which each evaluation also measures bits per byte, to see what the model "
        "forgets: validation stories of the kind that it was trained on, or `auto` for those of its own recipe.",
    )
    lora: dict[str, Any] | None = _setting(
        None,
        "With `init_from`, train a LoRA adapter and not the weights themselves: fields of `LoraConfig` of peft, such "
        "as `{r: 8}`; {} for the defaults, which are `r: 8`, twice that as `lora_alpha`, and all matrices of the "
        "layers as `target_modules`.",
    )
    replay: float | None = _setting(
        None, "Fraction of the training rows that are old stories, from `keep_corpus`, others in each epoch."
    )
    add_tokens: list[str] | None = _setting(
        None,
        "With `init_from`, names or markers that become tokens of the vocabulary; their embeddings begin as the mean "
        "of those of their pieces. A token is matched wherever its characters occur.",
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
        KeyReference(f.name, _type_name(hints[f.name]), getattr(defaults, f.name), f.metadata["help"])
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


def recipe_names() -> list[str]:
    """The names of the installed recipes, such as `quickstart` and `race/5`."""
    folder = installed_folder("configs")
    names = (file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.yaml"))
    return sorted((name for name in names if not name.startswith("accelerate/")), key=_with_numbers)


def _with_numbers(name: str) -> list[str | int]:
    """A sort key that puts race/5 before race/20."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def recipe_path(name: str | Path) -> Path:
    """The file of a recipe: a YAML file, or an installed recipe by its name.

    Raises:
        UserError: if it is neither; the message suggests similar names.
    """
    path = Path(expand_user(str(name)))
    names = recipe_names()
    if path.is_file():
        return path
    if path.as_posix() in names:
        return installed_folder("configs") / f"{path.as_posix()}.yaml"
    if path.is_dir():
        raise UserError(f"{name} is a folder; a recipe is a YAML file, or a name such as {names[0]}.")
    similar = similar_recipes(path.as_posix())
    hint = f"did you mean {' or '.join(similar)}?" if similar else f"the installed recipes are {', '.join(names)}."
    raise UserError(f"There is no recipe {name}; {hint}")


def similar_recipes(name: str) -> list[str]:
    """The installed recipes with names similar to `name`, the most similar first."""
    asked = name.lower().removeprefix("configs/").removesuffix(".yaml")
    return difflib.get_close_matches(asked, recipe_names(), cutoff=MIN_SIMILARITY)


def is_in_recipe_folder(name: str) -> bool:
    """Whether a name begins like that of an installed recipe in a folder, as `race/7` does."""
    folders = {recipe.partition("/")[0] for recipe in recipe_names() if "/" in recipe}
    return name.partition("/")[0] in folders


def recipe_summary(name: str) -> str:
    """One line on a recipe: the first comment of its file."""
    return recipe_path(name).read_text(encoding="utf-8").partition("\n")[0].removeprefix("#").strip()


def load_recipe(path: str | Path, overrides: dict[str, Any] | list[str] | None = None) -> Recipe:
    """Read a recipe and apply `overrides`.

    Args:
        path: a YAML file, or the name of an installed recipe (`quickstart`).
        overrides: values by key (`{"max_steps": 100, "lr": 1e-3}`), of the recipe, of `TinyLlamaConfig` or of
            `TrainingArguments`; or the arguments of a command line (`["--max_steps", "100"]`).

    Raises:
        UserError: for a file that cannot be read or has no settings, an unknown name or key, or a value of the wrong
            type.
    """
    file = recipe_path(path)
    try:
        # From bytes, PyYAML recognises UTF-16 with a byte order mark, which `>` writes in Windows PowerShell.
        content = yaml.load(file.read_bytes(), _Loader)
    except (OSError, yaml.reader.ReaderError) as error:
        raise UserError(f"The recipe {path} cannot be read: {first_line(error)}.") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{path}{place} is not valid YAML: {getattr(error, 'problem', None) or error}.") from None
    if content is None or isinstance(content, dict) and all(key in SECTIONS and not content[key] for key in content):
        raise UserError(
            f"{path} has no settings: `tinystories recipes show NAME > my.yaml` copies a recipe that you can edit."
        )
    given = overrides if isinstance(overrides, dict) else parse_overrides(overrides or [])
    return build_recipe(content, given, source=str(path))


def build_recipe(content: dict | None, overrides: dict[str, Any] | None = None, source: str = "the recipe") -> Recipe:
    """A recipe from the content of a YAML file and the values of a command line by key (`model.` may precede it).

    Args:
        source: name of the file, for messages.

    Raises:
        UserError: for an unknown key, a value of the wrong type, or values that contradict each other.
    """
    if not isinstance(content, dict | None):
        raise UserError(f"{source} must contain `key: value` lines, but contains one {type(content).__name__}.")
    hints = known_keys()
    settings: dict[Key, Any] = {}
    for section, name, value in _flat(content or {}, source):
        where = f"{source}, section `{section}`" if section else source
        key = _find_key(name, section, hints, where)
        if key in settings:
            raise UserError(f"{source}: `{key[1]}` is set twice, under two names: remove one of them.")
        settings[key] = _convert(value, hints[key], f"`{'.'.join(filter(None, key))}`")
    given: dict[Key, Any] = {}
    for option, text in (overrides or {}).items():
        section, dot, name = option.rpartition(".")
        if dot and section not in SECTIONS:
            raise UserError(f"--{option}: there is no section `{section}`; the sections are {' and '.join(SECTIONS)}.")
        key = _find_key(name, section if dot else None, hints, f"--{option}")
        given[key] = _convert(text, hints[key], f"`--{name}`")
    _drop_replaced(settings, given)
    settings |= given
    _apply_size(settings)
    if settings.get((TOP, "init_from")) is not None:
        for name, value in FROM_BASE.items():
            settings.setdefault((TOP, name), value)
    for key in PATHS:
        if isinstance(settings.get(key), str):
            settings[key] = expand_user(settings[key])
    parts: dict[str, dict[str, Any]] = {section: {} for section in (TOP, *SECTIONS)}
    for (section, name), value in settings.items():
        parts[section][name] = value
    recipe = Recipe(**parts[TOP], model=parts["model"], trainer=parts["trainer"])
    check_recipe(recipe)
    return recipe


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--key value`, `--key=value` and `--flag` to a dict of strings; dashes and underscores are the same in a key.

    Raises:
        UserError: for an argument that is not an option.
    """
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"Unexpected argument {argument!r}: write settings as `--key value`.")
        key, equals, value = argument[2:].partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, dot, name = key.replace("-", "_").rpartition(".")
        if name == "one_story_per_file" and not dot:
            name, value = "split", "file" if _convert(value, bool, f"`--{name}`") else "auto"
        values[section + dot + ALIASES.get(name, name)] = value
    return values


def save_recipe(recipe: Recipe, path: str | Path, comment: str = "") -> None:
    """Write the recipe as YAML that [`load_recipe`] reads back, after the lines of a comment."""
    lines = "".join(f"# {line}\n" for line in comment.splitlines())
    content = yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True)
    Path(path).write_text(lines + content, "utf-8")


def _flat(content: dict, source: str) -> Iterator[tuple[str, Any, Any]]:
    for key, value in content.items():
        if key not in SECTIONS:
            yield TOP, key, value
        elif isinstance(value, dict | None):
            yield from ((key, name, inner) for name, inner in (value or {}).items())
        else:
            raise UserError(f"{source}: `{key}` is a section and must contain indented `key: value` lines.")


def _find_key(name: Any, section: str | None, hints: dict[Key, Any], where: str) -> Key:
    """The key `name` of `section`, or of any section if that is None.

    Raises:
        UserError: for a key that does not exist there; it names a similar one.
    """
    name = ALIASES.get(name, name)
    sections = (TOP, *SECTIONS)
    for key in ((place, name) for place in (sections if section is None else [section])):
        if key in hints:
            return key
    if name in DERIVED:
        raise UserError(
            f"{where}: `{name}` cannot be set: it follows from the keys `tokenizer`, `vocab_size` and `max_length`."
        )
    for place in sections:
        if (place, name) in hints:
            there = f"the section `{place}`" if place else "the top level of the recipe"
            raise UserError(f"{where}: `{name}` belongs to {there}.")
    names = [known for place, known in hints if section in (None, place)]
    similar = difflib.get_close_matches(str(name), names, n=1, cutoff=MIN_SIMILARITY)
    hint = f"did you mean `{similar[0]}`?" if similar else "`tinystories train --help` lists all settings."
    raise UserError(f"{where}: there is no setting `{name}`; {hint}")


def _drop_replaced(settings: dict[Key, Any], given: dict[Key, Any]) -> None:
    """Remove the size, length, optimizer or schedule of a file that the command line replaces by another."""
    dropped: list[Key] = []
    if (TOP, "size") in given:
        shape = (*next(iter(SIZES.values())), "head_dim", "num_key_value_heads", "initializer_range")
        dropped += [(TOP, "vocab_size"), *(("model", name) for name in shape)]
    schedule = ("trainer", "lr_scheduler_type")
    if schedule in given and given[schedule] != settings.get(schedule):
        dropped.append(("trainer", "lr_scheduler_kwargs"))
    # `max_steps` takes precedence over epochs, and `max_minutes` over both.
    if ("trainer", "max_steps") in given or ("trainer", "num_train_epochs") in given:
        dropped.append((TOP, "max_minutes"))
    if ("trainer", "num_train_epochs") in given:
        dropped.append(("trainer", "max_steps"))
    if ("trainer", "optim") in given:
        dropped.append((TOP, "optimizer"))
    for key in dropped:
        settings.pop(key, None)


def _apply_size(settings: dict[Key, Any]) -> None:
    asked = settings.get((TOP, "size"))
    if asked is None:
        return
    size = "".join(asked.lower().split()).removesuffix("m") + "m"
    if size not in SIZES:
        raise UserError(f"There is no `size` {asked}; the sizes are {', '.join(SIZES)}.")
    settings[TOP, "size"] = size
    for name, value in SIZES[size].items():
        settings.setdefault((TOP if name == "vocab_size" else "model", name), value)


def check_recipe(recipe: Recipe) -> None:
    """Refuse values that contradict each other or cannot work.

    Raises:
        UserError: with the first of them.
    """
    length, row_length, optim = recipe.max_length, recipe.row_length, recipe.trainer.get("optim")
    minutes, decay, weight = recipe.max_minutes, recipe.ema_decay, recipe.article_loss_weight
    broken = [prompt for prompt in recipe.prompts or () if re.search("[\ud800-\udfff]", prompt)]
    fine_tuned = recipe.init_from is not None
    known = not (fine_tuned and length == FROM_BASE["max_length"])
    _require(
        not known or length >= 16,
        f"`max_length` must be at least 16 tokens, but is {length}; a story has about 200 tokens.",
    )
    _require(
        not known or row_length is None or length <= row_length <= MAX_ROW_CONTEXTS * length,
        f"`row_length` must be from {length} (`max_length`, so that each story fits into a row) to "
        f"{MAX_ROW_CONTEXTS * length}, but is {row_length}.",
    )
    _require(
        fine_tuned or recipe.tokenizer is not None or recipe.vocab_size >= MIN_VOCAB_SIZE,
        f"`vocab_size` must be at least {MIN_VOCAB_SIZE}, but is {recipe.vocab_size}: special tokens and bytes take "
        f"{MIN_VOCAB_SIZE - 1} entries. For children's stories, use about 10000.",
    )
    _require(
        all(recipe.prompts or ()),
        "`prompts` contains an empty string: remove it, or set `prompts` to '[]' for no sample stories.",
    )
    _require(not broken, f"`prompts`: {broken!a} contains an unpaired surrogate: write the character itself.")
    _require(
        recipe.optimizer == "adamw" or optim is None,
        f"`optimizer: muon` uses AdamW for the other weights: remove `optim` ({optim}) or `optimizer`.",
    )
    _require(
        recipe.split.strip() not in ("", "true"),
        "`split` needs a value: auto, file, line, blank-lines or a separator.",
    )
    _require(
        recipe.validation_fraction is None or 0 < recipe.validation_fraction < 1,
        f"`validation_fraction` must be between 0 and 1, but is {recipe.validation_fraction}.",
    )
    for name in ("num_proc", "early_stopping_patience", "tokenizer_stories"):
        value = getattr(recipe, name)
        _require(value in (None, "all") or value >= 1, f"`{name}` must be at least 1, but is {value}.")
    _require(
        decay is None or 0 < decay < 1, f"`ema_decay` must be between 0 and 1, for example 0.999, but is {decay}."
    )
    _require(
        recipe.copy_init is None or 0 < recipe.copy_init <= 10,
        f"`copy_init` must be above 0 and at most 10, for example 1, but is {recipe.copy_init}.",
    )
    for name in ("zero_init_residual", "copy_init"):
        _require(
            not (fine_tuned and getattr(recipe, name)),
            f"`{name}` initialises a model that is trained from scratch, so it does not go with `init_from`: remove "
            f"it, or use the recipe `finetune`.",
        )
    _require(
        recipe.keep_corpus is None or fine_tuned,
        "`keep_corpus` measures what a model forgets in fine-tuning: set `init_from`, too, or remove it.",
    )
    _require(
        not isinstance(recipe.keep_corpus, dict) or "corpus" in recipe.keep_corpus,
        "`keep_corpus` needs the key `corpus`, or is the name of a corpus.",
    )
    _require(
        not recipe.add_tokens or (fine_tuned and recipe.lora is None),
        "`add_tokens` gives a trained model new embeddings, which must be trained: set `init_from`, and no `lora`.",
    )
    _require(recipe.lora is None or fine_tuned, "`lora` adapts a trained model: set `init_from`, too.")
    _require(
        recipe.lora is None or recipe.optimizer == "adamw",
        "`lora` trains narrow matrices, for which `optimizer: muon` is not suited: use `optimizer: adamw`.",
    )
    _require(recipe.lora is None or decay is None, "`lora` and `ema_decay` cannot be combined: remove one of them.")
    _require(
        recipe.lora is None or not recipe.trainer.get("push_to_hub"),
        "`lora` and `push_to_hub` cannot be combined, because a merged model is published: run `tinystories push` "
        "after training.",
    )
    replay = recipe.replay
    _require(
        replay is None or (0 < replay < 1 and recipe.keep_corpus is not None and not recipe.streaming),
        f"`replay` ({replay}) is a fraction between 0 and 1, such as 0.1, of stories from `keep_corpus`, which must "
        f"be set, and does not go with `streaming`.",
    )
    if recipe.template is not None:
        StoryTemplate(recipe.template)
    dropout = recipe.template_dropout
    _require(
        0 <= dropout < 1, f"`template_dropout` must be at least 0 and below 1, for example 0.3, but is {dropout}."
    )
    for name in ("template_dropout", "train_on_template"):
        _require(
            recipe.template is not None or not getattr(recipe, name),
            f"`{name}` needs a `template`: set one, or remove `{name}`.",
        )
    _require(
        0 < weight <= 2,
        f"`article_loss_weight` must be above 0 and at most 2, but is {weight}; 2 already raises the probability of "
        f"an article from 0.5 to 0.67. If a model omits articles, look for the cause with `tinystories doctor`.",
    )
    _require(minutes is None or 0 < minutes < float("inf"), f"`max_minutes` must be above 0, but is {minutes}.")
    _require(
        not recipe.streaming or minutes is not None or recipe.trainer.get("max_steps", -1) > 0,
        "`streaming` needs `max_steps` or `max_minutes`, because the number of stories is not known in advance.",
    )


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise UserError(message)


class _Loader(yaml.SafeLoader):
    """PyYAML's loader, which also reads numbers such as 5e-4, without point or sign, as numbers."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _convert(value: Any, hint: Any, name: str) -> Any:
    """`value` converted to a type that `hint` allows.

    Raises:
        UserError: if no conversion has such a type.
    """
    for reading in _readings(value):
        try:
            type_validator(name, reading, hint)
        except TypeError:
            continue
        return reading
    if value is None or value in ("", "~", "null", "true"):  # an option without a value is "true"
        raise UserError(f"{name} needs a value ({_type_name(hint)}).")
    raise UserError(f"{name} must be {_type_name(hint)}, but is {value!r}.")


def _readings(value: Any) -> Iterator[Any]:
    """The possible meanings of a value of a file or command line, the most likely first."""
    if isinstance(value, str) and not value.lstrip().startswith("#"):
        try:
            parsed = yaml.load(value, _Loader)
        except yaml.YAMLError:
            parsed = value
        yield parsed
        yield value
        value = parsed
    else:
        yield value
    if isinstance(value, bool):
        yield "true" if value else "no"  # YAML reads `eval_strategy: no` as false
    elif isinstance(value, (int, float)):
        yield float(value)
        if float(value).is_integer():
            yield int(value)
        yield str(value)


def _type_name(hint: Any) -> str:
    """A type hint in words, such as `int or null`."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type_name(part) for part in parts))
    if origin is Literal:
        return " or ".join(map(str, parts))
    if origin is list:
        return f"list of {_type_name(parts[0])}"
    if isinstance(hint, type) and issubclass(hint, str):
        return "str"  # transformers' enumerations
    return "null" if hint is type(None) else (origin or hint).__name__
