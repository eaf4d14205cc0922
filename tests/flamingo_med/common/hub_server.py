"""A small stand-in for the Hugging Face Hub on loopback, for the real client: repositories, LFS, revisions, tokens.

It answers what `huggingface_hub`, `transformers`, `datasets` and `evaluate` ask for, no more. All is in memory.
"""

import base64
import json
import re
import threading
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

LFS_SUFFIXES = (".safetensors", ".parquet", ".pt", ".pth")
REPOSITORY = r"(?P<repo>[\w.-]+/[\w.-]+)"
API = rf"/api/(?P<kind>model|dataset|space)s/{REPOSITORY}"
FILES = rf"/(?:(?P<kind>dataset|space)s/)?{REPOSITORY}"


class Problem(Exception):
    """An answer that is an error: its status, message and code, and more of its body, as the Hub gives them."""

    def __init__(self, status: int, message: str, code: str = "", **more: str):
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


@dataclass
class Repository:
    """Commits are path → sha256 of the content, by their id; branches and tags name one of them."""

    private: bool
    sdk: str | None = None
    commits: dict[str, dict[str, str]] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)
    refs: dict[str, str] = field(default_factory=dict)
    branches: list[str] = field(default_factory=lambda: ["main"])

    def commit(self, branch: str, files: dict[str, str], message: str) -> str:
        """Put a commit at the head of a branch; returns its id."""
        oid = sha1(repr((len(self.commits), sorted(files.items()))).encode()).hexdigest()
        self.commits[oid], self.refs[branch] = files, oid
        self.messages.append(message)
        return oid

    def resolve(self, revision: str) -> str:
        """The commit that a branch, tag or commit id names."""
        oid = self.refs.get(revision, revision)
        if oid not in self.commits:
            raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return oid


