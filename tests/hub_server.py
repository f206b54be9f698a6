"""A Hub on 127.0.0.1: the part of huggingface.co's API that `huggingface_hub` needs to create, write and read repos.

    with LocalHub() as hub:
        hub.users["hf_ada"] = User("ada")
        subprocess.run([...], env={**os.environ, "HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_ada", **CLIENT})

A repository is a list of commits, each with all of its files. Errors have the Hub's status codes and `X-Error-Code`,
and failures can be injected: `hub.fail("PUT", "/lfs/", "drop")`. Large files are uploaded by Git LFS (batch and PUT);
Xet is not supported.
"""

import base64
import hashlib
import io
import json
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import yaml


# Environment variables of a client, in addition to `HF_ENDPOINT`.
CLIENT = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
LFS_ENDINGS = (".safetensors", ".gguf", ".onnx", ".bin", ".pt", ".pth", ".png")
PREFIXES = {"models": "", "datasets": "datasets/", "spaces": "spaces/"}
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


@dataclass
class User:
    name: str
    role: str = "write"
    orgs: tuple[str, ...] = ()

    def writes_to(self, namespace: str) -> bool:
        return self.role == "write" and namespace in (self.name, *self.orgs)


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        """The object id of git, or for a large file the SHA-256 of its content."""
        return sha256(self.data) if self.lfs else hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Commit:
    sha: str
    title: str
    parent: str | None
    files: dict[str, Blob]


@dataclass
class Repo:
    id: str
    private: bool = False
    sdk: str | None = None
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, branch: str, title: str, files: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        sha = hashlib.sha1(f"{self.id} {branch} {title} {parent} {len(self.commits)}".encode()).hexdigest()
        self.commits[sha] = Commit(sha, title, parent, files)
        self.branches[branch] = sha
        return self.commits[sha]

    def at(self, revision: str) -> Commit:
        sha = self.branches.get(revision, revision)
        if sha not in self.commits:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[sha]

    def history(self, revision: str = "main") -> list[Commit]:
        """The commits from the latest to the first."""
        found, sha = [], self.at(revision).sha
        while sha is not None:
            found.append(self.commits[sha])
            sha = self.commits[sha].parent
        return found

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return {path: blob.data for path, blob in self.at(revision).files.items()}


class Refused(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, **more):
        super().__init__(message)
        self.status, self.code, self.content = status, code, {"error": message, **more}


class Dropped(Exception):
    """The connection ends without a response."""


@dataclass
class Fault:
    method: str
    path: str
    kind: int | str | Callable[[], bool]
    times: int
    after: int


