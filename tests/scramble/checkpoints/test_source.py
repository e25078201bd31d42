"""Hub ids: from the cache without a network, and from a hub that runs on this machine."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.models import with_tokenizer
from tests.training import swept

COMMIT = "c0ffee" * 6 + "c0ff"
# What a repository may hold besides.
PICKLES = ("pytorch_model.bin", "model.pt", "optimizer.pkl", "original/consolidated.00.pth")
COPIES = ("consolidated.safetensors", "onnx/model.safetensors", "original/params.json")
NEVER = {*PICKLES, *COPIES, "modeling_name.py", "sub/code.py", "figure.png", "model.gguf", "tf_model.h5"}


class Hub(ThreadingHTTPServer):
    """One repository, `org/name`, whose only revision is `v1`, as the hub's API shows it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.asked: list[str] = []
        self.breaks = ""

    @property
    def online(self) -> dict[str, str]:
        return {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": f"http://127.0.0.1:{self.server_port}"}

    @property
    def files(self) -> set[str]:
        """Names of the files that were asked for."""
        return {path.split(f"/resolve/{COMMIT}/")[1] for path in self.asked if "/resolve/" in path}


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_GET(self) -> None:
        path = self.path.split("?")[0]
        self.server.asked.append(path)
        if self.server.breaks and path.endswith(self.server.breaks):
            return  # the connection closes without an answer
        folder = self.server.folder
        if path == "/api/models/org/name/revision/v1":
            self.answer(json.dumps({"id": "org/name", "sha": COMMIT}).encode())
        elif path == f"/api/models/org/name/tree/{COMMIT}":
            files = [one for one in sorted(folder.rglob("*")) if one.is_file()]
            self.answer(json.dumps([self.entry(one) for one in files]).encode())
        elif path.startswith(f"/org/name/resolve/{COMMIT}/"):
            self.answer((folder / path.split(f"/{COMMIT}/")[1]).read_bytes())
        else:
            known = path.startswith("/api/models/org/name/")
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound" if known else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    do_HEAD = do_GET  # noqa: N815

    def entry(self, file: Path) -> dict[str, Any]:
        path = str(file.relative_to(self.server.folder))
        return {
            "type": "file",
            "path": path,
            "size": file.stat().st_size,
            "oid": hashlib.sha1(path.encode()).hexdigest(),
        }

    def answer(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(checkpoint: Path) -> Iterator[Hub]:
    with_tokenizer(checkpoint)
    for name in NEVER:
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_bytes(b"not to be read")
    with Hub(checkpoint) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def scramble(tmp_path: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """`scramble ARGS` in a process of its own, because huggingface_hub reads the environment once."""
    command = [sys.executable, "-c", "from scramble.cli.app import main; main()", *arguments]
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1"}
    (tmp_path / "work").mkdir(exist_ok=True)
    return subprocess.run(
        command,
        cwd=tmp_path / "work",
        env=os.environ | home | settings,
        capture_output=True,
        text=True,
        check=False,
    )


def cache(folder: Path, home: Path, revision: str) -> None:
    """A repository in huggingface_hub's cache: blobs, links to them, and the name of a commit."""
    repo = home / "hub" / "models--org--name"
    snapshot = repo / "snapshots" / COMMIT
    for made in (repo / "blobs", repo / "refs", snapshot):
        made.mkdir(parents=True)
    (repo / "refs" / revision).write_text(COMMIT)
    for number, path in enumerate(sorted(folder.iterdir())):
        shutil.copy(path, repo / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")


@pytest.mark.parametrize(
    ("model", "revision"),
    swept([("org/name@v1", "v1"), ("org/name", "main"), (f"org/name@{COMMIT}", "main")], kept=1),
)
def test_a_cached_model_needs_no_network(model: str, revision: str, checkpoint: Path, tmp_path: Path) -> None:
    cache(with_tokenizer(checkpoint), tmp_path / "home", revision)
    arguments = ("apply", model, "--layers", "all", "--no-verify", "--quiet", "--format", "json")
    done = scramble(tmp_path, *arguments, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stderr) == (0, "")
    target = tmp_path / "work" / "name-scrambled"
    assert not [path for path in target.rglob("*") if path.is_symlink()]
    assert (target / "tokenizer.json").read_bytes() == (checkpoint / "tokenizer.json").read_bytes()
    assert str(target) == json.loads(done.stdout)["meta"]["out"]


@pytest.mark.parametrize("model", ["org/name", "org/name@v2"])
def test_offline_and_not_cached_is_one_line(model: str, checkpoint: Path, tmp_path: Path) -> None:
    if "@" in model:
        cache(checkpoint, tmp_path / "home", "v1")
    done = scramble(tmp_path, "inspect", model, HF_HUB_OFFLINE="1")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert model in done.stderr
    assert "HF_HUB_OFFLINE is set and the cache does not hold it" in done.stderr


def test_a_download_asks_for_the_revision_and_for_no_pickle_or_code(hub: Hub, tmp_path: Path) -> None:
    ask = ("inspect", "org/name@v1", "--format", "json", "--quiet")
    done = scramble(tmp_path, *ask, **hub.online)
    assert (done.returncode, done.stderr) == (0, "")
    assert "/api/models/org/name/revision/v1" in hub.asked
    wanted = {str(path.relative_to(hub.folder)) for path in hub.folder.rglob("*") if path.is_file()} - NEVER
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= wanted == hub.files

    hub.asked.clear()
    again = scramble(tmp_path, *ask, **hub.online)
    assert (again.returncode, again.stdout, hub.files) == (0, done.stdout, set())
    offline = scramble(tmp_path, *ask, HF_HUB_OFFLINE="1")
    assert (offline.returncode, offline.stdout) == (0, done.stdout)


@pytest.mark.parametrize(
    ("model", "breaks", "says"),
    swept(
        [
            ("org/name@v2", "", "no revision v2"),
            ("org/name@v1", "/config.json", "the hub did not give it"),
            ("org/other", "", "no such repository"),
            ("org/name@v1", "/revision/v1", "the hub did not give it"),
        ],
        kept=2,
    ),
)
def test_what_the_hub_refuses_is_one_line(
    model: str, breaks: str, says: str, hub: Hub, tmp_path: Path
) -> None:
    hub.breaks = breaks
    done = scramble(tmp_path, "inspect", model, "--quiet", **hub.online)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert model in done.stderr
    assert says in done.stderr


def test_a_hub_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    done = scramble(tmp_path, "inspect", "org/name", HF_HUB_OFFLINE="0")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "the hub did not give it" in done.stderr
