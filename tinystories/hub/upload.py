"""From a run folder to the Hub: what is pushed loads for everyone and gives the run's figures, or it is no release.

Design decisions
- **Nothing is half published.** The release is built and checked on disk before the Hub hears of it. Files are
  uploaded first and become visible in one commit at the end; what fails before that leaves the repo as it was.
  `create_commit` and not `upload_folder`, which may make several commits of one folder.
- **A lost connection is tried again** with the whole commit made anew, which resumes: files that have arrived are not
  sent twice, and a commit of which only the answer was lost is found to be there.
- **Checked where it lies.** A new process with an empty cache downloads the commit, compares every file, loads every
  form and compares its figures with the run's. For a public repo it has no token.
- **A push replaces a release.** Weights, tokenizer files and other forms of an earlier one that are not in the new one
  are deleted in the same commit, so that no form of another model stays beside it. All else in the repo is left alone.
- **The token stays where it is**: it is read as `huggingface_hub` reads it, never printed and never written.

Only `huggingface_hub` is imported here, so that what is refused is refused at once.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import enable_progress_bars, validate_repo_id

from ..utils.errors import UserError, first_line


# Seconds between tries. `huggingface_hub` tries uploads, but not commits, five times more by itself.
WAITS = (1, 2, 4)
PASSING = (408, 429, 500, 502, 503, 504)
# What a release is made of, where another one may have left it.
RELEASE_FILES = re.compile(
    r"(llama|phi3|gguf|onnx)/.*|[^/]*\.safetensors(\.index\.json)?|pytorch_model[^/]*|tokenizer[^/]*|vocab\.json|"
    r"merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|generation_config\.json|"
    r"(configuration|modeling)_[^/]*\.py|recipe\.yaml|loss\.png"
)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """A repo as it is before a push; `head` is the commit that its branch stands at, None where there is no repo.

    `private` is what it is, or what it is going to be.
    """

    repo_id: str
    branch: str
    head: str | None
    private: bool


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
    """Publish a run folder or checkpoint as a model repo, and check what was published. Prints how it goes.

    Args:
        repo_id: `USER/NAME`; made if it is not there.
        include: other forms to put beside the model: `llama` (stock transformers), `gguf`, `onnx`.
        private: make a new repo private.
        revision: an existing branch to push to; main by default.
        dry_run: build and check everything on disk and upload nothing.
        out: keep what was built in this new folder, as `model/`, `step-N/` and `space/`.
        with_checkpoints: publish each checkpoint of the run, too, as a branch `step-N`.
        space: publish a demo as a Space of the same name.
        message: of the commit.
        license: of the model, for its card.

    Returns:
        What is wrong with the release; an empty list where all is right.

    Raises:
        UserError: for what the user can mend; nothing was published then, or the message says what.
    """
    if repo_id.count("/") != 1:
        raise UserError(f"--repo-id must be USER/NAME, such as ada/storyteller, but is {repo_id!r}.")
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"--repo-id {repo_id!r} cannot be a name on the Hub: {first_line(error)}.") from None
    run = Path(run)
    api = target = None
    if not dry_run:
        api = HfApi(token=_write_token())
        target = _look(api, repo_id, revision or "main", private)

    from transformers.utils import logging

    from .release import build_release, build_space, check_releases

    # A bar for each file that is read or written here says nothing; one for what is uploaded does.
    logging.disable_progress_bar()
    if constants.HF_HUB_DISABLE_PROGRESS_BARS is not True:
        enable_progress_bars()
    with _work_folder(out) as work:
        options = {"include": include, "license": license}
        release = build_release(run, work / "model", repo_id, revision=revision, **options)
        # main comes last, and is what people find
        others = _checkpoint_releases(run, work, repo_id, license) if with_checkpoints else {}
        releases = {**others, revision or "main": release}
        _tell(releases)
        if problems := check_releases(releases):
            return [*problems, "Nothing was uploaded."]
        forms = ", ".join(form.name for form in release.forms)
        print(f"checked   on disk, in a process without this package: logits and greedy text are the run's ({forms})")
        if space and dry_run:
            build_space(release, work / "space", repo_id, revision or "main")
        if dry_run:
            print(f"dry run   nothing was uploaded{f'; the release is in {work}' if out else ''}")
            return []

        message = message or f"Release of {release.name}"
        commits = _publish_all(api, releases, target, others, message)
        with _blaming(f"{repo_id} is pushed, but not checked, and counts for no release. "):
            is_private = bool(_patiently(lambda: api.repo_info(repo_id), repo_id).private)
        if problems := check_releases(releases, repo_id, commits, api.token if is_private else None):
            return [*problems, *_way_back(api, target, commits)]
        print("checked   on the Hub, in a new process with an empty cache: every file, logits and greedy text")
        if space:
            build_space(release, work / "space", repo_id, commits[target.branch])
            with _blaming(f"The model is released ({api.endpoint}/{repo_id}), its Space is not. "):
                _publish_space(api, work / "space", repo_id, message, is_private)
    print(f"done      {api.endpoint}/{repo_id}")
    return []


def _tell(releases: dict) -> None:
    for branch, release in releases.items():
        for note in release.metadata.notes:
            print(f"note: {release.name}: {note}", file=sys.stderr)
        sizes = [path.stat().st_size for path in release.folder.rglob("*") if path.is_file()]
        print(
            f"release   {branch}: {release.name}, {release.metadata.parameters:,} parameters, {len(sizes)} files, "
            f"{sum(sizes) / 1e6:.1f} MB"
        )


def _publish_all(api: HfApi, releases: dict, target: Target, new_branches: Collection[str], message: str) -> dict:
    """One commit for each branch; returns them."""
    commits: dict[str, str] = {}
    try:
        _create(api, target.repo_id, "model", target.private)
        for branch, release in releases.items():
            if branch in new_branches:
                make = partial(api.create_branch, target.repo_id, branch=branch, exist_ok=True)
                _patiently(make, target.repo_id)
            commits[branch] = _publish(api, release.folder, target.repo_id, "model", branch, message)
            print(f"pushed    {api.endpoint}/{target.repo_id}/tree/{branch}, commit {commits[branch][:8]}")
    except UserError as error:
        there = f"On the Hub already, unchecked: {', '.join(commits)}." if commits else "Nothing was published."
        raise UserError(f"{error} {there}") from None
    return commits


@contextmanager
def _blaming(what: str):
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}{error}") from None


def check_push(name: str, *, revision: str | None = None) -> None:
    """Refuse a push of a training that the Hub would refuse after its work.

    Args:
        name: of the repo, with or without its owner; it is made when training begins.
        revision: branch to push to; main by default.

    Raises:
        UserError: for a name or branch that cannot be, a token that may not write there, or no connection.
    """
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UserError(f"`hub_model_id` {name!r} cannot be a name on the Hub: {first_line(error)}.") from None
    token, user = _authenticate("leave out `push_to_hub`")
    if "/" not in name:
        if "name" not in user:
            return
        name = f"{user['name']}/{name}"
    target = _look(HfApi(token=token), name, revision or "main", False)
    owners = [user.get("name"), *(org.get("name") for org in user.get("orgs") or ())]
    if target.head is None and "name" in user and name.split("/")[0] not in owners:
        raise UserError(
            f"Your token is that of {user['name']}, who cannot make {name} on the Hub: set `hub_model_id` to "
            f"{user['name']}/{name.split('/')[1]}, or take another token."
        )


def _write_token() -> str:
    return _authenticate("take --dry-run")[0]


def _authenticate(instead: str) -> tuple[str, dict]:
    """The token to write with, and what the Hub says of its user, nothing where it may not be asked.

    Args:
        instead: what else the user can do.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or {instead}.")
    token = get_token()
    if token is None:
        raise UserError(
            f"There is no token to write to the Hub with: run `hf auth login`, or set HF_TOKEN, or {instead}."
        )
    try:
        user = HfApi(token=token).whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UserError("The Hub does not take your token: make another with `hf auth login`.") from None
        return token, {}  # too many questions, or a token that may not ask this one
    except (HTTPError, OSError) as error:
        raise UserError(f"The Hub ({constants.ENDPOINT}) cannot be reached: {first_line(error)}.") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("Your token may only read: make one that may write at https://huggingface.co/settings/tokens.")
    return token, user


