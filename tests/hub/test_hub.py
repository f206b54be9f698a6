"""Pushing a run to a local Hub: the published model is that of the run, and its card states what is known."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import HIDE_PACKAGE, TINY_RECIPE, edit_weights, without_package
from hub_server import CLIENT, Blob, LocalHub, User, card_errors
from huggingface_hub import ModelCard
from safetensors.torch import load_file

from tinystories.cli import main
from tinystories.export.verify import load_run
from tinystories.generation.presets import PRESETS
from tinystories.hub.client import Target
from tinystories.hub.model_card import model_card
from tinystories.hub.release import build_release
from tinystories.hub.upload import undo_advice
from tinystories.hub.verification import check_releases
from tinystories.runs.loading import load_model
from tinystories.runs.metadata import read_run_metadata
from tinystories.runs.run_folder import find_checkpoints
from tinystories.utils.errors import UserError


ROOT = Path(__file__).parents[2]
PROMPT = "Once upon a time there was"
ADA, BOB, READER = "hf_adasecret", "hf_bobsecret", "hf_readersecret"
RUN_JSON = {
    "format": 1,
    "corpus": {
        "name": "roneneldan/TinyStories",
        "fingerprint": "0123abcd4567",
        "training_stories": 16054,
        "validation_stories": 3613,
        "validation_bytes": 2900000,
    },
    "tokens_seen": 3355443,
    "seconds": 629.4,
    "hardware": "x86_64 CPU, 2 cores",
    "precision": "bf16 autocast, fp32 weights",
    "versions": {"torch": "2.13.0"},
}
REPORT_ENTRY = {
    "bits_per_byte": {"value": 0.8254, "low": 0.8123, "high": 0.8391},
    "nats_per_token": 2.267,
    "perplexity": 9.65,
    "bytes_per_token": 3.96,
    "minimal_pairs": {"article_deleted": {"accuracy": 0.934, "low": 0.909, "high": 0.953, "pairs": 500}},
    "minimal_pair_accuracy": 0.934,
    "coherence": {"name": {"accuracy": 0.871, "low": 0.839, "high": 0.898, "pairs": 498}},
    "generation": {
        "balanced": {
            "raw": {
                "stories": 30,
                "article_omission": 0.0123,
                "article_omission_low": 0.01,
                "article_omission_high": 0.02,
                "faulty_stories": 0.267,
                "faulty_stories_low": 0.142,
                "faulty_stories_high": 0.444,
            },
            "post_processed": {"changed": 0.4},
            "stories_per_second": 2.5,
            "samples": [
                {"prompt": PROMPT, "text": f"{PROMPT} a cat.\n\nIt said <b>hello</b>.", "ended": True},
                {"prompt": "One day,", "text": "One day, it rained and", "ended": False},
            ],
        }
    },
}


@pytest.fixture(scope="module")
def hub():
    with LocalHub() as server:
        server.users |= {ADA: User("ada"), BOB: User("bob"), READER: User("ada", role="read")}
        yield server


def client(hub, tmp_path, token=ADA):
    """The environment of a user of this Hub, with a separate cache."""
    environment = {name: value for name, value in os.environ.items() if name not in ("HF_TOKEN", "HF_HUB_OFFLINE")}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), **CLIENT}
    return environment | ({"HF_TOKEN": token} if token else {})


def python(code, hub, tmp_path, *arguments, token=ADA):
    """Run `code` as that user and return what it prints as JSON in its last line."""
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=tmp_path,
        env={**client(hub, tmp_path, token), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1]), result.stderr


def push(hub, tmp_path, *arguments, token=ADA):
    return subprocess.run(
        [sys.executable, str(ROOT / "push_to_hub.py"), *map(str, arguments)],
        cwd=tmp_path,
        env=client(hub, tmp_path, token),
        capture_output=True,
        text=True,
    )


def copied(run, folder, report=False):
    """A copy of a run with a report, with private settings in its recipe."""
    shutil.copytree(run, folder)
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    recipe["trainer"] |= {"hub_token": ADA, "hub_model_id": "ada/other", "run_name": "my-secret-project"}
    recipe["corpus"] = "/home/ada/my_stories"
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    (folder / "run.json").write_text(json.dumps(RUN_JSON))
    if report:
        write_report(folder)
    return folder


def write_report(folder, **changes):
    other = {**REPORT_ENTRY, "model": "elsewhere/other", "bits_per_byte": {"value": 0.1111}, "parameters": 5}
    entry = {
        **REPORT_ENTRY,
        "model": str(folder),
        "parameters": load_model(str(folder))[0].num_parameters(),
        **changes,
    }
    corpus = {"name": "roneneldan/TinyStories", "fingerprint": "f00", "stories": 3613, "bytes": 2900000}
    real = {"article_omission": 0.011}
    (folder / "report.json").write_text(
        json.dumps({"format": 1, "corpus": corpus, "real_stories": real, "models": [other, entry]})
    )


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    return copied(tiny_run, tmp_path_factory.mktemp("runs") / "story-teller", report=True)


@pytest.fixture(scope="module")
def pushed(run, hub, tmp_path_factory):
    """The result of one push with all options except GGUF and ONNX, and its working folder."""
    place = tmp_path_factory.mktemp("push")
    options = ("--include", "llama", "--checkpoints", "--space", "--message", "First release")
    return push(hub, place, run, "--repo-id", "ada/story-teller", *options), place


# ---- what a push publishes


def test_push_makes_one_commit_with_the_complete_release(pushed, hub, run):
    result, _ = pushed
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1].startswith("done")
    repo = hub.model("ada/story-teller")
    assert [commit.title for commit in repo.history()] == ["First release", "initial commit"]
    files = repo.files()
    assert set(files) - {"tokenizer_config.json", "chat_template.jinja"} == {
        ".gitattributes", "README.md", "config.json", "configuration_tinyllama.py", "generation_config.json",
        "loss.png", "model.safetensors", "modeling_tinyllama.py", "recipe.yaml", "tokenizer.json",
        *(path for path in files if path.startswith("phi3/")),
    }  # fmt: skip
    assert files["modeling_tinyllama.py"] == (ROOT / "modeling_tinyllama" / "modeling_tinyllama.py").read_bytes()
    assert json.loads(files["config.json"])["auto_map"]["AutoModelForCausalLM"].startswith("modeling_tinyllama.")
    assert PRESETS["balanced"].items() <= json.loads(files["generation_config.json"]).items()
    assert json.loads(files["phi3/config.json"])["model_type"] == "phi3"
    assert not repo.private


def test_a_public_push_is_verified_without_a_token(pushed, hub):
    repo = hub.model("ada/story-teller")
    fetched = hub.asked("GET", f"/resolve/{repo.branches['main']}/README.md")
    assert fetched and all(status == 200 and token is None for _, _, status, token in fetched)
    last_push = max(
        i for i, request in enumerate(hub.requests) if "/models/" in request[1] and "/commit/" in request[1]
    )
    assert hub.requests.index(fetched[0]) > last_push


def test_each_checkpoint_is_a_branch(pushed, hub, run):
    repo = hub.model("ada/story-teller")
    checkpoints = find_checkpoints(run)
    assert len(checkpoints) > 1
    assert set(repo.branches) == {"main", *(f"step-{path.name.split('-')[1]}" for path in checkpoints)}
    for path in checkpoints:
        branch = f"step-{path.name.split('-')[1]}"
        files = repo.files(branch)
        (path.parent / "compared.safetensors").write_bytes(files["model.safetensors"])
        weights = load_file(path.parent / "compared.safetensors")
        (path.parent / "compared.safetensors").unlink()
        for name, weight in load_file(path / "model.safetensors").items():
            assert torch.equal(weights[name], weight)
        assert "modeling_tinyllama.py" in files and "optimizer.pt" not in files
        card = files["README.md"].decode()
        assert f'revision="{branch}"' in card and f"after step {branch[5:]}" in card
        # Values from the end of the run do not apply to a checkpoint.
        assert "0.825" not in card and "0:10:29" not in card and "3,355,443" not in card
        assert card_errors(card, "model") == []


def test_nothing_private_is_published_or_printed(pushed, hub, run):
    result, place = pushed
    secrets = (ADA.encode(), b"my-secret-project", b"/home/ada", str(run.parent).encode(), str(place).encode())
    for (_, repo_id), repo in hub.repos.items():
        for commit in repo.commits.values():
            for path, blob in commit.files.items():
                for secret in secrets:
                    assert secret not in blob.data, (repo_id, path, secret)
                assert Path(path).name not in ("training_args.bin", "trainer_state.json", "optimizer.pt")
    assert ADA not in result.stdout + result.stderr
    recipe = yaml.safe_load(hub.model("ada/story-teller").files()["recipe.yaml"])
    assert recipe["corpus"] == "my_stories" and recipe["trainer"]["learning_rate"] == 0.01
    assert recipe["model"]["hidden_size"] == 64


@pytest.mark.slow
def test_the_code_on_the_card_runs_in_a_clean_environment(pushed, hub, run, tmp_path):
    card = hub.model("ada/story-teller").files()["README.md"].decode()
    blocks = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(blocks) == 3 and "phi3" in blocks[2]
    greedy = f"""
