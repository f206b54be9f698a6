"""One YAML file that says how a model is made, and the dataclass it becomes.

Our own settings stand at the top level. The sections `model` and `trainer` take the fields of `TinyLlamaConfig` and of
transformers' `TrainingArguments` under their own names, so what is known of those holds here. Every key can be
overridden on the command line by its name alone (`--learning_rate 1e-3`), some by a shorter one (`--lr`, see
`ALIASES`). A key that does not exist is an error that names a similar one where there is one.
"""

import ast
import dataclasses
import difflib
import importlib.util
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from .sizes import SIZES
from .utils.errors import UserError
from .utils.paths import expand_user


SECTIONS = ("model", "trainer")
# Short names that other training scripts have for the same settings.
ALIASES = {
    "lr": "learning_rate",
    "wd": "weight_decay",
    "beta1": "adam_beta1",
    "beta2": "adam_beta2",
    "grad_clip": "max_grad_norm",
    "scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "warmup_ratio": "warmup_steps",  # which below 1 is a share of all steps
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "steps": "max_steps",
    "batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "grad_accum": "gradient_accumulation_steps",
    "gradient_accumulation": "gradient_accumulation_steps",
    "out": "output_dir",
    "out_dir": "output_dir",
    "resume": "resume_from_checkpoint",
    "data": "corpus",
    "dataset": "corpus",
    "minutes": "max_minutes",
    "block_size": "max_length",
    "context_length": "max_length",
    "max_seq_length": "max_length",
    "seq_len": "max_length",
    "layers": "num_hidden_layers",
    "n_layer": "num_hidden_layers",
    "heads": "num_attention_heads",
    "n_head": "num_attention_heads",
}
PATHS = [
    *((None, name) for name in ("corpus", "validation_corpus", "tokenizer")),
    *(("trainer", name) for name in ("output_dir", "resume_from_checkpoint", "deepspeed", "fsdp_config")),
]
SIMILAR = 0.7  # ratio of difflib from which another name is worth a hint
MIN_VOCABULARY = 260  # special tokens, a token for each byte, and one more
MAX_ROW_CONTEXTS = 64  # rows of 8 contexts are full; longer ones only cost attention and memory


@dataclass
class Recipe:
    """Everything that decides how a model comes out; two equal recipes on equal machines give equal models.

    Attributes:
        corpus: `sample`, a dataset id on the Hub, or local files (see `tinystories/data/corpus.py`).
        validation_corpus: held-out stories from another source; by default the corpus' own validation split, or a
            part held out from it.
        text_column: column that holds the stories, matched without case.
        split: where stories end in .txt and .md: `file` (each holds one), `line`, `blank-lines`, or the marker that
            stands between them, such as `<|endoftext|>`; `auto` looks, and refuses where that is not certain.
        skip_bad_rows: leave out rows of .jsonl and .csv that cannot be read, and say how many, instead of stopping.
        streaming: read the training stories during training instead of storing them first; needs `trainer.max_steps`.
        max_stories, max_validation_stories: use no more than these; all by default.
        tokenizer: folder or Hub id of a tokenizer; by default one is trained on the corpus.
        vocab_size: entries of a tokenizer that is trained.
        max_length: the model's context in tokens; longer stories are trained on in overlapping parts.
        row_length: tokens of a packed row; by default the shortest that the stories fill to over 99 %.
        num_proc: processes for tokenising.
        size: shape and vocabulary of the model by one name (see `tinystories/sizes.py`); what is stated beside it
            wins, and a size on the command line wins over a shape in the file.
        optimizer: `adamw` (or what `trainer.optim` says), or `muon` for the matrices inside the layers and AdamW for
            the rest.
        zero_init_residual: begin with zeros in the matrices that write into the residual stream (`o_proj` and
            `down_proj`), so that each layer begins as if it were not there; the first steps learn faster.
        max_minutes: train for so long instead of `trainer.max_steps` or `num_train_epochs`; the learning rate falls by
            the clock. Such a run cannot be repeated exactly.
        ema_decay: train towards an exponential moving average of the weights with this decay, such as 0.999.
        early_stopping_patience: stop after so many evaluations in a row without a better validation figure.
        article_loss_weight: what the loss on "a", "an" and "the" is multiplied by, up to 2. 1 is the standard
            objective, and the recommendation.
        check: let `tinystories doctor` look at the model, the batches and the machine before the first step, and stop
            on a fault.
        overwrite_output_dir: start again in a folder that holds checkpoints of an earlier run.
        prompts: the beginnings that the finished model is shown to continue.
        preset: how these are told, and what `generation_config.json` says (see `tinystories/generation/generate.py`).
        model: fields of `TinyLlamaConfig`. `vocab_size`, `max_position_embeddings` and the token ids follow from the
            tokenizer and `max_length`.
        trainer: fields of `TrainingArguments`. `bf16: auto` stands for bf16 where the machine computes in it,
            `torch_compile: auto` for compiling where there is a GPU.
    """

    corpus: str = "sample"
    validation_corpus: str | None = None
    text_column: str = "text"
    split: str = "auto"
    skip_bad_rows: bool = False
    streaming: bool = False
    max_stories: int | None = None
    max_validation_stories: int | None = None
    tokenizer: str | None = None
    vocab_size: int = 10_000
    max_length: int = 512
    row_length: int | None = None
    num_proc: int | None = None
    size: str | None = None
    optimizer: str = "adamw"
    zero_init_residual: bool = False
    max_minutes: float | None = None
    ema_decay: float | None = None
    early_stopping_patience: int | None = None
    article_loss_weight: float = 1.0
    check: bool = True
    overwrite_output_dir: bool = False
    prompts: list[str] = field(
        default_factory=lambda: ["Once upon a time there was", "One day, a little girl named Lily", "The happy cat"]
    )
    preset: str = "balanced"
    model: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)


