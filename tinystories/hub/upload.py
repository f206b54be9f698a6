"""Publish a run on the Hub: build a release, verify it, upload it in one commit, download it and verify it again.

- Nothing is published before the release has been verified on disk. A failed upload leaves the repository unchanged.
- A push replaces the files of the earlier release and does not change other files in the repository.
"""

import sys
import tempfile
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.utils import enable_progress_bars

from ..utils.errors import UserError
from ..utils.paths import output_folder, require_new_folder
from .client import Target, authenticate, check_repo_id, commit_folder, create_repo, find_target, retry


if TYPE_CHECKING:
    from .release import Release


def push(
    run: str | Path,
    repo_id: str,
    *,
    include: Sequence[str] = (),
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    out: str | Path | None = None,
    with_checkpoints: bool = False,
    space: bool = False,
    message: str | None = None,
    license: str | None = None,
) -> list[str]:
    """Publish a run folder or checkpoint as a model repository and verify what was published. Prints its progress.

    Args:
        repo_id: `USER/NAME`; created if it does not exist.
        include: additional formats: `llama` (an architecture of transformers), `gguf`, `onnx`.
        private: create a new repository as private.
        revision: existing branch to push to; main by default.
        dry_run: build and verify everything on disk and upload nothing.
        out: new folder in which the build is kept, as `model/`, `step-N/` and `space/`; by default it is deleted.
        with_checkpoints: also publish each checkpoint of the run, as a branch `step-N`.
        space: also publish a demo as a Space of the same name.
        message: of the commit.
        license: of the model, for its card.

    Returns:
        The problems that verification found; an empty list if there are none.

    Raises:
        UserError: for an error that the user can fix; the message states what had already been published, if anything.
    """
    if repo_id.count("/") != 1:
        raise UserError(f"--repo-id must be USER/NAME, such as ada/storyteller, but is {repo_id!r}.")
    check_repo_id(repo_id, "--repo-id")
    run = Path(run)
    branch = revision or "main"
    if include:
        from .release import check_formats

        check_formats(include)
    if not dry_run:
        api, _ = authenticate("use --dry-run")
        target = find_target(api, repo_id, branch, private)

    from transformers.utils import logging

    from .release import build_release
    from .space import build_space
    from .verification import check_releases

    # Progress bars only for the upload, not for each local file.
    logging.disable_progress_bar()
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not True:
        enable_progress_bars()
    with _work_folder(out) as work:
        release = build_release(run, work / "model", repo_id, include=include, revision=revision, license=license)
        checkpoints = _checkpoint_releases(run, work, repo_id, license) if with_checkpoints else {}
        releases = {**checkpoints, branch: release}  # main last, so that its commit is the most recent
        _print_releases(releases)
        if problems := check_releases(releases):
            return [*problems, "Nothing was uploaded."]
        formats = ", ".join(format.label for format in release.formats)
        print(f"checked   on disk, in a clean environment: logits and greedy text equal those of the run ({formats})")
        preset = release.metadata.recipe.get("preset")
        if dry_run:
            if space:
                build_space(work / "space", repo_id, branch, preset)
            print(f"dry run   nothing was uploaded{f'; the release is in {work}' if out else ''}")
            return []

        message = message or f"Release of {release.name}"
        commits = _publish(api, releases, target, checkpoints, message)
        with _prefixed_errors(f"{repo_id} was pushed, but could not be verified, so it may not work. "):
            is_private = bool(retry(lambda: api.repo_info(repo_id), repo_id).private)
        if problems := check_releases(releases, repo_id, commits, get_token() if is_private else None):
            return [*problems, undo_advice(api.endpoint, target, commits)]
        print("checked   on the Hub, in a clean environment: every file, logits and greedy text")
        if space:
            build_space(work / "space", repo_id, commits[branch], preset)
            with _prefixed_errors(f"The model is released ({api.endpoint}/{repo_id}), but its Space is not. "):
                _publish_space(api, work / "space", repo_id, message, is_private)
    print(f"done      {api.endpoint}/{repo_id}")
    return []


