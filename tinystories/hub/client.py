"""Access to the Hub through `HfApi`: token, target repository, atomic commits, retries, and error messages.

- A commit is atomic: files are uploaded first and become visible at once. `create_commit` guarantees that;
  `upload_folder` may make several commits.
- After a failed request, the whole commit is retried. Files that were uploaded are not sent again, and a commit of
  which only the answer was lost is recognised.
- The token is read as `huggingface_hub` reads it, and is neither printed nor written to a file.

This module imports only `huggingface_hub`, so that errors are reported without delay.
"""

import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from ..utils.errors import UserError, first_line
from ..utils.hub_connection import require_hub


# Seconds between attempts. `huggingface_hub` itself retries uploads, but not commits.
WAITS = (1, 2, 4)
TRANSIENT = (408, 429, 500, 502, 503, 504)
REJECTED_TOKEN = "The Hub rejected your token: log in with a valid one with `hf auth login`."
RESUME = "Run the same command again to resume."
# Files of an earlier release, which the next one replaces.
RELEASE_FILES = re.compile(
    r"(llama|phi3|gguf|onnx)/.*|[^/]*\.safetensors(\.index\.json)?|pytorch_model[^/]*|tokenizer[^/]*|vocab\.json|"
    r"merges\.txt|special_tokens_map\.json|added_tokens\.json|chat_template\.jinja|generation_config\.json|"
    r"(configuration|modeling)_[^/]*\.py|recipe\.yaml|loss\.png"
)
Result = TypeVar("Result")


@dataclass(frozen=True)
class Target:
    """A model repository before a push.

    Attributes:
        head: commit that the branch points to; None if there is no repository.
        private: whether the repository is private, or will be.
    """

    repo_id: str
    branch: str
    head: str | None
    private: bool