inputs = tokenizer({PROMPT!r}, return_tensors="pt")
options = dict(do_sample=False, repetition_penalty=1.0, max_new_tokens=30)
found.append([type(model).__module__, model.generate(**inputs, **options)[0].tolist()])
"""
    code = f"found = []\n{blocks[0]}{blocks[1]}{greedy}{blocks[2]}{greedy}import json\nprint(json.dumps(found))"
    found, _ = python(HIDE_PACKAGE + code, hub, tmp_path, token=None)
    model, tokenizer = load_model(str(run))
    inputs = tokenizer(PROMPT, return_tensors="pt")
    expected = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=30)[0].tolist()
    assert [tokens for _, tokens in found] == [expected, expected]
    assert found[0][0].startswith("transformers_modules.") and found[1][0].startswith("transformers.models.phi3")


CONVERSIONS = """
from huggingface_hub import HfApi
from tinystories.cli import main

assert main(["export", "ada/story-teller", "stock"]) == 0
HfApi().create_repo("ada/stock")
HfApi().upload_folder(repo_id="ada/stock", folder_path="stock")
assert main(["import", "ada/stock", "imported"]) == 0
print(1)
"""


@pytest.mark.slow
def test_a_model_on_the_hub_can_be_exported_and_imported(pushed, hub, run, tmp_path):
    python(CONVERSIONS, hub, tmp_path)
    assert json.loads((tmp_path / "stock" / "config.json").read_text())["model_type"] == "phi3"
    expected = load_file(run / "model.safetensors")
    found = load_file(tmp_path / "imported" / "model.safetensors")
    assert found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in found)


def test_the_space_loads_the_published_commit(pushed, hub):
    files = hub.repos["spaces", "ada/story-teller"].files()
    assert set(files) == {".gitattributes", "README.md", "app.py", "requirements.txt", "settings.json"}
    assert card_errors(files["README.md"].decode(), "space") == []
    settings = json.loads(files["settings.json"])
    assert settings["model"] == "ada/story-teller" and settings["presets"] == PRESETS
    assert settings["revision"] == hub.model("ada/story-teller").branches["main"]
    compile(files["app.py"], "app.py", "exec")


def test_the_app_of_the_space_streams_stories(pushed, hub, tmp_path):
    pytest.importorskip("gradio")
    for path, data in hub.repos["spaces", "ada/story-teller"].files().items():
        (tmp_path / path).write_bytes(data)
    code = f"""