# Follow from the tokenizer and `max_length`, so that they cannot contradict them.
_DERIVED = {"vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id", "eos_token_id"}


def _fields(owner: type) -> dict[str, Any]:
    hints = typing.get_type_hints(owner)
    return {f.name: hints[f.name] for f in dataclasses.fields(owner) if f.init and not f.name.startswith("_")}


def _model_fields() -> dict[str, Any]:
    from modeling_tinyllama.configuration_tinyllama import TinyLlamaConfig

    own = {name: hint for name, hint in TinyLlamaConfig.__annotations__.items() if name not in _DERIVED}
    return {**own, "partial_rotary_factor": float}


def _own_fields() -> dict[str, Any]:
    return {name: hint for name, hint in _fields(Recipe).items() if name not in SECTIONS}


def _known() -> dict[str | None, dict[str, Any]]:
    from transformers import TrainingArguments

    trainer = {**_fields(TrainingArguments), "bf16": bool | str, "torch_compile": bool | str}
    return {None: _own_fields(), "model": _model_fields(), "trainer": trainer}


def _names_in_source() -> dict[str | None, dict[str, Any]] | None:
    """The keys of `_known`, without the seconds that its imports take: a mistyped key is told of at once.

    None where the source does not tell, as when the fields come from a base class.
    """
    names: dict[str | None, dict[str, Any]] = {None: _own_fields()}
    for section, package, file, name, bases in (
        ("model", "modeling_tinyllama", "configuration_tinyllama.py", "TinyLlamaConfig", ["PreTrainedConfig"]),
        ("trainer", "transformers", "training_args.py", "TrainingArguments", []),
    ):
        spec = importlib.util.find_spec(package)
        try:
            tree = ast.parse(Path(spec.origin).with_name(file).read_text("utf-8"))
        except (AttributeError, OSError, SyntaxError):
            return None
        found = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        if not found or [ast.unparse(base) for base in found[0].bases] != bases:
            return None
        fields = [node.target.id for node in found[0].body if isinstance(node, ast.AnnAssign)]
        names[section] = {field: None for field in fields if not field.startswith("_")}
    names["model"] = {key: None for key in names["model"] if key not in _DERIVED} | {"partial_rotary_factor": None}
    return names


def _check_keys(
    content: dict, overrides: dict[str, str], source: str, names: dict[str | None, dict[str, Any]]
) -> None:
    """Refuse a key that is not among `names`, in the order of the file."""
    for key, value in content.items():
        if key not in SECTIONS:
            _require_known(key, names[None], source, names)
            continue
        if value is not None and not isinstance(value, dict):
            raise UserError(f"{source}: `{key}` is a section and takes indented `key: value` lines.")
        for name in value or {}:
            _require_known(name, names[key], f"{source}, section `{key}`", names)
    for key in overrides:
        _owner(key, names)


