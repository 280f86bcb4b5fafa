"""A small hub on this machine, which speaks to both clients: Hugging Face's and ModelScope's."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

Files = dict[str, bytes]
LARGE = (".safetensors", ".bin")


def commit(branch: str) -> str:
    return hashlib.sha1(branch.encode()).hexdigest()


def entry(path: str, data: bytes) -> dict[str, object]:
    """A file in Hugging Face's listing of a tree."""
    listed: dict[str, object] = {
        "type": "file",
        "path": path,
        "size": len(data),
        "oid": digest(path, data),
    }
    if path.endswith(LARGE):
        listed["lfs"] = {"oid": digest(path, data), "size": len(data), "pointerSize": 134}
    return listed


def digest(path: str, data: bytes) -> str:
    return (hashlib.sha256 if path.endswith(LARGE) else hashlib.sha1)(data).hexdigest()


class Hub:
    """Repositories by name and revision; `asked` holds the path of every request."""

    def __init__(self) -> None:
        self.repositories: dict[tuple[str, str], Files] = {}
        self.asked: list[str] = []
        self.url = ""

    def publish(self, name: str, directory: Path, revision: str = "main") -> None:
        """Offer the files of a directory; ModelScope's first branch is called master."""
        paths = (path for path in directory.rglob("*") if path.is_file())
        files = {path.relative_to(directory).as_posix(): path.read_bytes() for path in paths}
        self.repositories[name, revision] = files

    def files(self, name: str, revision: str) -> Files | None:
        """Of a branch, or of the commit that it is at."""
        wanted = "main" if revision == "master" else revision
        branches = (branch for published, branch in self.repositories if published == name)
        found = next((branch for branch in branches if wanted in (branch, commit(branch))), "")
        return self.repositories.get((name, found))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: ClassVar[Hub]

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self.hub.asked.append(self.path)
        url = urlsplit(unquote(self.path))
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        for pattern, answer in ROUTES.items():
            if match := re.fullmatch(pattern, url.path):
                answer(self, *match.groups(), **query)
                return
        self._answer(404, b"{}")

    def do_HEAD(self) -> None:
        self.do_GET()

    def revision(self, name: str, revision: str, **_: str) -> None:
        """Hugging Face's facts of a repository."""
        files = self.hub.files(name, revision)
        if files is None:
            known = any(name == published for published, _ in self.hub.repositories)
            code = "RevisionNotFound" if known else "RepoNotFound"
            self._answer(404, b"{}", {"X-Error-Code": code})
            return
        sha = commit(revision) if (name, revision) in self.hub.repositories else revision
        siblings = [{"rfilename": path} for path in files]
        body = {"id": name, "sha": sha, "siblings": siblings, "tags": []}
        self._answer(200, json.dumps(body).encode())

    def tree(self, name: str, revision: str, **_: str) -> None:
        files = self.hub.files(name, revision) or {}
        self._answer(200, json.dumps([entry(*file) for file in files.items()]).encode())

    def listing(self, name: str, Revision: str = "master", **_: str) -> None:  # noqa: N803
        """ModelScope's files of a repository."""
        files = self.hub.files(name, Revision)
        if files is None:
            body = {"Code": 10010205001, "Message": "not found", "Success": False}
            self._answer(404, json.dumps(body).encode())
            return
        entries = [
            {"Path": path, "Name": path.rpartition("/")[2], "Type": "blob", "Size": len(data),
             "Sha256": hashlib.sha256(data).hexdigest()}
            for path, data in files.items()
        ]  # fmt: skip
        body = {"Code": 200, "Success": True, "Data": {"Files": entries}}
        self._answer(200, json.dumps(body).encode())

    def file(self, name: str, revision: str, path: str, **_: str) -> None:
        data = (self.hub.files(name, revision) or {}).get(path)
        if data is None:
            self._answer(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            return
        headers = {"ETag": f'"{digest(path, data)}"', "X-Repo-Commit": revision}
        self._answer(200, data, headers)

    def modelscope_file(self, name: str, Revision: str, FilePath: str, **_: str) -> None:  # noqa: N803
        self.file(name, Revision, FilePath)

    def _answer(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


ROUTES: dict[str, Callable[..., None]] = {
    r"/api/models/([^/]+/[^/]+)/revision/(.+)": Handler.revision,
    r"/api/models/([^/]+/[^/]+)/tree/(.+)": Handler.tree,
    r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)": Handler.file,
    r"/api/v1/models/([^/]+/[^/]+)/repo/files": Handler.listing,
    r"/api/v1/models/([^/]+/[^/]+)/repo": Handler.modelscope_file,
}


@contextmanager
def serve_hub() -> Iterator[Hub]:
    hub = Hub()
    handler = type("HubHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