class LocalHub:
    """The server, with its users, repositories and requests.

    `requests` lists `(method, path, status, token)` of each request. The content of `damaged`, by path, is sent
    instead of the committed file.
    """

    def __init__(self):
        self.users: dict[str, User] = {}
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, int | str, str | None]] = []
        self.faults: list[Fault] = []
        self.damaged: dict[str, bytes] = {}
        self.lock = threading.Lock()

    def fail(
        self, method: str, path: str, kind: int | str | Callable[[], bool], times: int = 1, after: int = 0
    ) -> None:
        """Fail the next requests whose path contains the regular expression `path`, or those `after` the next few.

        `kind` is a status, "drop" (the connection ends in the middle of the request's body, which is discarded),
        "lost" (the request is executed, and the connection ends before the response) or a function (the request is
        executed when it returns true, or after a minute).
        """
        self.faults.append(Fault(method, path, kind, times, after))

    def model(self, repo_id: str) -> Repo:
        return self.repos["models", repo_id]

    def asked(self, method: str, path: str) -> list[tuple]:
        return [request for request in self.requests if request[0] == method and re.search(path, request[1])]

    def __enter__(self) -> "LocalHub":
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self.server.shutdown()
        self.server.server_close()

    # Permissions

    def readable(self, kind: str, repo_id: str, user: User | None) -> Repo:
        repo = self.repos.get((kind, repo_id))
        if repo is None or (repo.private and (user is None or repo_id.split("/")[0] not in (user.name, *user.orgs))):
            raise Refused(401 if user is None else 404, "Repository not found", "RepoNotFound")
        return repo

    def writable(self, kind: str, repo_id: str, user: User | None) -> Repo:
        repo = self.readable(kind, repo_id, user)
        if user is None or not user.writes_to(repo_id.split("/")[0]):
            raise Refused(403, "Forbidden: you must use a write token to upload to a repository.")
        return repo

    # Routes: each takes the request and the named parts of its path, and returns the JSON of the response

    def whoami(self, request) -> dict:
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        token = {"displayName": "test", "role": request.user.role}
        orgs = [{"name": name, "type": "org"} for name in request.user.orgs]
        return {"type": "user", "name": request.user.name, "orgs": orgs,
                "auth": {"type": "access_token", "accessToken": token}}  # fmt: skip

    def create(self, request) -> dict:
        asked = request.json()
        if request.user is None:
            raise Refused(401, "Invalid username or password.")
        namespace = asked["organization"] or request.user.name
        kind, repo_id = f"{asked.get('type', 'model')}s", f"{namespace}/{asked['name']}"
        if not request.user.writes_to(namespace):
            raise Refused(403, f'You don\'t have the rights to create a model under the namespace "{namespace}"')
        url = f"{self.url}/{PREFIXES[kind]}{repo_id}"
        if (kind, repo_id) in self.repos:
            raise Refused(409, "You already created this repo", url=url)
        repo = Repo(repo_id, asked.get("visibility") == "private", asked.get("sdk"))
        attributes = "".join(f"*{ending} filter=lfs diff=lfs merge=lfs -text\n" for ending in LFS_ENDINGS)
        repo.commit("main", "initial commit", {".gitattributes": Blob(attributes.encode(), False)})
        self.repos[kind, repo_id] = repo
        return {"url": url, "name": repo_id, "id": repo_id}

    def validate_yaml(self, request) -> dict:
        asked = request.json()
        errors = card_errors(asked["content"], asked["repoType"])
        if errors:
            raise Refused(400, "Invalid metadata", errors=[{"message": error} for error in errors], warnings=[])
        return {"errors": [], "warnings": []}

    def info(self, request, kind, repo, revision="main") -> dict:
        found = self.readable(kind, repo, request.user)
        commit = found.at(revision)
        siblings = [{"rfilename": path} for path in sorted(commit.files)]
        return {"_id": "0", "id": repo, "modelId": repo, "author": repo.split("/")[0], "sha": commit.sha, "tags": [],
                "private": found.private, "siblings": siblings, "downloads": 0, "likes": 0}  # fmt: skip

    def may_write(self, request, kind, repo) -> dict:
        self.writable(kind, repo, request.user)
        return {}

    def refs(self, request, kind, repo) -> dict:
        branches = self.readable(kind, repo, request.user).branches
        listed = [{"name": name, "ref": f"refs/heads/{name}", "targetCommit": sha} for name, sha in branches.items()]
        return {"branches": listed, "converts": [], "tags": []}

    def history(self, request, kind, repo, revision) -> list:
        commits = self.readable(kind, repo, request.user).history(revision)
        date = "2026-01-01T00:00:00.000Z"
        return [{"id": c.sha, "title": c.title, "message": "", "authors": [], "date": date} for c in commits]

    def tree(self, request, kind, repo, revision, folder="") -> list:
        files = self.readable(kind, repo, request.user).at(revision).files
        inside = f"{folder}/" if folder else ""
        entries = {}
        for path, blob in sorted(files.items()):
            if path.startswith(inside):
                head, *rest = path[len(inside) :].split("/")
                if rest:
                    entries.setdefault(
                        inside + head, {"type": "directory", "path": inside + head, "oid": "0", "size": 0}
                    )
                if not rest or request.query.get("recursive", ["false"])[0].lower() == "true":
                    entries[path] = file_entry(path, blob)
        if folder and not entries:
            raise Refused(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return list(entries.values())

    def paths_info(self, request, kind, repo, revision) -> list:
        files = self.readable(kind, repo, request.user).at(revision).files
        asked = parse_qs(request.body.decode()).get("paths", [])
        return [file_entry(path, files[path]) for path in asked if path in files]

    def preupload(self, request, kind, repo, revision) -> dict:
        there = self.writable(kind, repo, request.user).at(revision).files
        answers = []
        for file in request.json()["files"]:
            path = file["path"]
            large = (
                path.endswith(LFS_ENDINGS) or b"\0" in base64.b64decode(file["sample"]) or file["size"] > 10_000_000
            )
            answers.append({"path": path, "uploadMode": "lfs" if large else "regular", "shouldIgnore": False,
                            "oid": there[path].oid if path in there else None})  # fmt: skip
        return {"files": answers}

    def lfs_batch(self, request, repo, prefix="") -> dict:
        self.writable(prefix.rstrip("/") or "models", repo, request.user)
        answers = []
        for item in request.json()["objects"]:
            answer = {"oid": item["oid"], "size": item["size"]}
            if item["oid"] not in self.objects:
                answer["actions"] = {"upload": {"href": f"{self.url}/lfs/{item['oid']}", "header": {}}}
            answers.append(answer)
        return {"transfer": "basic", "objects": answers}

    def lfs_put(self, request, oid) -> dict:
        if sha256(request.body) != oid:
            raise Refused(400, "The content does not have this oid")
        self.objects[oid] = request.body
        return {}

    def push(self, request, kind, repo, revision) -> dict:
        found = self.writable(kind, repo, request.user)
        if revision not in found.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files, header = dict(found.at(revision).files), {}
        for line in request.body.splitlines():
            item = json.loads(line)
            key, value = item["key"], item["value"]
            if key == "header":
                header = value
            elif key == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif key == "lfsFile":
                if value["oid"] not in self.objects:
                    raise Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = Blob(self.objects[value["oid"]], True)
            elif key == "deletedFile":
                if value["path"] not in files:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: blob for path, blob in files.items() if not path.startswith(value["path"])}
        if header.get("parentCommit", found.branches[revision]) != found.branches[revision]:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        commit = found.commit(revision, header["summary"], files)
        url = f"{self.url}/{PREFIXES[kind]}{repo}/commit/{commit.sha}"
        return {"success": True, "commitOid": commit.sha, "commitUrl": url, "hookOutput": ""}

    def branch(self, request, kind, repo, branch) -> dict:
        found = self.writable(kind, repo, request.user)
        if branch in found.branches:
            raise Refused(409, f"Reference already exists: refs/heads/{branch}")
        found.branches[branch] = found.at(request.json().get("startingPoint", "main")).sha
        return {}

    def resolve(self, request, repo, revision, path, prefix="") -> bytes:
        found = self.readable(prefix.rstrip("/") or "models", repo, request.user)
        commit = found.at(revision)
        request.headers_out["X-Repo-Commit"] = commit.sha
        if path not in commit.files:
            raise Refused(404, f"{path} does not exist on {revision}", "EntryNotFound")
        blob = commit.files[path]
        request.headers_out["ETag"] = f'"{blob.oid}"'
        request.headers_out["Accept-Ranges"] = "bytes"
        return self.damaged.get(path, blob.data)


