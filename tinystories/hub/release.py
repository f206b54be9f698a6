"""From a run folder to a release folder, and the proof that a stranger's process gets the same model from it.

Design decisions
- **Nothing of the machine goes along.** A release holds the weights, the tokenizer, the code, the card, the loss
  picture and the recipe, from which folders, run names and tokens are left out. `training_args.bin`, which pickles
  every argument (a token of the Hub among them), stays in the run.
- **Weights are read whole or not at all.** transformers fills what is missing with random numbers and only warns, and
  what is random would be published and found to agree with itself.
- **The other forms are made from the release**, so that all of them share its `generation_config.json`.
- **The check is a stranger's.** `verification.py` runs in a process of its own, in an empty folder, with an empty
  cache, in which this package does not exist. It loads every form as a user would and compares logits and greedy text
  with the run's, in float32 on the CPU, where only a wrong function makes a difference.
"""

import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

import modeling_tinyllama  # noqa: F401  registers the architecture
from tinystories.tokenization import vocabulary_size

from ..export.stock import export_stock, target_of
from ..export.verify import STORY
from ..generation.batch import PROMPTS
from ..generation.generate import generate_story, preset_config
from ..generation.presets import PRESETS
from ..generation.prompts import encode_prompt
from ..runs.loading import load_tokenizer
from ..runs.metadata import RunMetadata, read_run_metadata
from ..runs.run_folder import refuse_file
from ..utils.errors import UserError, first_line
from .model_card import model_card


TOLERANCE = 1e-4  # of a logit; rounding in float32 makes 1e-6, another function more than 1e-2
PROMPT = "Once upon a time there was"
SEED = 1
CHECKED_TOKENS = 48
TOKENIZER_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "padding_side", "model_max_length")
GRADIO = "6.31.0"  # that the app of a Space was tried with
HIDDEN = ("modeling_tinyllama", "tokenization", "tinystories")
# Where a process of Hugging Face keeps and finds things, and what it may send along.
_PLACES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_MODULES_CACHE",
           "HF_TOKEN_PATH", "TRANSFORMERS_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # fmt: skip
# Settings of a recipe that are this machine's, or nobody's business.
_PRIVATE = re.compile(r"output_dir|logging_dir|run_name|project|resume|report_to|hub_|push_to_hub|token$|disable_tqdm")


@dataclass(frozen=True)
class Form:
    """One way in which a release can be loaded: its folder within it, and whether that needs the code beside it."""

    name: str
    subfolder: str
    trust_remote_code: bool