import json
import app
from gradio_client import Client

app.demo.queue().launch(prevent_thread_lock=True, quiet=True)
PROMPT = {PROMPT!r}
client = Client(app.demo.local_url, verbose=False)
job = client.submit(PROMPT, "plain", api_name="/generate")
job.result()
seeded = [client.predict(PROMPT, "plain", 0.6, 50, "7", api_name="/generate")[0] for _ in range(2)]
greedy = [client.predict(PROMPT, "greedy", 0.6, 50, seed, api_name="/generate")[0] for seed in ("1", "2")]
new = [client.predict(PROMPT, "plain", 2.0, 50, "", api_name="/generate") for _ in range(2)]
print(json.dumps([[story for story, _ in job.outputs()], seeded, greedy, new]))
"""
    (stories, seeded, greedy, new), _ = python(HIDE_PACKAGE + code, hub, tmp_path, token=None)
    assert len(stories) > 5 and all(stories[-1].startswith(story) for story in stories)
    assert stories[-1].startswith(PROMPT)
    assert seeded[0] == seeded[1] != greedy[0] == greedy[1]
    assert new[0] != new[1] and all(" tokens · seed " in status for _, status in new)


# ---- the card


def card_of(folder, tmp_path, **options):
    release = build_release(folder, tmp_path / "release", "ada/story-teller", **options)
    return (release.folder / "README.md").read_text(), release


def test_the_card_states_the_measured_values(pushed, hub):
    text = hub.model("ada/story-teller").files()["README.md"].decode()
    for figure in (
        "0.825 (0.812 to 0.839)", "2.267", "9.65", "3.96", "93.4% (90.9% to 95.3%) | 500",
        "87.1% (83.9% to 89.8%) | 498", "3,613 held-out stories",
        "2,900,000 bytes", "3,355,443", "0:10:29", "16,054 stories", "`0123abcd4567`", "x86_64 CPU, 2 cores",
        "bf16 autocast", "torch 2.13.0", "omitted articles | 1.2% (1.0% to 2.0%) | 1.1%",
        "another fault of coherence | 26.7% (14.2% to 44.4%)",
        "CDLA-Sharing-1.0", "It said &lt;b&gt;hello&lt;/b&gt;.", "it rained and *(truncated)*", "| layers | 2 |",
    ):  # fmt: skip
        assert figure in text, figure
    assert "0.111" not in text  # of the other model in the report

    card = ModelCard(text)
    assert card_errors(text, "model") == []
    results = {(result.dataset_type, result.metric_type): result for result in card.data.eval_results}
    assert results["roneneldan/TinyStories", "bits_per_byte"].metric_value == 0.8254
    assert results["minimal-pairs", "accuracy"].metric_name == "Article deleted"
    assert results["coherence-probes", "accuracy"].metric_value == 0.871
    assert card.data.datasets == ["roneneldan/TinyStories"] and card.data.license is None


def test_the_card_of_a_run_on_the_built_in_stories_says_that_they_are_synthetic(tiny_run):
    metadata = read_run_metadata(tiny_run, load_model(tiny_run)[0])
    text = str(model_card(metadata, "ada/tiny", formats={}))
    assert "trained from scratch on the synthetic stories of the package" in text
    assert "trained and evaluated on synthetic stories that were generated from templates" in " ".join(text.split())
    assert "tinystories evaluate ada/tiny --corpus sample" in text


def test_unknown_values_are_omitted_from_the_card(run, tmp_path):
    """The files of the run are deleted one by one, and their values disappear from the card."""
    folder = shutil.copytree(run, tmp_path / run.name)
    values = {
        "report.json": ("0.825", "93.4%", "Minimal pairs", "87.1%", "preset `balanced`"),
        "run.json": ("3,355,443", "0:10:29", "TinyStories", "fingerprint", "CDLA"),
        "eval_results.json": ("bits per byte", "## Results", "model-index"),
        "loss.png": ("loss.png",),
        "recipe.yaml": ("my_stories", "learning rate", "Standard next-token"),
        "trainer_state.json": ("## Training", "steps", "tokens seen"),
    }
    card = card_of(folder, tmp_path / "0")[0]
    for number, (name, words) in enumerate(values.items(), 1):
        (folder / name).unlink()
        before, card = card, card_of(folder, tmp_path / str(number))[0]
        for word in words:
            assert word in before and word not in card, (name, word)
        for text in (before, card):
            assert card_errors(text, "model") == []
            assert not re.search(r"\bNone\b|\bnan\b|[{}]|TODO|information needed|<!--|\| \|\n|\n\n\n", text)
    assert f"> {PROMPT}" in card  # generated for the card, because no report has stories


def test_tokens_are_derived_if_training_did_not_record_them(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / "run.json").unlink()
    text, _ = card_of(folder, tmp_path)
    state = json.loads((folder / "trainer_state.json").read_text())
    rows = state["global_step"] * 4
    tokens = int(re.search(r"tokens seen \| ([\d,]+), including padding", text)[1].replace(",", ""))
    assert tokens % rows == 0 and tokens // rows >= 128  # whole rows, of at least the context
    assert "last session only" in text


def test_results_of_another_model_or_of_older_weights_are_omitted(run, tmp_path):
    for number, fault in enumerate(("older", "another size", "two of that name")):
        folder = shutil.copytree(run, tmp_path / str(number) / "run")
        write_report(folder, **({"parameters": 7} if fault == "another size" else {}))
        if fault == "older":
            os.utime(folder / "report.json", (1, 1))
        if fault == "two of that name":
            report = json.loads((folder / "report.json").read_text())
            report["models"] = [{**entry, "model": f"/{n}/run"} for n, entry in enumerate(report["models"])]
            (folder / "report.json").write_text(json.dumps(report))
        text, release = card_of(folder, tmp_path / str(number))
        assert "0.825" not in text and "0.111" not in text and "bits per byte" in text
        assert any("figures are omitted" in note for note in release.metadata.notes), fault


def test_weighted_articles_are_not_called_standard_cross_entropy(run, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    recipe = yaml.safe_load((folder / "recipe.yaml").read_text())
    (folder / "recipe.yaml").write_text(yaml.safe_dump({**recipe, "article_loss_weight": 1.5}))
    text, _ = card_of(folder, tmp_path, license="mit")
    assert "Standard" not in text and "articles weighted 1.5" in text
    assert ModelCard(text).data.license == "mit"


def test_the_metadata_check_of_the_local_hub_can_fail():
    for broken in (
        "tags: [1]",
        "license:",
        "datasets: [my stories]",
        "model-index: [{name: a, results: [{}]}]",
        "a: [",
    ):
        assert card_errors(f"---\n{broken}\n---\n", "model"), broken
    assert card_errors("---\ncolorFrom: mauve\n---\n", "space")


# ---- verification


def test_verification_finds_what_is_wrong_with_a_release(run, tmp_path):
    sound = build_release(run, tmp_path / "sound", "ada/x", include=["llama"])

    def broken(name, damage):
        folder = shutil.copytree(sound.folder, tmp_path / name)
        damage(folder)
        return type(sound)(folder, name, sound.metadata, sound.formats, sound.expected)

    def edit(path, old, new):
        def damage(folder):
            text = (folder / path).read_text()
            assert old in text
            (folder / path).write_text(text.replace(old, new))

        return damage

    def rescale(subfolder):
        return lambda folder: edit_weights(folder / subfolder, lambda weights: weights["model.norm.weight"].mul_(1.01))

    releases = {
        "sound": sound,
        "code": broken("code", edit("modeling_tinyllama.py", "self.scaling = ", "self.scaling = 1.1 * ")),
        "no code": broken("no-code", lambda folder: (folder / "modeling_tinyllama.py").unlink()),
        "our package": broken(
            "imports", edit("modeling_tinyllama.py", "import torch\n", "import torch, tinystories\n")
        ),
        "weights": broken("weights", rescale("")),
        "stock weights": broken("stock", rescale("phi3")),
        "preset": broken("preset", edit("generation_config.json", "0.8", "0.9")),
        "tokenizer": broken("tokenizer", edit("tokenizer_config.json", '"<|padding|>"', '"a new one"')),
        "tokens": broken("tokens", edit("tokenizer.json", '"add_prefix_space": false', '"add_prefix_space": true')),
        "no tokenizer": broken("no-tokenizer", lambda folder: (folder / "tokenizer.json").unlink()),
    }
    problems = check_releases(releases)
    found = {name: [line for line in problems if line.startswith((f"{name}:", f"{name},"))] for name in releases}
    assert found.pop("sound") == []
    assert [name for name, lines in found.items() if not lines] == [], problems
    assert "logits differ" in found["code"][0] and "phi3" in found["stock weights"][0]
    assert "temperature 0.9, not 0.8" in found["preset"][0]
    assert "pad_token_id" in found["tokenizer"][0] and "different tokens" in found["tokens"][0]
    assert "tinystories" in found["our package"][0] and "modeling_tinyllama" in found["no code"][0]


def test_dry_run_builds_and_verifies_without_a_network(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    out = tmp_path / "out"
    assert main(["push", str(run), "--repo-id", "ada/x", "--dry-run", "--out", str(out), "--space"]) == 0
    printed = capsys.readouterr()
    assert "nothing was uploaded" in printed.out and "checked" in printed.out
    assert {path.name for path in out.iterdir()} == {"model", "space"}
    assert load_model(str(out / "model"))[0].num_parameters() == load_model(str(run))[0].num_parameters()
    assert main(["push", str(run), "--repo-id", "ada/x", "--dry-run", "--out", str(out)]) == 2
    assert "already exists" in capsys.readouterr().err


BRANCH = """
import sys
from huggingface_hub import HfApi

