"""Train a small Llama-style model that writes children's stories, and use it.

    from tinystories import generate_story, load_model, load_recipe, train

    folder = train(load_recipe("quickstart"))
    model, tokenizer = load_model(folder)
    print(generate_story(model, tokenizer, "Once upon a time"))

A function is imported when it is first used: neither `import tinystories` nor `tinystories --help` waits for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from .commands.train import train
    from .data.packing import pack_stories
    from .evaluation import metric_path
    from .evaluation.evaluate import evaluate
    from .generation.generate import generate_story
    from .recipe import load_recipe
    from .runs.loading import load_model

__version__ = "0.1.0"
__all__ = ["evaluate", "generate_story", "load_model", "load_recipe", "metric_path", "pack_stories", "train"]

_MODULES = {
    "evaluate": "evaluation.evaluate",
    "generate_story": "generation.generate",
    "load_model": "runs.loading",
    "load_recipe": "recipe",
    "metric_path": "evaluation",
    "pack_stories": "data.packing",
    "train": "commands.train",
}

if not TYPE_CHECKING:  # else type checkers would accept any name

    def __getattr__(name: str) -> Any:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