def load_recipe(path: str | Path, overrides: list[str] | None = None) -> Recipe:
    """Read a recipe and apply `overrides`, the arguments of a command line (`["--learning_rate", "1e-3"]`).

    Raises:
        UserError: for a file that cannot be read, an unknown key or a value of the wrong type.
    """
    try:
        content = yaml.load(Path(expand_user(str(path))).read_text(encoding="utf-8"), _Yaml12Loader)
    except FileNotFoundError:
        raise UserError(f"There is no recipe {path}; those that come with the project are in configs/.") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder; a recipe is a YAML file such as configs/quickstart.yaml.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"The recipe {path} cannot be read: {error}.") from None
    except yaml.YAMLError as error:
        where = getattr(error, "problem_mark", None)
        place = f", line {where.line + 1}" if where else ""
        raise UserError(f"{path}{place} is not YAML: {getattr(error, 'problem', None) or error}.") from None
    return build_recipe(content, parse_overrides(overrides or []), source=str(path))


def build_recipe(content: dict | None, overrides: dict[str, str] | None = None, source: str = "the recipe") -> Recipe:
    """A recipe from the content of a YAML file and values of a command line by key (`model.` may stand in front)."""
    content = {} if content is None else content
    if not isinstance(content, dict):
        raise UserError(f"{source} must hold `key: value` lines, but holds {type(content).__name__}.")
    content = _without_aliases(content, source)
    overrides = overrides or {}
    if (names := _names_in_source()) is not None:
        _check_keys(content, overrides, source, names)
    known = _known()
    _check_keys(content, overrides, source, known)
    settings: dict[str | None, dict[str, Any]] = {None: {}, "model": {}, "trainer": {}}
    for key, value in content.items():
        if key in SECTIONS:
            for name, inner in (value or {}).items():
                settings[key][name] = _coerce(inner, known[key][name], f"`{key}.{name}`")
        else:
            settings[None][key] = _coerce(value, known[None][key], f"`{key}`")
    given = {_owner(key, known): text for key, text in overrides.items()}
    given = {
        (section, name): _coerce(_parse(text, known[section][name]), known[section][name], f"`--{name}`")
        for (section, name), text in given.items()
    }
    _make_way(settings, given)
    for (section, name), value in given.items():
        settings[section][name] = value
    _apply_size(settings)
    for section, name in PATHS:
        if isinstance(path := settings[section].get(name), str):
            settings[section][name] = expand_user(path)
    recipe = Recipe(**settings[None], model=settings["model"], trainer=settings["trainer"])
    _check(recipe)
    return recipe


def _without_aliases(content: dict, source: str) -> dict:
    """`content` with the full names of settings in the place of their aliases."""
    named: dict = {}
    for key, value in content.items():
        name = ALIASES.get(key, key) if isinstance(key, str) else key
        if name in named:
            raise UserError(f"{source}: `{name}` is given twice, under two names: keep one of them.")
        named[name] = _without_aliases(value, source) if key in SECTIONS and isinstance(value, dict) else value
    return named


def _make_way(settings: dict[str | None, dict[str, Any]], given: dict[tuple[str | None, str], Any]) -> None:
    """Drop what a recipe says of a size, length, optimizer or schedule that the command line replaces by another."""
    if (None, "size") in given:
        settings[None].pop("vocab_size", None)
        for name in (*next(iter(SIZES.values())), "head_dim", "num_key_value_heads", "initializer_range"):
            settings["model"].pop(name, None)
    kind = given.get(("trainer", "lr_scheduler_type"))
    if kind is not None and kind != settings["trainer"].get("lr_scheduler_type"):
        settings["trainer"].pop("lr_scheduler_kwargs", None)
    # A number of steps would win over the epochs that were asked for, and a time over both.
    if ("trainer", "max_steps") in given or ("trainer", "num_train_epochs") in given:
        settings[None].pop("max_minutes", None)
    if ("trainer", "num_train_epochs") in given:
        settings["trainer"].pop("max_steps", None)
    if ("trainer", "optim") in given:
        settings[None].pop("optimizer", None)