HfApi().create_repo(sys.argv[1], private=True)
HfApi().create_branch(sys.argv[1], branch="dev")
print(1)
"""


@pytest.mark.slow
def test_a_push_that_is_damaged_on_the_hub_fails_verification(run, hub, tmp_path):
    python(BRANCH, hub, tmp_path, "ada/damaged")
    source = (ROOT / "modeling_tinyllama" / "modeling_tinyllama.py").read_bytes()
    hub.damaged["modeling_tinyllama.py"] = source.replace(b"self.scaling = ", b"self.scaling = 1.1 * ")
    try:
        result = push(hub, tmp_path, run, "--repo-id", "ada/damaged", "--revision", "dev")
    finally:
        hub.damaged.clear()
    assert result.returncode == 1 and "done" not in result.stdout
    assert "modeling_tinyllama.py differs from the release" in result.stderr and "logits differ" in result.stderr
    repo = hub.model("ada/damaged")
    assert f"git switch dev; git revert --no-edit {repo.branches['dev']}" in result.stderr
    assert [commit.title for commit in repo.history("main")] == ["initial commit"]
    # A private repository is read with the token, which is not printed.
    assert repo.private and all(token == ADA for *_, token in hub.asked("GET", "ada/damaged/resolve"))
    assert ADA not in result.stdout + result.stderr


def test_a_release_that_fails_verification_is_not_uploaded(run, monkeypatch, capsys):
    def damaged(*arguments, **options):
        release = build_release(*arguments, **options)
        code = release.folder / "modeling_tinyllama.py"
        code.write_text(code.read_text().replace("self.scaling = ", "self.scaling = 1.1 * "))
        return release

    monkeypatch.setattr("tinystories.hub.release.build_release", damaged)
    assert main(["push", str(run), "--repo-id", "ada/x", "--dry-run"]) == 1
    said = capsys.readouterr().err.strip().splitlines()
    assert "logits differ" in said[0] and said[-1] == "tinystories: Nothing was uploaded."


@pytest.mark.slow
def test_checkpoints_that_cannot_be_released_are_skipped(run, tmp_path, capsys):
    folder = shutil.copytree(run, tmp_path / "run")
    command = ["push", str(folder), "--repo-id", "ada/x", "--dry-run", "--checkpoints"]
    latest, *others = find_checkpoints(folder)
    (latest / "tokenizer.json").unlink()
    assert main(command) == 0
    said = capsys.readouterr()
    assert f"{latest.name} is skipped" in said.err and "has no tokenizer" in said.err
    for path in (latest, *others):
        assert (f"step-{path.name.split('-')[1]}: {path.name}," in said.out) == (path != latest)
    for path in (latest, *others):
        shutil.rmtree(path)
    assert main(command) == 2
    assert "has no checkpoints: remove --checkpoints" in capsys.readouterr().err


def test_undo_advice_for_a_new_repository():
    advice = undo_advice("http://127.0.0.1:9", Target("ada/x", "main", None, False), {"main": "c0ffee"})
    assert "`hf repos delete ada/x` removes the repository" in advice


@pytest.mark.slow
def test_gguf_and_onnx_are_included(run, tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("onnxruntime")
    release = build_release(run, tmp_path / "release", "ada/x", include=["gguf", "onnx"])
    assert {"gguf/story-teller-f16.gguf", "onnx/onnx/model.onnx"} <= set(release.digests())
    card = (release.folder / "README.md").read_text()
    assert "`gguf/`" in card and "`onnx/`" in card


@pytest.mark.parametrize("name, package", [("gguf", "gguf"), ("onnx", "onnxruntime")])
def test_a_format_whose_package_is_missing_is_refused_before_any_work(name, package, run, tmp_path, monkeypatch):
    without_package(monkeypatch, package, f"tinystories.export.{name}")
    with pytest.raises(UserError, match=rf"{name.upper()} export needs .*pip install '\.\[export\]'"):
        build_release(run, tmp_path / "none", "ada/x", include=[name])
    assert not (tmp_path / "none").exists()


# ---- mistakes and network errors


PUSHES = """
import contextlib, io, json, os, sys
from tinystories.cli import main

