"""What is generated when the documentation is built: the recipe reference, the changelog, the defaults of
`TinyLlamaConfig`."""

from pathlib import Path

from griffe import Class, Extension, Function, Parameter, ParameterKind, Parameters
from mkdocs.structure.files import File


ROOT = Path(__file__).parents[1]


class ConfigurationFields(Extension):
    """Show the defaults of a configuration's fields: transformers makes a dataclass of it when it is imported."""

    def on_class(self, *, cls: Class, **kwargs) -> None:
        if "PreTrainedConfig" not in map(str, cls.bases):
            return
        fields = [member for member in cls.attributes.values() if member.annotation is not None]
        kind = ParameterKind.keyword_only
        parameters = [
            Parameter(field.name, annotation=field.annotation, kind=kind, default=field.value) for field in fields
        ]
        cls.set_member("__init__", Function("__init__", parameters=Parameters(*parameters)))


def on_files(files, config):
    files.remove(files.get_file_from_path("recipes.md"))  # says where the reference is to readers of the source
    files.append(File.generated(config, "recipes.md", content=recipe_reference()))
    files.append(File.generated(config, "changelog.md", content=(ROOT / "CHANGELOG.md").read_text("utf-8")))
    return files


def recipe_reference() -> str:
    """The keys of a recipe as tables, from the dataclass that reads them."""
    from tinystories.recipe import recipe_reference as settings

    lines = [
        "# Recipe reference",
        "",
        "A recipe is one YAML file; `tinystories train RECIPE --key value` overrides a key. The section `model` takes "
        "the fields of `TinyLlamaConfig` ([Python API](api.md#model)), the section `trainer` those of transformers' "
        "[`TrainingArguments`](https://huggingface.co/docs/transformers/main_classes/trainer#transformers.TrainingArguments).",
        "",
        "| key | type | default | meaning |",
        "|---|---|---|---|",
    ]
    for name, kind, default, text in settings():
        cells = (f"`{name}`", f"`{kind}`".replace("|", "\\|"), f"`{default}`", text.replace("|", "\\|"))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
