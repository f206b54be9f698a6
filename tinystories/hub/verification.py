"""Verify a release in a clean environment: a new process, an empty folder and cache, and without this package.

- Each format is loaded as a user would load it. Its tokens, logits and greedy text must be those of the run.
- The comparison is in float32 on the CPU, where rounding errors are far below the tolerance.
- After publishing, the commit is downloaded and every file is compared. A public repository is read without a token.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..export.verify import STORY
from ..generation.prompts import encode_prompt


if TYPE_CHECKING:
    from .release import Release

PROMPT = "Once upon a time there was"
TOLERANCE = 1e-4  # of a logit; rounding in float32 causes 1e-6, a different function more than 1e-2
CHECKED_TOKENS = 48
TOKENIZER_FIELDS = ("bos_token_id", "eos_token_id", "pad_token_id", "padding_side", "model_max_length")
HIDDEN = ("modeling_tinyllama", "tokenization", "tinystories")
# Environment variables that lead to the user's caches and tokens.
USER_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_XET_CACHE", "HF_ASSETS_CACHE", "HF_MODULES_CACHE",
                  "HF_TOKEN_PATH", "TRANSFORMERS_CACHE", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")  # fmt: skip


@torch.no_grad()
def expected_output(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Return the output that each format of a release must reproduce: settings, tokens, logits `[length, vocab]` and
    greedy text."""
    model = model.float()
    ids = tokenizer(STORY, verbose=False)["input_ids"]
    prompt = torch.tensor([encode_prompt(tokenizer, PROMPT)])
    new_tokens = min(CHECKED_TOKENS, model.config.max_position_embeddings - prompt.shape[1])
    greedy = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": new_tokens}
    # mypy takes `generate` for an attribute of `nn.Module`, a tensor or a module.
    output = model.generate(prompt, attention_mask=torch.ones_like(prompt), **greedy)  # type: ignore[operator]
    generation = model.generation_config.to_diff_dict()
    generation.pop("transformers_version", None)
    return {
        "text": STORY,
        "ids": ids,
        "logits": model(torch.tensor([ids])).logits[0],
        "prompt": PROMPT,
        "new_tokens": new_tokens,
        "greedy": tokenizer.decode(output[0], skip_special_tokens=True),
        "generation": generation,
        "tokenizer": {name: getattr(tokenizer, name) for name in TOKENIZER_FIELDS},
        "tolerance": TOLERANCE,
    }


def check_releases(
    releases: dict[str, "Release"],
    repo_id: str | None = None,
    commits: dict[str, str] | None = None,
    token: str | None = None,
) -> list[str]:
    """Verify releases in a clean environment and return the problems; an empty list if there are none.

    Args:
        releases: by name; each problem begins with the name.
        repo_id: load them from the Hub, each at its commit in `commits`, instead of from their folders.
        token: for a private repository only.
    """
    with tempfile.TemporaryDirectory(prefix="tinystories-check-") as folder:
        items: list[dict[str, Any]] = []
        for name, release in releases.items():
            logits = Path(folder) / f"{len(items)}.safetensors"
            save_file({"logits": release.expected["logits"].contiguous()}, logits)
            items.append(
                {
                    "name": name,
                    "source": repo_id or str(release.folder.resolve()),
                    "revision": commits[name] if commits else None,
                    "files": release.digests() if repo_id else None,
                    "formats": [(f"{name}, {label}", *rest) for label, *rest in release.formats],
                    "expected": {**release.expected, "logits": str(logits)},
                }
            )
        environment = {name: value for name, value in os.environ.items() if name not in USER_VARIABLES}
        environment |= {"HF_HOME": str(Path(folder) / "hf"), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        environment |= {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        if repo_id is None:
            environment["HF_HUB_OFFLINE"] = "1"
        result = subprocess.run(
            # -P: modules are not searched for in the folder of the script.
            [sys.executable, "-P", str(Path(__file__).with_name("verification_script.py"))],
            input=json.dumps({"hidden": HIDDEN, "items": items}),
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
        )
    try:
        return json.loads(result.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        message = (result.stderr.strip() or "no output").splitlines()[-1]
        return [f"the verification failed with status {result.returncode}: {message[:300]}"]