results = []
for token, arguments in json.load(open(sys.argv[1])):
    os.environ.pop("HF_TOKEN", None)
    if token:
        os.environ["HF_TOKEN"] = token
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        status = main(["push", *arguments])
    results.append([status, error.getvalue()])
print(json.dumps([results, "torch" in sys.modules]))
"""


def test_each_mistake_is_one_line(run, hub, tmp_path):
    hub.repos.pop(("models", "ada/there"), None)
    python("import sys; from huggingface_hub import HfApi; HfApi().create_repo('ada/there'); print(1)", hub, tmp_path)
    here = str(run)
    cases = [
        (None, [here, "--repo-id", "ada/x"], "no token", "hf auth login"),
        ("hf_unknown", [here, "--repo-id", "ada/x"], "rejected your token", "hf auth login"),
        (READER, [here, "--repo-id", "ada/x"], "is read-only", "settings/tokens"),
        (BOB, [here, "--repo-id", "ada/there"], "may not write to ada/there", "another token"),
        (ADA, [here, "--repo-id", "story-teller"], "USER/NAME", "'story-teller'"),
        (ADA, [here, "--repo-id", "ada/x y"], "is not a valid name", "ada/x y"),
        (ADA, [here, "--repo-id", "ada/there", "--revision", "dev"], "no branch dev", "branches: main"),
        (ADA, [here, "--repo-id", "ada/new", "--revision", "dev"], "no repository ada/new", "main first"),
        (ADA, [here, "--repo-id", "ada/there", "--private"], "is public", "hf repos settings"),
        (ADA, [str(tmp_path / "none"), "--repo-id", "ada/x"], "no run folder", "quickstart"),
        (ADA, [str(tmp_path), "--repo-id", "ada/x"], "not a run folder", "config.json"),
        (ADA, [here, "--repo-id", "ada/x", "--include", "llama,ggml"], "'ggml'", "llama, gguf, onnx"),
        (None, [here, "--repo-id", "ada/x", "--include", "foo"], "'foo'", "llama, gguf, onnx"),
    ]
    task = tmp_path / "task.json"
    task.write_text(json.dumps([case[:2] for case in cases]))
    (results, _), _ = python(PUSHES, hub, tmp_path, task)
    for (_, arguments, *words), (status, message) in zip(cases, results, strict=True):
        lines = message.strip().splitlines()
        assert status == 2 and len(lines) == 1, (arguments, message)
        assert all(word in message for word in words), (arguments, message)
        assert not any(token in message for token in (ADA, BOB, READER))
    assert {key for key in hub.repos if key[1] in ("ada/x", "ada/new")} == set()


CHECKS = """
import json
from tinystories.hub.upload import check_push
from tinystories.utils.errors import UserError