def check_push(name: str, *, revision: str | None = None) -> None:
    """Check before training starts that the Hub will accept its push.

    Args:
        name: of the repository, with or without its owner; it is created when training begins.
        revision: branch to push to; main by default.

    Raises:
        UserError: for an invalid name or branch, a token that may not write there, or no connection.
    """
    check_repo_id(name, "`hub_model_id`")
    api, user = authenticate("remove `push_to_hub`")
    if "/" not in name:
        if "name" not in user:
            return
        name = f"{user['name']}/{name}"
    target = find_target(api, name, revision or "main", False)
    owners = [user.get("name"), *(org.get("name") for org in user.get("orgs") or ())]
    if target.head is None and "name" in user and name.split("/")[0] not in owners:
        raise UserError(
            f"Your token belongs to {user['name']}, who cannot create {name} on the Hub: set `hub_model_id` to "
            f"{user['name']}/{name.split('/')[1]}, or use another token."
        )


def undo_advice(endpoint: str, target: Target, commits: dict[str, str]) -> str:
    """Return how to remove a push that failed verification."""
    failed = "The push failed verification and should not be used."
    if target.head is None:
        return f"{failed} `hf repos delete {target.repo_id}` removes the repository."
    reverts = "; ".join(
        f"git switch {branch}; git revert --no-edit {commit}; git push" for branch, commit in commits.items()
    )
    return (
        f"{failed} To undo it: git clone {endpoint}/{target.repo_id}; cd {target.repo_id.split('/')[1]}; {reverts}. "
        f"Until then, revision={target.head[:8]} loads the previous state."
    )


def _print_releases(releases: dict[str, "Release"]) -> None:
    for branch, release in releases.items():
        for note in release.metadata.notes:
            print(f"note: {release.name}: {note}", file=sys.stderr)
        sizes = [path.stat().st_size for path in release.folder.rglob("*") if path.is_file()]
        print(
            f"release   {branch}: {release.name}, {release.metadata.parameters:,} parameters, {len(sizes)} files, "
            f"{sum(sizes) / 1e6:.1f} MB"
        )


def _publish(
    api: HfApi, releases: dict[str, "Release"], target: Target, new_branches: Collection[str], message: str
) -> dict[str, str]:
    """Make one commit on each branch and return the commits."""
    repo_id = target.repo_id
    commits: dict[str, str] = {}
    try:
        create_repo(api, repo_id, "model", target.private)
        for branch, release in releases.items():
            if branch in new_branches:
                retry(partial(api.create_branch, repo_id, branch=branch, exist_ok=True), repo_id)
            commits[branch] = commit_folder(api, release.folder, repo_id, "model", branch, message)
            print(f"pushed    {api.endpoint}/{repo_id}/tree/{branch}, commit {commits[branch][:8]}")
    except UserError as error:
        state = f"Already on the Hub, not verified: {', '.join(commits)}." if commits else "Nothing was published."
        raise UserError(f"{error} {state}") from None
    return commits


def _publish_space(api: HfApi, folder: Path, repo_id: str, message: str, private: bool) -> None:
    create_repo(api, repo_id, "space", private)
    commit_folder(api, folder, repo_id, "space", "main", message)
    url = f"{api.endpoint}/spaces/{repo_id}"
    print(f"space     {url}, which the Hub is building")
    if private:
        print(
            f"note: the model is private, so the Space needs a secret HF_TOKEN with read access to it: {url}/settings",
            file=sys.stderr,
        )


@contextmanager
def _prefixed_errors(prefix: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        raise UserError(f"{prefix}{error}") from None


@contextmanager
def _work_folder(out: str | Path | None) -> Iterator[Path]:
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tinystories-release-") as temporary:
            yield Path(temporary)
        return
    folder = output_folder(out)
    require_new_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _checkpoint_releases(run: Path, work: Path, repo_id: str, license: str | None) -> dict[str, "Release"]:
    from ..runs.run_folder import find_checkpoints
    from .release import build_release

    checkpoints = find_checkpoints(run)
    if not checkpoints:
        raise UserError(f"{run} has no checkpoints: remove --checkpoints.")
    releases = {}
    for checkpoint in reversed(checkpoints):
        branch = f"step-{checkpoint.name.split('-')[-1]}"
        try:
            releases[branch] = build_release(checkpoint, work / branch, repo_id, revision=branch, license=license)
        except UserError as error:
            print(f"note: {checkpoint.name} is skipped: {error}", file=sys.stderr)
    return releases