REPO = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
FILES = rf"/(?P<prefix>datasets/|spaces/)?{REPO}"
REVISION, PATH = r"(?P<revision>[^/]+)", r"(?P<path>.+)"
ROUTES = [
    ("GET", "/api/whoami-v2", LocalHub.whoami),
    ("POST", "/api/repos/create", LocalHub.create),
    ("POST", "/api/validate-yaml", LocalHub.validate_yaml),
    ("GET", API, LocalHub.info),
    ("GET", f"{API}/revision/{REVISION}", LocalHub.info),
    ("GET", f"{API}/auth-check/write", LocalHub.may_write),
    ("GET", f"{API}/refs", LocalHub.refs),
    ("GET", f"{API}/commits/{REVISION}", LocalHub.history),
    ("GET", f"{API}/tree/{REVISION}(?:/(?P<folder>.+))?", LocalHub.tree),
    ("POST", f"{API}/paths-info/{REVISION}", LocalHub.paths_info),
    ("POST", f"{API}/preupload/{REVISION}", LocalHub.preupload),
    ("POST", f"{API}/commit/{REVISION}", LocalHub.push),
    ("POST", f"{API}/branch/(?P<branch>[^/]+)", LocalHub.branch),
    ("POST", rf"{FILES}\.git/info/lfs/objects/batch", LocalHub.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", LocalHub.lfs_put),
    ("HEAD", f"{FILES}/resolve/{REVISION}/{PATH}", LocalHub.resolve),
    ("GET", f"{FILES}/resolve/{REVISION}/{PATH}", LocalHub.resolve),
]


class Handler(BaseHTTPRequestHandler):
    """One connection: reads a request, finds its route and responds, or fails if a failure was injected."""

    protocol_version = "HTTP/1.1"
    hub: LocalHub

    def handle_any(self) -> None:
        url = urlsplit(self.path)
        self.query, self.headers_out, self.body = parse_qs(url.query), {}, b""
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        fault = self._fault()
        try:
            self._read_body(stop_half_way=fault == "drop")
            if isinstance(fault, int):
                raise Refused(fault, "told to fail")
            if callable(fault):
                give_up = time.monotonic() + 60
                while not fault() and time.monotonic() < give_up:
                    time.sleep(0.01)
            self.user = self.hub.users.get(token)
            if token is not None and self.user is None:
                self.headers_out["X-Error-Message"] = "Invalid credentials in Authorization header"
                raise Refused(401, "Invalid username or password.")
            with self.hub.lock:
                answer = self._route(url.path)
            if fault == "lost":
                raise Dropped
            status = 200
        except Refused as error:
            status, answer = error.status, error.content
            if error.code:
                self.headers_out["X-Error-Code"] = error.code
            self.headers_out.setdefault("X-Error-Message", str(error))
            if status == 429:
                self.headers_out["Retry-After"] = "0"
        except Dropped:
            self.hub.requests.append((self.command, url.path, "dropped", token))
            self.close_connection = True
            return
        self.hub.requests.append((self.command, url.path, status, token))
        self._answer(status, answer)

    do_GET = do_HEAD = do_POST = do_PUT = handle_any

    def _fault(self) -> int | str | Callable[[], bool] | None:
        with self.hub.lock:
            for fault in self.hub.faults:
                if fault.times and fault.method == self.command and re.search(fault.path, self.path):
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.times -= 1
                    return fault.kind
        return None

    def _read_body(self, stop_half_way: bool) -> None:
        if self.headers.get("Transfer-Encoding") == "chunked":
            pieces = io.BytesIO()
            while size := int(self.rfile.readline(), 16):
                pieces.write(self.rfile.read(size))
                self.rfile.readline()
                if stop_half_way:
                    raise Dropped
            self.rfile.readline()
            self.body = pieces.getvalue()
        else:
            length = int(self.headers.get("Content-Length") or 0)
            self.body = self.rfile.read(length // 2 if stop_half_way else length)
        if stop_half_way:
            raise Dropped

    def _route(self, path: str):
        for method, pattern, function in ROUTES:
            if method == self.command and (match := re.fullmatch(pattern, path)):
                parts = {name: unquote(value) for name, value in match.groupdict().items() if value is not None}
                return function(self.hub, self, **parts)
        raise Refused(404, f"No route for {self.command} {path}")

    def json(self) -> dict:
        return json.loads(self.body or b"{}")

    def _answer(self, status: int, answer) -> None:
        content = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if wanted and status == 200:
            status, first, last = 206, int(wanted[1]), min(int(wanted[2] or len(content) - 1), len(content) - 1)
            self.headers_out["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content = content[first : last + 1]
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header(
            "Content-Type", "application/octet-stream" if isinstance(answer, bytes) else "application/json"
        )
        for name, value in self.headers_out.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_) -> None:
        pass


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def file_entry(path: str, blob: Blob) -> dict:
    entry = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
    if blob.lfs:
        entry["lfs"] = {"oid": blob.oid, "size": len(blob.data), "pointerSize": 134}
    return entry


def card_errors(content: str, kind: str) -> list[str]:
    """The errors that the Hub would report for the metadata of a README, according to its documentation."""
    match = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else {}
    except yaml.YAMLError as error:
        return [f"not YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata is not a mapping"]
    errors = [f'"{name}" must not be empty' for name, value in data.items() if value in (None, "", [], {})]
    texts = ("library_name", "pipeline_tag", "license", "title", "app_file")
    errors += [f'"{name}" must be a string' for name in texts if not isinstance(data.get(name, ""), str)]
    for name in ("tags", "datasets", "language", "metrics", "models"):
        values = data.get(name, [])
        if not all(isinstance(value, str) for value in ([values] if isinstance(values, str) else values)):
            errors.append(f'"{name}" must be strings')
    errors += [f'"datasets" holds no id: {name}' for name in data.get("datasets", [])
               if not re.fullmatch(r"[\w.-]+/[\w.-]+", name)]  # fmt: skip
    if kind == "space":
        errors += [f'"{name}" must be a colour' for name in ("colorFrom", "colorTo")
                   if name in data and data[name] not in COLORS]  # fmt: skip
        if data.get("sdk") not in ("gradio", "docker", "static"):
            errors.append('"sdk" must be gradio, docker or static')
    for model in data.get("model-index", []):
        if not isinstance(model.get("name"), str):
            errors.append('"model-index[0].name" must be a string')
        for result in model.get("results", []):
            for path in ("task.type", "dataset.type", "dataset.name"):
                outer, inner = path.split(".")
                if not isinstance(result.get(outer, {}).get(inner), str):
                    errors.append(f'"model-index.results.{path}" is required')
            if not result.get("metrics"):
                errors.append('"model-index.results.metrics" is required')
            errors += ["a metric needs type and value" for metric in result.get("metrics", [])
                       if not isinstance(metric.get("type"), str) or metric.get("value") is None]  # fmt: skip
    return errors


if __name__ == "__main__":  # to try a push by hand
    with LocalHub() as local:
        local.users["hf_test"] = User("ada")
        print(f"HF_ENDPOINT={local.url} HF_TOKEN=hf_test HF_HUB_DISABLE_XET=1")
        while True:
            time.sleep(3600)