def _look(api: HfApi, repo_id: str, branch: str, private: bool) -> Target:
    def look() -> Target:
        try:
            info = api.repo_info(repo_id)
        except RepositoryNotFoundError:
            return Target(repo_id, branch, None, private)
        api.auth_check(repo_id, write=True)
        heads = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).branches}
        if branch not in heads:
            raise UserError(
                f"{repo_id} has no branch {branch}, only {', '.join(heads)}: `hf repos branch create {repo_id} "
                f"{branch}` makes it."
            )
        return Target(repo_id, branch, heads[branch], bool(info.private))

    target = _patiently(look, repo_id)
    if target.head is None and branch != "main":
        raise UserError(f"There is no repo {repo_id}, so it has no branch {branch}: push to main first.")
    if target.head is not None and private and not target.private:
        raise UserError(
            f"{repo_id} exists and is public; --private makes only new repos private. `hf repos settings {repo_id} "
            f"--private` makes it so."
        )
    return target


@contextmanager
def _work_folder(out: str | Path | None):
    if out is None:
        with tempfile.TemporaryDirectory(prefix="tinystories-release-") as folder:
            yield Path(folder)
        return
    from ..utils.paths import output_folder

    folder = output_folder(out)
    if folder.exists() and any(folder.iterdir()):
        raise UserError(f"{folder} exists already: give a folder that is new or empty.")
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _checkpoint_releases(run: Path, work: Path, repo_id: str, license: str | None) -> dict:
    from ..runs.checkpoints import find_checkpoints
    from .release import build_release

    found = find_checkpoints(run)
    if not found:
        raise UserError(f"{run} has no checkpoints: leave out --checkpoints.")
    releases = {}
    for checkpoint in reversed(found):
        branch = f"step-{checkpoint.name.split('-')[-1]}"
        try:
            releases[branch] = build_release(checkpoint, work / branch, repo_id, revision=branch, license=license)
        except UserError as error:
            print(f"note: {checkpoint.name} is left out: {error}", file=sys.stderr)
    return releases