messages = []
for name in ("unpublished", "ada/unpublished", "bob/unpublished"):
    try:
        messages.append(check_push(name))
    except UserError as error:
        messages.append(str(error))
print(json.dumps(messages))
"""


def test_a_push_in_training_to_the_repository_of_another_user_is_refused(hub, tmp_path):
    (without_owner, own, of_bob), _ = python(CHECKS, hub, tmp_path)
    assert without_owner is own is None
    assert "ada, who cannot create bob/unpublished" in of_bob and "`hub_model_id` to ada/unpublished" in of_bob


def test_offline_push_is_refused(run, capsys):
    assert main(["push", str(run), "--repo-id", "ada/x"]) == 2
    assert "HF_HUB_OFFLINE is set" in capsys.readouterr().err


def test_an_unreachable_hub_is_one_line(run, hub, tmp_path):
    environment = {**client(hub, tmp_path), "HF_ENDPOINT": "http://127.0.0.1:9"}
    command = [sys.executable, str(ROOT / "push_to_hub.py"), str(run), "--repo-id", "ada/x"]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 2 and len(result.stderr.strip().splitlines()) == 1
    assert "127.0.0.1:9) cannot be reached" in result.stderr


def test_a_run_that_cannot_be_released_is_refused(run, tmp_path):
    def refused(damage, words, **options):
        folder = tmp_path / f"run{len(list(tmp_path.iterdir()))}"
        shutil.copytree(run, folder, ignore=shutil.ignore_patterns("checkpoint-*"))
        damage(folder)
        with pytest.raises(UserError, match=words):
            build_release(folder, tmp_path / "none", "ada/x", **options)

    def change(edit):
        return lambda folder: edit_weights(folder, edit)

    norm = "model.norm.weight"
    refused(lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer")
    refused(lambda folder: (folder / "model.safetensors").unlink(), "no weights")
    refused(change(lambda weights: weights.pop(norm)), f"missing keys: {norm}")
    refused(change(lambda weights: weights[norm].fill_(torch.nan)), f"{norm} has values that are not finite")
    refused(lambda folder: (folder / "run.json").write_text("{"), "run.json is damaged")
    gpt2 = {"model_type": "gpt2", "n_layer": 1, "n_head": 1, "n_embd": 8, "vocab_size": 600}
    refused(
        lambda folder: (folder / "config.json").write_text(json.dumps(gpt2)), "only tinyllama models|cannot be loaded"
    )
    assert not (tmp_path / "none").exists()
    load_run(run)


PUBLISH = """
import json, sys
from pathlib import Path
from huggingface_hub import HfApi, get_token
from tinystories.utils.errors import UserError
from tinystories.hub.client import commit_folder, create_repo