@dataclass
class Release:
    """A folder that is ready to be published.

    Attributes:
        folder: where it lies.
        name: the run or checkpoint that it was made from.
        metadata: what its card says.
        forms: how it can be loaded through transformers.
        expected: what must come out of each of them, for `verification.py`.
    """

    folder: Path
    name: str
    metadata: RunMetadata
    forms: list[Form]
    expected: dict = field(repr=False)

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file by its path in the release."""
        files = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {path.relative_to(self.folder).as_posix(): _sha256(path) for path in files}


def check_run(run: str | Path) -> Path:
    """Refuse what is no run folder or checkpoint, before anything is imported or read, with a `UserError`."""
    run = Path(run)
    refuse_file(run)
    if not run.is_dir():
        raise UserError(f"There is no run folder {run}; `make quickstart` creates runs/quickstart.")
    if not (run / "config.json").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.json. Give the folder that training wrote.")
    if not any(run.glob("*.safetensors")):
        raise UserError(f"{run} holds no weights (model.safetensors). Give the folder of a finished training.")
    if not (run / "tokenizer.json").is_file():
        raise UserError(
            f"{run} has no tokenizer (tokenizer.json), without which nobody can use the model: copy the one that it "
            f"was trained with into the folder."
        )
    return run


def load_run(run: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a run in float32 on the CPU, every weight of it read from the folder, and its tokenizer.

    Raises:
        UserError: where it is another kind of model, or its weights are not all there and finite.
    """
    tokenizer = load_tokenizer(str(run))
    try:
        model, report = AutoModelForCausalLM.from_pretrained(run, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise UserError(f"The model in {run} cannot be loaded: {first_line(error)}.") from None
    if model.config.model_type != "tinyllama":
        raise UserError(f"The model in {run} is a {model.config.model_type}; only a tinyllama can be released.")
    for trouble in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if report.get(trouble):
            names = ", ".join(str(name) for name in sorted(report[trouble], key=str)[:3])
            raise UserError(f"The weights in {run} do not fit its config.json, {trouble.replace('_', ' ')}: {names}.")
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise UserError(f"{run} is damaged: {name} holds numbers that are not finite.")
    if (entries := vocabulary_size(tokenizer)) > model.config.vocab_size:
        raise UserError(
            f"The tokenizer in {run} has {entries:,} entries and the model {model.config.vocab_size:,}: they "
            f"do not belong together."
        )
    return model.eval(), tokenizer


def build_release(
    run: str | Path,
    folder: Path,
    repo_id: str,
    *,
    include: Sequence[str] = (),
    revision: str | None = None,
    license: str | None = None,
) -> Release:
    """Write the release of a run or checkpoint to the new folder `folder`.

    Args:
        repo_id: where it is going to be published; the card says how to load it from there.
        include: more forms of the model to put beside it: any of `INCLUDES`.
        revision: the branch that it is going to be published on; main by default.
        license: of the model, for the card.

    Raises:
        UserError: where the run cannot be released, or not in one of these forms.
    """
    run = check_run(run)
    check_include(include)
    model, tokenizer = load_run(run)
    metadata, recipe = read_run_metadata(run, model), public_recipe(run)
    if not model.generation_config.do_sample:
        room = model.config.max_position_embeddings * 3 // 4
        model.generation_config = preset_config("balanced", tokenizer, max_new_tokens=room)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    forms = [Form("the model", "", trust_remote_code=True)]
    subfolders = {}
    for name in dict.fromkeys(include):
        subfolders[name] = INCLUDES[name](run, folder, model)
        if name == "llama":
            forms.append(Form(f"the {subfolders[name]} form", subfolders[name], trust_remote_code=False))

    if not metadata.samples:
        metadata.samples = _samples(model, tokenizer)
        metadata.samples_by = f"Generated with the settings of `generation_config.json` and seed {SEED}, first try."
    if (run / "loss.png").is_file():
        shutil.copyfile(run / "loss.png", folder / "loss.png")
    if recipe:
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True), "utf-8")
    loss_plot = (folder / "loss.png").is_file()
    card = model_card(metadata, repo_id, subfolders, loss_plot=loss_plot, revision=revision, license=license)
    card.save(folder / "README.md")
    return Release(folder, run.resolve().name, metadata, forms, _expected(model, tokenizer))


def _samples(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, str]]:
    prompts = (PROMPT, "One day, a little girl named Lily")
    return [{"prompt": prompt, "text": generate_story(model, tokenizer, prompt, seed=SEED)} for prompt in prompts]


def public_recipe(run: Path) -> dict | None:
    """The recipe of a run or of the run of a checkpoint, without what is private: folders of this machine, tokens."""
    path = next((folder / "recipe.yaml" for folder in (run, run.parent) if (folder / "recipe.yaml").is_file()), None)
    if path is None:
        return None
    try:
        recipe = yaml.safe_load(path.read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}.") from None
    if not isinstance(recipe, dict):
        raise UserError(f"{path} is not a recipe.")
    recipe["trainer"] = recipe.get("trainer") or {}
    for section in (recipe, recipe["trainer"]):
        for name, value in list(section.items()):
            if _PRIVATE.search(name):
                del section[name]
            elif isinstance(value, str) and (value.startswith(("/", "~")) or Path(value).exists()):
                section[name] = Path(value).name
    return recipe


# Other forms


def _llama(run: Path, release: Path, model: PreTrainedModel) -> str:
    target = target_of(model.config)
    export_stock(release, release / target)
    return target


def _gguf(run: Path, release: Path, model: PreTrainedModel) -> str:
    from ..export.gguf import export_gguf

    # From the run, whose name the file takes on.
    export_gguf(run, release / "gguf" / f"{run.resolve().name}-f16.gguf")
    return "gguf"


def _onnx(run: Path, release: Path, model: PreTrainedModel) -> str:
    from ..export.onnx import export_onnx

    export_onnx(release, release / "onnx")
    return "onnx"


INCLUDES: dict[str, Callable[[Path, Path, PreTrainedModel], str]] = {"llama": _llama, "gguf": _gguf, "onnx": _onnx}
NEEDS = {"gguf": ("gguf",), "onnx": ("onnx_ir", "onnxruntime", "onnxscript")}