def _apply_size(settings: dict[str | None, dict[str, Any]]) -> None:
    size = settings[None].get("size")
    if size is None:
        return
    size = "".join(size.lower().split()).removesuffix("m") + "m"
    if size not in SIZES:
        raise UserError(f"There is no `size` {settings[None]['size']}; there are {', '.join(SIZES)}.")
    settings[None]["size"] = size
    for name, value in SIZES[size].items():
        settings[None if name == "vocab_size" else "model"].setdefault(name, value)


def _check(recipe: Recipe) -> None:
    if recipe.max_length < 16:
        raise UserError(f"`max_length` ({recipe.max_length}) must be at least 16 tokens; stories take about 200.")
    if recipe.row_length is not None and recipe.row_length < recipe.max_length:
        raise UserError(
            f"`row_length` ({recipe.row_length}) must be at least `max_length` ({recipe.max_length}), since a row "
            f"holds whole stories."
        )
    if recipe.row_length is not None and recipe.row_length > MAX_ROW_CONTEXTS * recipe.max_length:
        raise UserError(
            f"`row_length` ({recipe.row_length}) must be at most {MAX_ROW_CONTEXTS} times `max_length` "
            f"({recipe.max_length})."
        )
    if recipe.tokenizer is None and recipe.vocab_size < MIN_VOCABULARY:
        raise UserError(
            f"`vocab_size` ({recipe.vocab_size}) must be at least {MIN_VOCABULARY}, since special tokens and bytes "
            f"take {MIN_VOCABULARY - 1} entries; 10000 suits children's stories."
        )
    if not all(isinstance(prompt, str) and prompt for prompt in recipe.prompts):
        raise UserError("`prompts` must be a list of texts, such as '[Once upon a time]', or '[]'.")
    for prompt in recipe.prompts:
        try:
            prompt.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(
                f"`prompts`: {prompt!a} holds half of a character (a surrogate), which is no text: write the "
                f"character itself."
            ) from None
    if recipe.optimizer not in ("adamw", "muon"):
        raise UserError(f"`optimizer` must be adamw or muon, but is {recipe.optimizer!r}.")
    if recipe.optimizer == "muon" and "optim" in recipe.trainer:
        raise UserError(
            f"`optimizer: muon` takes AdamW for the weights outside of the layers: leave out `optim` "
            f"({recipe.trainer['optim']}), or `optimizer`."
        )
    if not recipe.split.strip() or recipe.split == "true":
        raise UserError("`split` needs a value: auto, file, line, blank-lines or the marker between stories.")
    if recipe.num_proc is not None and recipe.num_proc < 1:
        raise UserError(f"`num_proc` ({recipe.num_proc}) must be at least 1.")
    if recipe.ema_decay is not None and not 0 < recipe.ema_decay < 1:
        raise UserError(f"`ema_decay` ({recipe.ema_decay}) must lie between 0 and 1; 0.999 is usual.")
    if recipe.early_stopping_patience is not None and recipe.early_stopping_patience < 1:
        raise UserError(f"`early_stopping_patience` ({recipe.early_stopping_patience}) must be at least 1.")
    if not 0 < recipe.article_loss_weight <= 2:
        raise UserError(
            f"`article_loss_weight` ({recipe.article_loss_weight}) must be above 0 and at most 2: a weight w teaches "
            f"the model that an article of probability p has w*p / (1 + (w-1)*p), which at 2 already makes 0.67 of "
            f"0.5. Articles that go missing have another cause; `tinystories doctor` looks for it."
        )
    if recipe.max_minutes is not None and not 0 < recipe.max_minutes < float("inf"):
        raise UserError(f"`max_minutes` must be above 0, but is {recipe.max_minutes:g}.")
    if recipe.streaming and recipe.max_minutes is None and recipe.trainer.get("max_steps", -1) <= 0:
        raise UserError("A stream has no known end: with `streaming` set `max_steps` or `max_minutes`.")