api, messages = HfApi(token=get_token()), []
for folder, repo_id in zip(sys.argv[1::2], sys.argv[2::2]):
    try:
        create_repo(api, repo_id, "model", False)
        messages.append(commit_folder(api, Path(folder), repo_id, "model", "main", "A release"))
    except UserError as error:
        messages.append(f"refused: {error}")
print(json.dumps(messages))
"""


@pytest.fixture
def small_release(tmp_path):
    """A function that makes a release folder with unique large files: `small_release("name")`."""

    def make(name):
        folder = tmp_path / name
        (folder / "phi3").mkdir(parents=True)
        (folder / "README.md").write_text(f"---\nlanguage: en\n---\n\n# {name}\n")
        (folder / "config.json").write_text("{}")
        for path in ("model.safetensors", "phi3/model.safetensors"):
            (folder / path).write_bytes(f"{tmp_path}{name}{path}".encode() * 50_000)
        return folder

    return make


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.slow
def test_transient_errors_are_retried(hub, small_release, tmp_path):
    faults = {
        "create": ("POST", "/repos/create", "lost"),
        "dropped": ("PUT", "/lfs/{large}", "drop"),
        "broken": ("PUT", "/lfs/{large}", 500),
        "limited": ("POST", "{repo}/preupload/", 429),
        "tree": ("GET", "{repo}/tree/", "drop"),
        "busy": ("POST", "{repo}/commit/", 503),
        "cut": ("POST", "{repo}/commit/", "drop"),
        "lost": ("POST", "{repo}/commit/", "lost"),
    }
    arguments = []
    for name, (method, path, kind) in faults.items():
        folder = small_release(name)
        hub.fail(method, path.format(repo=f"ada/{name}", large=sha256(folder / "model.safetensors")), kind)
        arguments += [folder, f"ada/{name}"]
    messages, _ = python(PUBLISH, hub, tmp_path, *arguments)
    assert [fault for fault in hub.faults if fault.times] == []
    for name, commit in zip(faults, messages, strict=True):
        repo = hub.model(f"ada/{name}")
        assert commit == repo.branches["main"], name
        assert [commit.title for commit in repo.history()] == ["A release", "initial commit"], name
        assert repo.files()["model.safetensors"] == (tmp_path / name / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_a_failed_push_publishes_nothing_and_can_be_resumed(hub, small_release, tmp_path):
    folder = small_release("later")
    hub.fail("POST", "ada/later/commit/", "drop", times=4)
    (message,), log = python(PUBLISH, hub, tmp_path, folder, "ada/later")
    assert message.startswith("refused: The push to ada/later failed: no answer") and "to resume" in message
    assert log.count("trying again in") == 3 and ADA not in log
    repo = hub.model("ada/later")
    assert [commit.title for commit in repo.history()] == ["initial commit"]

    arrived = f"/lfs/{sha256(folder / 'model.safetensors')}"
    assert len(hub.asked("PUT", arrived)) == 1
    (message, again), _ = python(PUBLISH, hub, tmp_path, folder, "ada/later", folder, "ada/later")
    assert message == repo.branches["main"] and len(hub.asked("PUT", arrived)) == 1
    assert again == message and len(repo.commits) == 2  # nothing new, no commit


def test_permanent_errors_are_one_line(hub, small_release, tmp_path):
    refusals = {403: "may not write", 401: "rejected your token", 412: "was changed during the push"}
    folder, bad_card = small_release("rights"), small_release("card")
    (bad_card / "README.md").write_text("---\ntags: [1]\n---\n\n# A\n")
    arguments = [bad_card, "ada/card", folder, "bob/not-mine"]
    for status in refusals:
        hub.fail("POST", f"ada/rights-{status}/commit/", status)
        arguments += [folder, f"ada/rights-{status}"]
    (card, not_mine, *others), _ = python(PUBLISH, hub, tmp_path, *arguments)
    assert "rejected the release" in card and '"tags" must be strings' in card
    assert "may not write to bob/not-mine" in not_mine and "namespace" in not_mine
    for words, message in zip(refusals.values(), others, strict=True):
        assert message.startswith("refused:") and words in message and "\n" not in message, message
    assert [len(hub.model(f"ada/rights-{status}").commits) for status in refusals] == [1, 1, 1]


def test_a_new_release_replaces_the_old_one(hub, small_release, tmp_path):
    first, second = small_release("again"), small_release("second")
    python(PUBLISH, hub, tmp_path, first, "ada/again")
    repo = hub.model("ada/again")
    left = {path: Blob(b"old", False) for path in ("notes.txt", "gguf/a.gguf", "model-00001-of-00002.safetensors")}
    repo.commit("main", "by hand", {**repo.at("main").files, **left})
    shutil.rmtree(second / "phi3")
    python(PUBLISH, hub, tmp_path, second, "ada/again")
    assert set(repo.files()) == {".gitattributes", "README.md", "config.json", "model.safetensors", "notes.txt"}
    assert [commit.title for commit in repo.history()] == ["A release", "by hand", "A release", "initial commit"]


# ---- Trainer(push_to_hub=True)


TRAIN = """
import json, sys
from tinystories.recipe import build_recipe
from tinystories.commands.train import train

