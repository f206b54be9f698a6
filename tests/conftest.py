"""Fixtures of all tests: separate caches, and one small model that was really trained."""

import gc
import os
import tempfile
from pathlib import Path

import pytest


# Before Hugging Face libraries are imported, so that the user's caches are neither read nor written.
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="tinystories-tests-")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# A second thread does not make models this small faster, and makes them slower on a busy machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture
def tiny_recipe(tmp_path):
    """A function that returns a recipe of a model that trains in seconds: `tiny_recipe(max_steps=4)`."""
    from helpers import TINY_RECIPE

    from tinystories.recipe import build_recipe

    def make(**overrides):
        overrides = {"output_dir": str(tmp_path / "run"), **overrides}
        return build_recipe(TINY_RECIPE, {key: str(value) for key, value in overrides.items()})

    return make


@pytest.fixture(scope="module")
def without_dry_run():
    """Skip the dry run before training, which tests/checks/test_preflight.py tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tinystories.checks.preflight.dry_run", lambda *_: None)
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory) -> Path:
    """The run folder of a small model that was trained for a few seconds; tests only read it."""
    from helpers import TINY_RECIPE

    from tinystories.commands.train import train
    from tinystories.recipe import build_recipe

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    return train(build_recipe(TINY_RECIPE, {"output_dir": str(folder)}))


# Files with long tests come first: at the end, the other processes would be idle while they run.
LONG_FILES = ["test_hub", "test_trainer", "test_resume", "test_tools", "test_training", "test_evaluation",
              "test_server", "test_installed", "test_startup", "test_export_onnx", "test_cli", "test_time_limit",
              "test_doctor", "test_judge"]  # fmt: skip


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: (*LONG_FILES, item.path.stem).index(item.path.stem))


def pytest_collection_finish():
    # Each training collects garbage several times: without the objects of the libraries, that takes no time.
    import tinystories.commands.train  # noqa: F401

    gc.freeze()