def check_include(include: Sequence[str]) -> None:
    """Refuse a form that there is not, or that a package is missing for, with a `UserError`."""
    for name in include:
        if name not in INCLUDES:
            raise UserError(f"--include does not know {name!r}; it takes {', '.join(INCLUDES)}.")
        missing = [package for package in NEEDS.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UserError(
                f"--include {name} needs {' and '.join(missing)}: pip install 'tinyllama-stories[export]'."
            )


# The check


@torch.no_grad()
def _expected(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict:
    model = model.float()
    context = model.config.max_position_embeddings
    ids = tokenizer(STORY, verbose=False)["input_ids"]
    prompt = torch.tensor([encode_prompt(tokenizer, PROMPT)])
    new_tokens = min(CHECKED_TOKENS, context - prompt.shape[1])
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": new_tokens}
    written = model.generate(prompt, attention_mask=torch.ones_like(prompt), **greedy)
    generation = model.generation_config.to_diff_dict()
    generation.pop("transformers_version", None)
    return {
        "text": STORY,
        "ids": ids,
        "logits": model(torch.tensor([ids])).logits[0],
        "prompt": PROMPT,
        "new_tokens": new_tokens,
        "greedy": tokenizer.decode(written[0], skip_special_tokens=True),
        "generation": generation,
        "tokenizer": {name: getattr(tokenizer, name) for name in TOKENIZER_FIELDS},
        "tolerance": TOLERANCE,
    }


def check_releases(
    releases: dict[str, Release],
    repo_id: str | None = None,
    commits: dict[str, str] | None = None,
    token: str | None = None,
) -> list[str]:
    """What a stranger's process finds wrong with releases, by name; an empty list where all is right.

    Args:
        repo_id: load them from the Hub, each at its commit in `commits`, instead of from their folders.
        token: for a private repo only; a public one must load without.
    """
    with tempfile.TemporaryDirectory(prefix="tinystories-check-") as place:
        items = []
        for name, release in releases.items():
            logits = Path(place) / f"{len(items)}.safetensors"
            save_file({"logits": release.expected["logits"].contiguous()}, logits)
            items.append(
                {
                    "name": name,
                    "source": repo_id or str(release.folder.resolve()),
                    "revision": commits[name] if repo_id else None,
                    "files": release.digests() if repo_id else None,
                    "forms": [{**vars(form), "name": f"{name}, {form.name}"} for form in release.forms],
                    "expected": {**release.expected, "logits": str(logits)},
                }
            )
        environment = {name: value for name, value in os.environ.items() if name not in _PLACES}
        environment |= {"HF_HOME": str(Path(place) / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        if repo_id is None:
            environment["HF_HUB_OFFLINE"] = "1"
        result = subprocess.run(
            # -P: the folder of the script is not searched for modules.
            [sys.executable, "-P", str(Path(__file__).with_name("verification.py"))],
            input=json.dumps({"hidden": HIDDEN, "items": items}),
            cwd=place,
            env=environment,
            capture_output=True,
            text=True,
        )
    try:
        return json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        said = (result.stderr.strip() or "nothing").splitlines()[-1]
        return [f"the process that checks it ended with status {result.returncode} and said: {said[:300]}"]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# A demo


def build_space(release: Release, folder: Path, repo_id: str, revision: str) -> None:
    """Write a Gradio demo of a published release to the new folder `folder`.

    Args:
        revision: what the demo loads; a commit, so that it stays as it was tried.
    """
    folder.mkdir(parents=True)
    name = repo_id.split("/")[-1]
    preset = release.metadata.recipe.get("preset")
    settings = {
        "model": repo_id,
        "revision": revision,
        "presets": PRESETS,
        "preset": preset if preset in PRESETS else "balanced",
        "beginnings": PROMPTS[:5],
    }
    front = {
        "title": name,
        "sdk": "gradio",
        "sdk_version": GRADIO,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "short_description": "A small language model tells a story",
        "models": [repo_id],
    }
    (folder / "story.json").write_text(json.dumps(settings, indent=2), "utf-8")
    (folder / "README.md").write_text(
        f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\nA demo of [{repo_id}](https://huggingface.co/{repo_id}).\n",
        "utf-8",
    )
    (folder / "requirements.txt").write_text(
        f"--extra-index-url https://download.pytorch.org/whl/cpu\ntorch\ntransformers=={transformers.__version__}\n",
        "utf-8",
    )
    shutil.copyfile(Path(__file__).with_name("space_app.py"), folder / "app.py")