def _create(api: HfApi, repo_id: str, repo_type: str, private: bool) -> None:
    sdk = "gradio" if repo_type == "space" else None
    _patiently(
        lambda: api.create_repo(
            repo_id, repo_type=repo_type, private=private or None, exist_ok=True, space_sdk=sdk
        ),
        repo_id,
    )  # fmt: skip


def _publish(api: HfApi, folder: Path, repo_id: str, repo_type: str, branch: str, message: str) -> str:
    """Put the files of `folder` on a branch in one commit, and return that commit."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def publish() -> str:
        tree = api.list_repo_tree(repo_id, repo_type=repo_type, revision=branch, recursive=True)
        there = {entry.path for entry in tree if isinstance(entry, RepoFile)}
        left = sorted(path for path in there - files.keys() if RELEASE_FILES.fullmatch(path))
        operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
        operations += [CommitOperationDelete(path) for path in left]
        commit = api.create_commit(
            repo_id, operations, repo_type=repo_type, revision=branch, commit_message=message
        )  # fmt: skip
        if left:
            print(f"deleted   from {branch}, of an earlier release: {', '.join(left)}")
        return commit.oid

    return _patiently(publish, repo_id)


def _publish_space(api: HfApi, folder: Path, repo_id: str, message: str, private: bool) -> None:
    _create(api, repo_id, "space", private)
    _publish(api, folder, repo_id, "space", "main", message)
    print(f"space     {api.endpoint}/spaces/{repo_id}, which the Hub builds now")
    if private:
        print(f"note: the model is private, so the Space needs a secret HF_TOKEN that may read it: {api.endpoint}/"
              f"spaces/{repo_id}/settings", file=sys.stderr)  # fmt: skip


def _way_back(api: HfApi, target: Target, commits: dict[str, str]) -> list[str]:
    if target.head is None:
        return [f"It is on the Hub, but is no release: `hf repos delete {target.repo_id}` removes it."]
    taken = "; ".join(
        f"git switch {branch}; git revert --no-edit {commit}; git push" for branch, commit in commits.items()
    )
    return [
        f"It is on the Hub, but is no release. This takes it back: git clone {api.endpoint}/{target.repo_id}; "
        f"cd {target.repo_id.split('/')[1]}; {taken}. Until then revision={target.head[:8]} is what was there before."
    ]


# What goes wrong on the way


def _patiently(action: Callable[[], Result], repo_id: str) -> Result:
    """What `action` returns; tried again where the network or the Hub fails, as they do for a time.

    Raises:
        UserError: for what will not pass, and where it has not passed.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except UserError:
            raise
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            reason = _root(error)
            status = reason.response.status_code if isinstance(reason, HfHubHTTPError) else None
            if isinstance(reason, OSError) and reason.errno is not None and not isinstance(reason, ConnectionError):
                raise  # a file here
            passing = status in PASSING or (status is None and not isinstance(reason, ValueError))
            if not passing or wait is None:
                raise UserError(_said(reason, status, repo_id)) from None
            print(f"note: {_line(reason, status)}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError("the last try returns or raises")


def _root(error: BaseException) -> BaseException:
    """The error of the network or the Hub that another one was made of."""
    seen = error
    while seen is not None:
        if isinstance(seen, (HfHubHTTPError, HTTPError)):
            return seen
        seen = seen.__cause__ or seen.__context__
    return error


def _line(reason: BaseException, status: int | None) -> str:
    if status is None:
        return f"no answer from the Hub ({first_line(reason)})"
    return f"the Hub answered {status}"


def _said(reason: BaseException, status: int | None, repo_id: str) -> str:
    message = " ".join(str(getattr(reason, "server_message", None) or first_line(reason)).split()).rstrip(".")
    again = "The same command goes on with what was uploaded."
    if isinstance(reason, ValueError):
        return f"The Hub refuses the release: {' '.join(str(reason).split())}"
    if status is None or status in PASSING:
        return f"The push to {repo_id} was given up: {_line(reason, status)}. {again}"
    if status == 401:
        return "The Hub does not take your token: make another with `hf auth login`."
    if status == 403:
        return f"Your token has no right to write to {repo_id}: {message}. Take a repo of your own, or another token."
    if status == 402:
        return f"The Hub wants a paid account for {repo_id}: {message}."
    if status == 412:
        return f"Someone else has pushed to {repo_id} at the same time. {again}"
    return f"The Hub refuses the push to {repo_id} ({status}): {message}."