def parse_overrides(arguments: list[str]) -> dict[str, str]:
    """`--key value`, `--key=value` and `--flag` to a dict of strings; dashes and underscores are the same in a key."""
    values: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise UserError(f"Cannot place {argument!r}: settings are given as `--key value`.")
        key, given, value = argument[2:].partition("=")
        if not given:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "true"
        section, dot, name = key.replace("-", "_").rpartition(".")
        if name == "one_story_per_file" and not dot:
            name, value = "split", "file" if _coerce(_parse_scalar(value), bool, f"`--{name}`") else "auto"
        values[section + dot + ALIASES.get(name, name)] = value
    return values


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Write the recipe as YAML that [`load_recipe`] reads back."""
    Path(path).write_text(yaml.safe_dump(dataclasses.asdict(recipe), sort_keys=False, allow_unicode=True), "utf-8")


def _owner(key: str, known: dict[str | None, dict[str, Any]]) -> tuple[str | None, str]:
    section, dot, name = key.rpartition(".")
    if dot:
        if section not in SECTIONS:
            raise UserError(f"--{key}: there is no section `{section}`; there are {' and '.join(SECTIONS)}.")
        _require_known(name, known[section], f"--{key}")
        return section, name
    for section, names in known.items():
        if key in names:
            return section, key
    _require_known(key, {name: None for names in known.values() for name in names}, "The command line")
    raise AssertionError(key)


def _require_known(
    key: Any, names: dict[str, Any], where: str, others: dict[str | None, dict[str, Any]] | None = None
) -> None:
    if key in names:
        return
    if key in _DERIVED:
        raise UserError(
            f"{where}: `{key}` follows from the tokenizer and `max_length`; set `vocab_size` or `max_length`."
        )
    for section, theirs in (others or {}).items():
        if key in theirs:
            place = f"the section `{section}`" if section else "the top level of the recipe"
            raise UserError(f"{where}: `{key}` belongs to {place}.")
    close = difflib.get_close_matches(str(key), names, n=1, cutoff=SIMILAR)
    hint = (
        f"; the nearest is `{close[0]}`"
        if close
        else "; there are those of the recipes in configs/, and the fields of TinyLlamaConfig and TrainingArguments"
    )
    raise UserError(f"{where}: there is no setting `{key}`{hint}.")


class _Yaml12Loader(yaml.SafeLoader):
    """YAML 1.2 for what recipes hold: `no` is a word (`eval_strategy: no`), and 5e-4 is a number."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Yaml12Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN))\Z"),
    list("-+0123456789."),
)


def _parse(text: str, hint: Any) -> Any:
    """The value of an option; what is text in any case, such as `[SEP]` or `a: b.txt`, is no YAML."""
    is_text = _scalar_types(hint) in ({str}, {str, type(None)})
    value = _parse_scalar(text)
    return text if is_text and (value is not None or text.lstrip().startswith("#")) else value


def _parse_scalar(text: str) -> Any:
    try:
        return yaml.load(text, _Yaml12Loader)
    except yaml.YAMLError:
        return text


def _coerce(value: Any, hint: Any, name: str) -> Any:
    """`value` as the type that `hint` names, or a `UserError`."""
    accepted = _scalar_types(hint)
    if value is None:
        if type(None) in accepted or not accepted:
            return None
        raise UserError(f"{name} needs a value ({_describe(accepted)}).")
    if not accepted or type(value) in accepted:
        return value
    if isinstance(value, bool):
        if str in accepted:
            return str(value).lower()
    elif str in accepted and isinstance(value, (int, float)):
        return str(value)
    elif isinstance(value, (int, float, str)) and accepted & {int, float}:
        try:
            number = float(value)
        except ValueError:
            number = None
        if number is not None and float in accepted:
            return number
        if number is not None and number.is_integer():
            return int(number)
    raise UserError(f"{name} must be {_describe(accepted)}, but is {value!r}.")


def _scalar_types(hint: Any) -> set[type]:
    """The plain types that a hint accepts; empty where it accepts what we do not know how to check."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        parts = [_scalar_types(part) for part in typing.get_args(hint)]
        return set() if not all(parts) else set().union(*parts)
    plain = typing.get_origin(hint) or hint
    if isinstance(plain, type) and plain in (int, float, str, bool, list, dict, type(None)):
        return {plain}
    if isinstance(plain, type) and issubclass(plain, str):
        return {str}
    return set()


def _describe(accepted: set[type]) -> str:
    words = {
        int: "a whole number",
        float: "a number",
        str: "text",
        bool: "true or false",
        list: "a list",
        dict: "a mapping",
        type(None): "null",
    }
    return " or ".join(words[kind] for kind in words if kind in accepted)
