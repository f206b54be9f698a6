"""A Gradio demo of a published model, as the files of a Space."""

import json
import shutil
import sys
from pathlib import Path

import transformers
from huggingface_hub import SpaceCard, SpaceCardData

from ..generation.batch import PROMPTS
from ..generation.presets import PRESETS


GRADIO = "6.31.0"  # the version that the app was tested with
CARD = "---\n{{ card_data }}\n---\n\nA demo of [{{ repo_id }}](https://huggingface.co/{{ repo_id }}).\n"


def build_space(folder: Path, repo_id: str, revision: str, preset: str | None = None) -> None:
    """Write the files of a Space to the new folder `folder`.

    Args:
        repo_id: the published model.
        revision: branch or commit that the demo loads; a commit pins it to the verified release.
        preset: sampling preset that is selected at first.
    """
    folder.mkdir(parents=True)
    settings = {
        "model": repo_id,
        "revision": revision,
        "presets": PRESETS,
        "preset": preset if preset in PRESETS else "balanced",
        "prompts": PROMPTS[:5],
    }
    (folder / "settings.json").write_text(json.dumps(settings, indent=2), "utf-8")
    card = SpaceCardData(
        title=repo_id.split("/")[-1],
        sdk="gradio",
        sdk_version=GRADIO,
        python_version=f"{sys.version_info.major}.{sys.version_info.minor}",
        app_file="app.py",
        short_description="A small language model that writes children's stories",
        models=[repo_id],
    )
    SpaceCard.from_template(card, template_str=CARD, repo_id=repo_id).save(folder / "README.md")
    (folder / "requirements.txt").write_text(
        f"--extra-index-url https://download.pytorch.org/whl/cpu\ntorch\ntransformers=={transformers.__version__}\n",
        "utf-8",
    )
    shutil.copyfile(Path(__file__).with_name("space_app.py"), folder / "app.py")