def check_repo_id(repo_id: str, option: str) -> None:
    """Check that a name is valid on the Hub.

    Raises:
        UserError: if not; the message names the `option` that it was given with.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(f"{option} {repo_id!r} is not a valid name on the Hub: {first_line(error)}.") from None


def authenticate(alternative: str) -> tuple[HfApi, dict[str, Any]]:
    """Return a client with the user's token, and the Hub's data about the user; empty if the token may not read them.

    Args:
        alternative: what the user can do without a token, for the messages.

    Raises:
        UserError: if there is no token that may write, or no connection.
    """
    if constants.HF_HUB_OFFLINE:
        raise UserError(f"HF_HUB_OFFLINE is set, so nothing can be pushed: unset it, or {alternative}.")
    token = get_token()
    if token is None:
        raise UserError(f"There is no token for the Hub: run `hf auth login`, set HF_TOKEN, or {alternative}.")
    api = HfApi(token=token)
    try:
        require_hub(api.endpoint)
        user = api.whoami()
    except HfHubHTTPError as error:
        if error.response.status_code == 401:
            raise UserError(REJECTED_TOKEN) from None
        return api, {}  # rate-limited, or a token without this permission
    except (HTTPError, OSError) as error:
        raise UserError(f"The Hub ({api.endpoint}) cannot be reached: {first_line(error)}.") from None
    if user.get("auth", {}).get("accessToken", {}).get("role") == "read":
        raise UserError("Your token is read-only: create a write token at https://huggingface.co/settings/tokens.")
    return api, user


def find_target(api: HfApi, repo_id: str, branch: str, private: bool) -> Target:
    """Return the state of a repository before a push.

    Raises:
        UserError: if it cannot be pushed to this branch, by this user, or as private.
    """

    def find() -> Target:
        try:
            info = api.repo_info(repo_id)
        except RepositoryNotFoundError:
            return Target(repo_id, branch, None, private)
        api.auth_check(repo_id, write=True)
        heads = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).branches}
        if branch not in heads:
            raise UserError(
                f"{repo_id} has no branch {branch} (branches: {', '.join(heads)}): create it with `hf repos branch "
                f"create {repo_id} {branch}`."
            )
        return Target(repo_id, branch, heads[branch], bool(info.private))

    target = retry(find, repo_id)
    if target.head is None and branch != "main":
        raise UserError(f"There is no repository {repo_id}, so it has no branch {branch}: push to main first.")
    if target.head is not None and private and not target.private:
        raise UserError(
            f"{repo_id} exists and is public; --private applies to new repositories. Make it private with `hf repos "
            f"settings {repo_id} --private`."
        )
    return target


def create_repo(api: HfApi, repo_id: str, repo_type: str, private: bool) -> None:
    """Create a repository if it does not exist; a Space runs Gradio."""
    sdk = "gradio" if repo_type == "space" else None
    create = partial(api.create_repo, repo_id, private=private or None, repo_type=repo_type, space_sdk=sdk)
    retry(partial(create, exist_ok=True), repo_id)


def commit_folder(api: HfApi, folder: Path, repo_id: str, repo_type: str, branch: str, message: str) -> str:
    """Upload a folder to a branch in one commit that also deletes the files of an earlier release.

    Returns:
        The commit.
    """
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}

    def commit() -> str:
        published = api.list_repo_files(repo_id, repo_type=repo_type, revision=branch)
        old = sorted(filter(RELEASE_FILES.fullmatch, set(published) - files.keys()))
        added = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
        deleted = [CommitOperationDelete(path) for path in old]
        info = api.create_commit(
            repo_id, [*added, *deleted], commit_message=message, repo_type=repo_type, revision=branch
        )
        if old:
            print(f"deleted   files of an earlier release from {branch}: {', '.join(old)}")
        return info.oid

    return retry(commit, repo_id)


def retry(action: Callable[[], Result], repo_id: str) -> Result:
    """Return the result of `action`, repeated after transient errors of the network or the Hub.

    Raises:
        UserError: for permanent errors, and for transient ones after the last attempt.
    """
    for wait in (*WAITS, None):
        try:
            return action()
        except UserError:
            raise
        except (HTTPError, OSError, RuntimeError, ValueError) as error:
            cause = _cause(error)
            status = cause.response.status_code if isinstance(cause, HfHubHTTPError) else None
            if isinstance(cause, OSError) and cause.errno is not None and not isinstance(cause, ConnectionError):
                raise  # a local file
            transient = status in TRANSIENT or (status is None and not isinstance(cause, ValueError))
            if not transient or wait is None:
                raise UserError(_error_message(cause, status, repo_id)) from None
            print(f"note: {_short(cause, status)}; trying again in {wait} s", file=sys.stderr)
            time.sleep(wait)
    raise AssertionError("the last attempt returns or raises")


def _cause(error: BaseException) -> BaseException:
    """The error of the network or the Hub that another error was raised from."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, (HfHubHTTPError, HTTPError)):
            return cause
        cause = cause.__cause__ or cause.__context__
    return error


def _short(cause: BaseException, status: int | None) -> str:
    return f"no answer from the Hub ({first_line(cause)})" if status is None else f"the Hub answered {status}"


def _error_message(cause: BaseException, status: int | None, repo_id: str) -> str:
    if isinstance(cause, ValueError):
        return f"The Hub rejected the release: {' '.join(str(cause).split())}"
    if status is None or status in TRANSIENT:
        return f"The push to {repo_id} failed: {_short(cause, status)}. {RESUME}"
    message = " ".join(str(getattr(cause, "server_message", None) or first_line(cause)).split()).rstrip(".")
    messages = {
        401: REJECTED_TOKEN,
        402: f"The Hub requires a paid account for this push to {repo_id}: {message}.",
        403: f"Your token may not write to {repo_id}: {message}. Choose a repository of your own, or another token.",
        412: f"{repo_id} was changed during the push. {RESUME}",
    }
    return messages.get(status, f"The Hub rejected the push to {repo_id} ({status}): {message}.")
