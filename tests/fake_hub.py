"""A hub for models on this machine: as much of its interface as an upload and a download need."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0" * 40


class FakeHub(ThreadingHTTPServer):
    """Keeps the files of all models by `OWNER/NAME/FILE`; `requests` has the paths that were asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """A hub that answers until the end of the block."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeHub

    def do_HEAD(self) -> None:
        self._send_file(with_content=False)

    def do_GET(self) -> None:
        if self.path.startswith("/api/"):
            name = self.path.removeprefix("/api/models/").split("/")
            self._send_json({"id": "/".join(name[:2]), "sha": COMMIT, "siblings": []})
        else:
            self._send_file(with_content=True)

    def do_POST(self) -> None:
        self.server.requests.append(self.path)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        words = self.path.removeprefix("/api/models/").split("/")
        if self.path == "/api/repos/create":
            asked = json.loads(body)
            self._send_json({"url": f"{self.server.address}/{asked['organization']}/{asked['name']}"})
        elif words[2:3] == ["preupload"]:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            self._send_json({"files": files})
        elif words[2:3] == ["commit"]:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    content = base64.b64decode(line["value"]["content"])
                    self.server.files["/".join([*words[:2], line["value"]["path"]])] = content
            url = f"{self.server.address}/{words[0]}/{words[1]}/commit/{COMMIT}"
            self._send_json({"commitUrl": url, "commitOid": COMMIT, "hookOutput": "", "success": True})
        else:
            self._send_json({"valid": True})

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def _send_file(self, *, with_content: bool) -> None:
        self.server.requests.append(self.path)
        owner, name, _, _, file = self.path.strip("/").split("/", 4)
        content = self.server.files.get(f"{owner}/{name}/{file}")
        self.send_response(404 if content is None else 200)
        if content is None:
            known = any(path.startswith(f"{owner}/{name}/") for path in self.server.files)
            self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{hashlib.sha1(content or b"").hexdigest()}"')
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()
        if with_content and content:
            self.wfile.write(content)

    def _send_json(self, answer: dict[str, Any]) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