train(build_recipe(json.loads(sys.argv[1]), json.loads(sys.argv[2])))
print(json.dumps("done"))
"""
LOAD = (
    HIDE_PACKAGE
    + f"""
import json
from huggingface_hub import snapshot_download
from transformers import AutoModelForCausalLM, AutoTokenizer

found = {{}}
for revision in sys.argv[2:]:
    folder = snapshot_download(sys.argv[1], revision=revision)
    for place in (folder, folder + "/last-checkpoint"):
        try:
            model = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=True)
            inputs = AutoTokenizer.from_pretrained(place, trust_remote_code=True)({PROMPT!r}, return_tensors="pt")
            options = dict(do_sample=False, repetition_penalty=1.0, max_new_tokens=20)
            found[revision + place[len(folder):]] = model.generate(**inputs, **options)[0].tolist()
        except Exception as error:
            found[revision + place[len(folder):]] = str(error)
print(json.dumps(found))
"""
)


@pytest.fixture(scope="module")
def trained(hub, tmp_path_factory):
    """A run that pushed itself through a slow network, the Hub's commits, what each of them generates and the log."""
    place = tmp_path_factory.mktemp("trained")
    run = place / "run"
    overrides = {"output_dir": str(run), "max_steps": "8", "eval_steps": "2", "max_stories": "200", "check": "false"}
    overrides |= {"push_to_hub": "true", "hub_model_id": "ada/trained", "hub_strategy": "checkpoint"}
    overrides |= {"save_total_limit": "1"}

    # The first push ends only after those of steps 4 and 6 have been skipped, and that of the last checkpoint is
    # delayed.
    def step_6_is_saved() -> bool:
        return (run / "checkpoint-6").exists() and not (run / "checkpoint-4").exists()

    hub.fail("POST", "/ada/trained/commit/", step_6_is_saved)
    hub.fail("POST", "/ada/trained/commit/", 503, after=2)
    _, log = python(TRAIN, hub, place, json.dumps(TINY_RECIPE), json.dumps(overrides))
    repo = hub.model("ada/trained")
    steps = {commit.title: commit.sha for commit in reversed(repo.history())}
    found, _ = python(LOAD, hub, place, "ada/trained", *list(steps.values())[1:], token=None)
    return run, steps, found, log


@pytest.mark.slow
def test_a_run_pushed_by_trainer_loads_in_a_clean_environment(trained, hub):
    run, steps, found, log = trained
    model, tokenizer = load_model(str(run))
    options = {"do_sample": False, "repetition_penalty": 1.0, "max_new_tokens": 20}
    expected = model.generate(**tokenizer(PROMPT, return_tensors="pt"), **options)[0].tolist()
    last = list(steps.values())[-1]
    assert found[last] == expected
    assert found[f"{last}/last-checkpoint"] == expected
    assert list(steps) == [
        "initial commit",
        *(f"Training in progress, step 2{what}" for what in ("", ", checkpoint")),
        *(f"Training in progress, step 8{what}" for what in ("", ", checkpoint")),
        "End of training",
    ]
    state = hub.model("ada/trained").files()["last-checkpoint/trainer_state.json"]
    assert json.loads(state)["global_step"] == 8
    assert log.count("could not be pushed") == 1 and "note: checkpoint-8 could not be pushed: " in log
    pushed = [blob for commit in hub.model("ada/trained").commits.values() for blob in commit.files.values()]
    assert ADA not in log and not any(ADA.encode() in blob.data for blob in pushed)
    early = steps["Training in progress, step 2, checkpoint"]
    assert isinstance(found[f"{early}/last-checkpoint"], list)


@pytest.mark.slow
def test_a_run_in_progress_loads_in_a_clean_environment(trained):
    _, steps, found, _ = trained
    assert isinstance(found[steps["Training in progress, step 2"]], list)


@pytest.mark.slow
def test_all_checkpoints_are_pushed_if_requested(hub, tmp_path):
    overrides = {"output_dir": str(tmp_path / "run"), "max_steps": "6", "eval_steps": "2", "max_stories": "200"}
    overrides |= {"push_to_hub": "true", "hub_model_id": "ada/all", "hub_strategy": "all_checkpoints"}
    overrides |= {"save_total_limit": "1", "check": "false"}
    hub.fail("POST", "/ada/all/commit/", (tmp_path / "run" / "checkpoint-4").exists)
    python(TRAIN, hub, tmp_path, json.dumps(TINY_RECIPE), json.dumps(overrides))
    repo = hub.model("ada/all")
    folders = {path.split("/")[0] for path in repo.files() if path.startswith("checkpoint-")}
    assert folders == {"checkpoint-2", "checkpoint-4", "checkpoint-6"}
    for folder in folders:
        assert json.loads(repo.files()[f"{folder}/config.json"])["model_type"] == "tinyllama"
        assert f"{folder}/modeling_tinyllama.py" in repo.files() and f"{folder}/optimizer.pt" in repo.files()
