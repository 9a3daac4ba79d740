"""A small Hub on the loopback: enough of its protocol for the real client, with faults on demand.

It serves `HEAD` and `GET /{org}/{name}/resolve/{revision}/{file}`, takes what a push sends (a repository, a branch,
large files by LFS, a commit), and logs every request. It speaks HTTP/1.0, so a connection never outlives its
request and a closed server is really gone.
"""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote


class Request(NamedTuple):
    method: str
    path: str
    range: str | None


@dataclass
class Fault:
    """What goes wrong with one file."""

    cut_at: int | None = None  # drop the connection once this many bytes of the file were sent ...
    cuts: int = 1  # ... this many times
    body: bytes | None = None  # sent in place of the file
    length: int | None = None  # declared in place of the real length
    status: int | None = None
    etag: str | None = None  # sent in place of the real one ...
    honest: int = 0  # ... after so many answers
    headers: dict[str, str] = field(default_factory=dict)  # sent with the file


@dataclass
class Repo:
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        text = repr((sorted(files.items()), len(self.commits))).encode()
        commit = hashlib.sha1(text).hexdigest()
        self.commits[commit] = dict(files)
        self.refs[branch] = commit
        return commit


class HubServer:
    """Use as a context manager; `repos`, and their faults, may change while it runs."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.log: list[Request] = []
        self.token: str | None = None  # what who writes must show; None lets nobody write
        self.large: dict[str, bytes] = {}  # by sha256, before and after they are in a commit
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                hub.answer(self)

            def do_GET(self) -> None:
                hub.answer(self)

            def do_POST(self) -> None:
                hub.take(self)

            def do_PUT(self) -> None:
                hub.take(self)

            def log_message(self, *args: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self) -> "HubServer":
        self.thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self.close()

    def close(self) -> None:
        if self.thread.is_alive():
            self.server.shutdown()
            self.thread.join()
            self.server.server_close()

    def requests(self, method: str | None = None) -> list[Request]:
        return [request for request in self.log if method in (None, request.method)]

    def answer(self, http: BaseHTTPRequestHandler) -> None:
        self.log.append(Request(http.command, http.path, http.headers.get("Range")))
        if http.path.startswith("/api/models/") and http.path.endswith("?expand=xetEnabled"):  # before 1.0
            return self.reply(http, {"id": "/".join(http.path.split("/")[3:5]), "xetEnabled": False})
        org, name, verb, revision, file = ([*http.path.lstrip("/").split("/", 4), *[""] * 5])[:5]
        repo = self.repos.get(f"{org}/{name}")
        if repo is None or verb != "resolve":
            return self.refuse(http, 404, "RepoNotFound")
        commit = repo.refs.get(revision, revision)
        files = repo.commits.get(commit)
        if files is None:
            return self.refuse(http, 404, "RevisionNotFound")
        if file not in files:
            return self.refuse(http, 404, "EntryNotFound", commit)
        fault = repo.faults.get(file, Fault())
        if fault.status is not None:
            return self.refuse(http, fault.status, None)

        body = files[file] if fault.body is None else fault.body
        start = (
            int(http.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in http.headers else 0
        )
        http.send_response(206 if start else 200)
        etag = hashlib.sha1(body).hexdigest()
        if fault.etag is not None:
            fault.honest -= 1
            etag = etag if fault.honest >= 0 else fault.etag
        http.send_header("ETag", f'"{etag}"')
        http.send_header("X-Repo-Commit", commit)
        http.send_header("Content-Length", str(len(body) - start if fault.length is None else fault.length))
        for name, value in fault.headers.items():
            http.send_header(name, value)
        if start:
            http.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        http.end_headers()
        if http.command == "GET":
            if fault.cut_at is not None and fault.cuts > 0:
                fault.cuts -= 1
                body = body[: fault.cut_at]
            http.wfile.write(body[start:])

    def take(self, http: BaseHTTPRequestHandler) -> None:
        """A request that writes."""
        self.log.append(Request(http.command, http.path, None))
        body = body_of(http)
        path = unquote(http.path)
        if http.command == "PUT":  # the address is secret enough, as with the real one
            self.large[path.rpartition("/")[2]] = body
            return self.reply(http, {})
        if self.token is None or http.headers.get("Authorization") != f"Bearer {self.token}":
            return self.refuse(http, 401, None)
        if path == "/api/validate-yaml":
            return self.reply(http, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(part for part in (asked.get("organization"), asked["name"]) if part)
            repo = self.repos.setdefault(name, Repo())
            repo.private = asked.get("visibility") == "private" or asked.get("private", False)
            if not repo.refs:
                repo.commit({".gitattributes": b""})
            return self.reply(http, {"url": f"{self.url}/{name}"})
        if path.endswith(".git/info/lfs/objects/batch"):
            return self.reply(http, {"transfer": "basic", "objects": [
                {**asked, "actions": {
                    "upload": {"href": f"{self.url}/large/{asked['oid']}"},
                    "verify": {"href": f"{self.url}/verify/{asked['oid']}"},
                }} for asked in json.loads(body)["objects"]
            ]})  # fmt: skip
        if path.startswith("/verify/"):
            found = self.large.get(path.removeprefix("/verify/"), b"")
            whole = len(found) == json.loads(body)["size"]
            return self.reply(http, {}) if whole else self.refuse(http, 422, None)
        _, _, org, name, verb, revision = path.lstrip("/").split("/", 5)
        repo = self.repos.get(f"{org}/{name}")  # type: ignore[assignment]  # None is refused at once
        if repo is None:
            return self.refuse(http, 404, "RepoNotFound")
        if verb == "branch":
            repo.refs.setdefault(revision, repo.refs["main"])
            return self.reply(http, {})
        if verb == "preupload":
            return self.reply(http, {"files": [
                {"path": f["path"], "uploadMode": "regular" if f["path"].endswith((".json", ".md")) else "lfs",
                 "shouldIgnore": False, "oid": None}
                for f in json.loads(body)["files"]
            ]})  # fmt: skip
        assert verb == "commit", verb
        files = dict(repo.commits[repo.refs[revision]])
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            if line["key"] == "lfsFile":
                files[value["path"]] = self.large[value["oid"]]
        commit = repo.commit(files, revision)
        return self.reply(
            http, {"commitOid": commit, "commitUrl": f"{self.url}/{org}/{name}/commit/{commit}"}
        )

    def reply(self, http: BaseHTTPRequestHandler, answer: dict) -> None:
        body = json.dumps(answer).encode()
        http.send_response(200)
        http.send_header("Content-Type", "application/json")
        http.send_header("Content-Length", str(len(body)))
        http.end_headers()
        http.wfile.write(body)

    @staticmethod
    def refuse(
        http: BaseHTTPRequestHandler, status: int, code: str | None, commit: str | None = None
    ) -> None:
        http.send_response(status)
        if code is not None:
            http.send_header("X-Error-Code", code)
        if commit is not None:
            http.send_header("X-Repo-Commit", commit)
        http.send_header("Content-Length", "0")
        http.end_headers()


def body_of(http: BaseHTTPRequestHandler) -> bytes:
    """What a request sends, whether or not it says its length first."""
    if "Content-Length" in http.headers:
        return http.rfile.read(int(http.headers["Content-Length"]))
    body = b""
    while size := int(http.rfile.readline(), 16):
        body += http.rfile.read(size)
        http.rfile.readline()
    http.rfile.readline()
    return body