class HubServer(ThreadingHTTPServer):
    """`with HubServer({"token": "user"}) as hub:` answers at `hub.url` until the end of the block.

    Args:
        tokens: token → the user whose namespace it may write to.

    Attributes:
        repositories: (kind, id) → repository.
        blobs: sha256 → content.
        requests: (method, path, Range header) of all that was asked.
        drops: parts of "METHOD path"; the connection breaks amid the next body of one that holds it, once each.
        refusals: the same, of requests that are answered by 403.
    """

    daemon_threads = True

    def __init__(self, tokens: dict[str, str]):
        super().__init__(("127.0.0.1", 0), Handler)
        self.tokens = tokens
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str, str | None]] = []
        self.drops: list[str] = []
        self.refusals: list[str] = []
        self.lock = threading.Lock()

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *args) -> None:
        self.shutdown()
        self.server_close()

    def environment(self, home, token: str | None = None) -> dict[str, str]:
        """What a process needs in its environment to take this server for the Hub."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
        }

    def files(self, kind: str, repo: str, revision: str = "main") -> dict[str, bytes]:
        """Path → content at a revision."""
        repository = self.repositories[kind, repo]
        return {path: self.blobs[oid] for path, oid in repository.commits[repository.resolve(revision)].items()}

    def keep(self, content: bytes) -> str:
        """Store a content; returns its sha256."""
        oid = sha256(content).hexdigest()
        self.blobs[oid] = content
        return oid


class Handler(BaseHTTPRequestHandler):
    """One request; the first of `ROUTES` that matches it answers."""

    protocol_version = "HTTP/1.1"
    server: HubServer

    def answer(self) -> None:
        """Read the request, and send what its route returns: a body, or a body and headers."""
        path = unquote(urlsplit(self.path).path)
        name = f"{self.command} {path}"
        with self.server.lock:
            self.server.requests.append((self.command, path, self.headers.get("Range")))
            dropped = self.command != "HEAD" and take(self.server.drops, name)
            refused = take(self.server.refusals, name)
        length = int(self.headers.get("Content-Length", 0))
        if dropped and length:
            self.rfile.read(length // 2)
            self.close_connection = True
            return
        self.body = self.rfile.read(length)
        self.headers_out: dict[str, str] = {}
        try:
            if refused:
                raise Problem(403, "you may not do this")
            status, body = 200, self.route(path)
        except Problem as problem:
            status, body = problem.status, {"error": problem.message, **problem.more}
            self.headers_out |= {"X-Error-Message": problem.message}
            self.headers_out |= {"X-Error-Code": problem.code} if problem.code else {}
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if status == 200 and wanted:
            first, last = int(wanted[1]), int(wanted[2] or len(content) - 1)
            self.headers_out["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[first : last + 1]
        self.send_response(status)
        for header, value in {**self.headers_out, "Content-Length": len(content)}.items():
            self.send_header(header, str(value))
        self.end_headers()
        if dropped:
            content, self.close_connection = content[: len(content) // 2], True
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, *args) -> None:
        """Nothing: `requests` of the server holds all."""

    def route(self, path: str) -> dict | list | bytes:
        for method, pattern, answer in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method.split():
                groups = match.groupdict()
                if "repo" in groups:
                    groups["kind"] = groups["kind"] or "model"
                with self.server.lock:
                    return answer(self, **groups)
        raise Problem(404, f"{path} is not of this stand-in")

    def user(self) -> str | None:
        """The user whose token came with the request."""
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token and token not in self.server.tokens:
            raise Problem(401, "Invalid credentials in Authorization header")
        return self.server.tokens.get(token)

    def find(self, kind: str, repo: str, write: bool = False) -> Repository:
        """A repository that the user may see, or write to."""
        user, owner = self.user(), repo.split("/")[0]
        repository = self.server.repositories.get((kind, repo))
        if repository is None or (repository.private and user != owner):
            raise Problem(404 if user else 401, "Repository not found", "RepoNotFound")
        if write and user != owner:
            raise Problem(403 if user else 401, "no right to write")
        return repository

    def entry(self, path: str, oid: str) -> dict:
        """A file as listings show it."""
        content = self.server.blobs[oid]
        if path.endswith(LFS_SUFFIXES):
            lfs = {"oid": oid, "size": len(content), "pointerSize": 130}
            return {"type": "file", "path": path, "size": len(content), "oid": oid[:40], "lfs": lfs}
        return {"type": "file", "path": path, "size": len(content), "oid": git_oid(content)}

    def who(self) -> dict:
        user = self.user()
        if user is None:
            raise Problem(401, "Invalid username or password.")
        return {"type": "user", "name": user, "orgs": []}

    def create(self) -> dict:
        wanted = json.loads(self.body)
        user, kind = self.user(), wanted.get("type") or "model"
        owner = wanted.get("organization") or user
        if user is None:
            raise Problem(401, "Invalid username or password.")
        if owner != user:
            raise Problem(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}.")
        repo = f"{owner}/{wanted['name']}"
        url = f"{self.server.url}/{'' if kind == 'model' else kind + 's/'}{repo}"
        if (kind, repo) in self.server.repositories:
            raise Problem(409, "You already created this repo", url=url)
        private = wanted.get("private") or wanted.get("visibility") == "private"
        repository = self.server.repositories[kind, repo] = Repository(bool(private), wanted.get("sdk"))
        repository.commit(
            "main", {".gitattributes": self.server.keep(b"*.safetensors filter=lfs\n")}, "initial commit"
        )
        return {"url": url, "id": repo}

    def validate_yaml(self) -> dict:
        return {"errors": [], "warnings": []}

    def info(self, kind: str, repo: str, revision: str | None = None) -> dict:
        repository = self.find(kind, repo)
        sha = repository.resolve(revision or "main")
        siblings = [{"rfilename": path} for path in sorted(repository.commits[sha])]
        facts = {"private": repository.private, "siblings": siblings, "lastModified": "2024-01-01T00:00:00.000Z"}
        return {"id": repo, "sha": sha, "tags": [], "author": repo.split("/")[0], **facts}

    def references(self, kind: str, repo: str) -> dict:
        repository = self.find(kind, repo)
        found = {"branches": [], "tags": [], "converts": []}
        for name, oid in repository.refs.items():
            place = "branches" if name in repository.branches else "tags"
            found[place].append({"name": name, "ref": f"refs/{place}/{name}", "targetCommit": oid})
        return found

    def branch(self, kind: str, repo: str, name: str) -> dict:
        repository = self.find(kind, repo, write=True)
        if name in repository.refs:
            raise Problem(409, "Reference already exists")
        repository.refs[name] = repository.resolve(json.loads(self.body or b"{}").get("startingPoint", "main"))
        repository.branches.append(name)
        return {}

    def tag(self, kind: str, repo: str, revision: str) -> dict:
        repository = self.find(kind, repo, write=True)
        repository.refs[json.loads(self.body)["tag"]] = repository.resolve(revision)
        return {}

    def tree(self, kind: str, repo: str, revision: str, folder: str | None) -> list:
        repository = self.find(kind, repo)
        files = repository.commits[repository.resolve(revision)]
        start = f"{folder}/" if folder else ""
        command = {path: oid for path, oid in files.items() if path.startswith(start)}
        if not command:
            raise Problem(404, f"{folder} does not exist", "EntryNotFound")
        folders = {start + path[len(start) :].partition("/")[0] for path in command if "/" in path[len(start) :]}
        recursive = parse_qs(urlsplit(self.path).query).get("recursive", ["false"])[0].lower() in ("true", "1")
        shown = [path for path in command if recursive or "/" not in path[len(start) :]]
        listed = [{"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in sorted(folders)]
        return listed + [self.entry(path, files[path]) for path in sorted(shown)]

    def paths_info(self, kind: str, repo: str, revision: str) -> list:
        repository = self.find(kind, repo)
        files = repository.commits[repository.resolve(revision)]
        wanted = (
            json.loads(self.body)["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
        )
        return [self.entry(path, files[path]) for path in wanted if path in files]

    def resolve(self, kind: str, repo: str, revision: str, path: str) -> bytes:
        repository = self.find(kind, repo)
        self.headers_out["X-Repo-Commit"] = commit = repository.resolve(revision)
        if path not in repository.commits[commit]:
            raise Problem(404, "Entry not found", "EntryNotFound")
        oid = repository.commits[commit][path]
        entry, content = self.entry(path, oid), self.server.blobs[oid]
        self.headers_out |= {"ETag": f'"{entry["oid"]}"', "Accept-Ranges": "bytes"}
        if "lfs" in entry:
            self.headers_out |= {"X-Linked-ETag": f'"{oid}"', "X-Linked-Size": str(len(content))}
        return content

    def preupload(self, kind: str, repo: str, revision: str) -> dict:
        repository = self.find(kind, repo, write=True)
        files = repository.commits[repository.resolve(revision)]
        answers = []
        for path in (file["path"] for file in json.loads(self.body)["files"]):
            answer = {"path": path, "shouldIgnore": False, "uploadMode": "regular"}
            if path.endswith(LFS_SUFFIXES):
                answer |= {"uploadMode": "lfs", "oid": files.get(path)}
            elif path in files:
                answer["oid"] = git_oid(self.server.blobs[files[path]])
            answers.append(answer)
        return {"files": answers}

    def batch(self, kind: str, repo: str) -> dict:
        self.find(kind, repo, write=True)
        objects = [{"oid": wanted["oid"], "size": wanted["size"]} for wanted in json.loads(self.body)["objects"]]
        for wanted in objects:
            if wanted["oid"] not in self.server.blobs:
                wanted["actions"] = {"upload": {"href": f"{self.server.url}/lfs/{wanted['oid']}"}}
        return {"transfer": "basic", "objects": objects}

    def put(self, oid: str) -> dict:
        if sha256(self.body).hexdigest() != oid:
            raise Problem(400, "the content is another")
        self.server.keep(self.body)
        return {}

    def commit(self, kind: str, repo: str, revision: str) -> dict:
        repository = self.find(kind, repo, write=True)
        if revision not in repository.branches:
            raise Problem(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        files, message = dict(repository.commits[repository.refs[revision]]), ""
        for line in self.body.splitlines():
            key, value = (json.loads(line)[name] for name in ("key", "value"))
            if key == "header":
                message = value["summary"]
            elif key == "file":
                files[value["path"]] = self.server.keep(base64.b64decode(value["content"]))
            elif key == "lfsFile" and value["oid"] in self.server.blobs:
                files[value["path"]] = value["oid"]
            elif key == "deletedFile":
                del files[value["path"]]
            else:
                raise Problem(400, f"{key} {value.get('path')} cannot be committed")
        oid = repository.commit(revision, files, message)
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.server.url}/{repo}/commit/{oid}"}


def take(parts: list[str], name: str) -> bool:
    """Whether the name holds one of the parts, which is used up by that."""
    found = next((part for part in parts if part in name), None)
    if found is not None:
        parts.remove(found)
    return found is not None


def git_oid(content: bytes) -> str:
    """What git names a file's content by."""
    return sha1(b"blob %d\0" % len(content) + content).hexdigest()


ROUTES = [
    ("GET", r"/api/whoami-v2", Handler.who),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", r"/api/validate-yaml", Handler.validate_yaml),
    ("GET", API, Handler.info),
    ("GET", API + r"/revision/(?P<revision>.+)", Handler.info),
    ("GET", API + r"/refs", Handler.references),
    ("POST", API + r"/branch/(?P<name>.+)", Handler.branch),
    ("POST", API + r"/tag/(?P<revision>.+)", Handler.tag),
    ("GET", API + r"/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?", Handler.tree),
    ("POST", API + r"/paths-info/(?P<revision>.+)", Handler.paths_info),
    ("POST", API + r"/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", API + r"/commit/(?P<revision>.+)", Handler.commit),
    ("POST", FILES + r"\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.put),
    ("GET HEAD", FILES + r"/resolve/(?P<revision>[^/]+)/(?P<path>.+)", Handler.resolve),
]
