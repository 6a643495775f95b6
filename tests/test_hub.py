"""Models on the Hub: addresses, digests, and the whole way against a server of our own on this machine."""

from __future__ import annotations

import base64
import json
import shutil
import sys
import threading
from collections.abc import Iterator
from hashlib import sha1
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

import pairloom
from conftest import tiny_config
from pairloom import hub
from pairloom.card import write_card
from pairloom.checkpoint import load_weights
from pairloom.cli import main
from pairloom.hub import HubError, push, resolve, stage
from pairloom.translator import Translator


@pytest.fixture
def model(tiny_run: Path, tmp_path: Path) -> Path:
    """The published part of the tiny run, with its card."""
    out = tmp_path / "houses"
    out.mkdir()
    for name in hub.NETWORKS:
        shutil.copy(tiny_run / name, out)
    write_card(out, licence="mit")
    return out


# ------------------------------------------------------------------------------------------------------------
# Without the library


def test_a_path_is_left_as_it_is(tmp_path: Path) -> None:
    assert resolve(tmp_path) == tmp_path
    assert resolve("runs/hf") == Path("runs/hf")


@pytest.mark.parametrize(
    "address",
    ["hf://", "hf://owner", "hf://owner/name/file", "hf://../name", "hf://owner/na me", "hf://a/b@"],
)
def test_bad_addresses_are_one_sentence(address: str) -> None:
    with pytest.raises(HubError, match=r"write hf://owner/name|must be owner/name"):
        resolve(address)


def test_a_bad_name_is_not_pushed_to(model: Path) -> None:
    with pytest.raises(HubError, match="must be owner/name"):
        push(model, "https://huggingface.co/owner/name")


def test_without_the_library_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, model: Path
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for ask in (lambda: resolve("hf://owner/name"), lambda: push(model, "owner/name")):
        with pytest.raises(HubError, match=r'pip install "pairloom\[hub\]"'):
            ask()


def test_what_is_published_holds_no_folder_of_this_machine(
    model: Path, tiny_data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "staged"
    out.mkdir()
    stage(model, out)
    assert sorted(p.name for p in out.iterdir()) == ["README.md", "SHA256SUMS", *sorted(hub.NETWORKS)]
    private = str(tiny_data.parent).encode()
    assert private in (model / "generator.safetensors").read_bytes()
    for file in out.iterdir():
        assert private not in file.read_bytes()
    for name in hub.NETWORKS:
        before, _ = load_weights(model / name)
        after, described = load_weights(out / name)
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert described["config"]["data"]["path"] == tiny_data.name
        assert f"{hub.digest(out / name)}  {name}\n" in (out / "SHA256SUMS").read_text()


def test_what_cannot_be_published(model: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(HubError, match=r"holds no generator\.safetensors"):
        stage(tmp_path, tmp_path / "out")
    (model / "MODEL_CARD.md").unlink()
    with pytest.raises(HubError, match="write one with `pairloom card"):
        stage(model, tmp_path / "out")


# ------------------------------------------------------------------------------------------------------------
# Against a server on this machine


class FakeHub:
    """As much of the Hub as publishing and fetching a model takes; its commits are whole repositories."""

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}
        self.private: dict[str, bool] = {}
        self.refused: list[str] = []
        fake = self

        class Answers(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                pass

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("Content-Length", headers.pop("length", str(len(body))))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def do_GET(self) -> None:
                fake.get(self)

            do_HEAD = do_GET

            def do_POST(self) -> None:
                if "chunked" in self.headers.get("Transfer-Encoding", ""):
                    body = b""
                    while size := int(self.rfile.readline(), 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.post(self, body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def get(self, ask: Any) -> None:
        parts = ask.path.split("?")[0].strip("/").split("/")
        repo = "/".join(parts[:2])
        if parts[2:3] != ["resolve"] or repo not in self.commits:
            return ask.answer(404, X_Error_Code="RepoNotFound")
        commits = self.commits[repo]
        commit = list(commits)[-1] if parts[3] == "main" else parts[3]
        if commit not in commits:
            return ask.answer(404, X_Error_Code="RevisionNotFound")
        content = commits[commit].get(parts[4])
        if content is None:
            return ask.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
        etag = f'"{sha1(content).hexdigest()}"'
        return ask.answer(200, content, ETag=etag, X_Repo_Commit=commit)

    def post(self, ask: Any, body: bytes) -> None:
        if ask.path == "/api/validate-yaml":
            return ask.answer(200, b'{"errors": [], "warnings": []}')
        if ask.path == "/api/repos/create":
            said = json.loads(body)
            if ask.headers.get("Authorization") != "Bearer hf_mine":
                return ask.answer(401, b'{"error": "Invalid username or password."}')
            repo = f"{said['organization']}/{said['name']}"
            self.commits.setdefault(repo, {})
            self.private[repo] = bool(said.get("private")) or said.get("visibility") == "private"
            return ask.answer(200, json.dumps({"url": f"{self.address}/{repo}"}).encode())
        repo = "/".join(ask.path.split("/")[3:5])
        if "/preupload/" in ask.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]
            return ask.answer(200, json.dumps({"files": files}).encode())
        if "/commit/" in ask.path:
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            commit = sha1(body).hexdigest()
            earlier = list(self.commits[repo].values())
            self.commits[repo][commit] = {**(earlier[-1] if earlier else {}), **files}
            answer = {
                "commitUrl": f"{self.address}/{repo}/commit/{commit}",
                "commitOid": commit,
                "success": True,
            }
            return ask.answer(200, json.dumps(answer).encode())
        self.refused.append(ask.path)
        return ask.answer(404)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[FakeHub]:
    pytest.importorskip("huggingface_hub", reason="the extra `hub` is not installed")
    fake = FakeHub()
    monkeypatch.setenv("HF_ENDPOINT", fake.address)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield fake
    fake.close()


def test_published_and_fetched_it_is_the_same_model(server: FakeHub, model: Path, tmp_path: Path) -> None:
    address = push(model, "me/houses", token="hf_mine")
    assert address.startswith("hf://me/houses@")
    assert server.private["me/houses"] is True
    assert server.refused == []
    (files,) = server.commits["me/houses"].values()
    assert sorted(files) == ["README.md", "SHA256SUMS", *sorted(hub.NETWORKS)]
    assert files["README.md"] == (model / "MODEL_CARD.md").read_bytes()
    for asked in ("hf://me/houses", address, Path("hf://me/houses")):
        folder = resolve(asked, cache=tmp_path / "cache")
        before, after = Translator.load(model, device="cpu"), Translator.load(folder, device="cpu")
        x = torch.rand(1, 3, 32, 32) * 2 - 1
        assert torch.equal(before.translate_tensor(x), after.translate_tensor(x))
        assert (folder / "discriminator.safetensors").exists()


def test_a_revision_is_fetched_and_an_unknown_one_named(server: FakeHub, model: Path, tmp_path: Path) -> None:
    first = push(model, "me/houses", token="hf_mine")
    write_card(model, title="Second", licence="mit")
    second = push(model, "me/houses", token="hf_mine", private=False)
    assert first != second
    assert resolve(first, cache=tmp_path / "c").name == first[-40:]
    assert resolve(second, cache=tmp_path / "c").name == second[-40:]
    with pytest.raises(HubError, match="has no such revision"):
        resolve("hf://me/houses@v9", cache=tmp_path / "c")


def test_a_published_model_goes_to_other_programs(
    server: FakeHub, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    resnet = {"architecture": "resnet", "resnet_blocks": 6, "base_channels": 4}
    fields = {f"generator__{name}": value for name, value in resnet.items()}
    run = pairloom.train(tiny_config(tiny_data, training__steps=1, **fields), tmp_path / "run")
    write_card(run, licence="mit")
    push(run, "me/houses", token="hf_mine")
    for where, out in (("hf://me/houses", tmp_path / "theirs"), (run, tmp_path / "same")):
        main(["export", str(where), "--format", "junyanz", "--out", str(out)])
    for name in ("latest_net_G.pth", "latest_net_D.pth"):
        theirs, same = (torch.load(tmp_path / f"{out}/{name}") for out in ("theirs", "same"))
        assert theirs.keys() == same.keys() and all(torch.equal(theirs[key], same[key]) for key in same)


def test_without_the_discriminator(server: FakeHub, model: Path, tmp_path: Path) -> None:
    address = push(model, "me/houses", token="hf_mine", discriminator=False)
    assert not (resolve(address, cache=tmp_path / "c") / "discriminator.safetensors").exists()


def test_weights_that_are_not_those_of_their_digest_are_refused(
    server: FakeHub, model: Path, tmp_path: Path
) -> None:
    push(model, "me/houses", token="hf_mine")
    (files,) = server.commits["me/houses"].values()
    changed = bytearray(files["generator.safetensors"])
    changed[-1] ^= 1
    files["generator.safetensors"] = bytes(changed)
    with pytest.raises(HubError, match=r"generator\.safetensors is not the file that its SHA256SUMS"):
        resolve("hf://me/houses", cache=tmp_path / "c")


def test_repositories_that_hold_no_model_of_ours(server: FakeHub, tmp_path: Path) -> None:
    server.commits["me/other"] = {"a" * 40: {"README.md": b"hello"}}
    server.commits["me/listed"] = {"b" * 40: {"SHA256SUMS": f"{'0' * 64}  ../escape\n".encode()}}
    for name, says in (
        ("me/other", "holds no SHA256SUMS"),
        ("me/listed", "does not name generator"),
        ("me/nothing", "there is no such model"),
    ):
        with pytest.raises(HubError, match=says) as caught:
            resolve(f"hf://{name}", cache=tmp_path / "c")
        assert "\n" not in str(caught.value)


def test_without_the_right_to_write(server: FakeHub, model: Path) -> None:
    with pytest.raises(HubError, match="could not be published") as caught:
        push(model, "me/houses", token="hf_theirs")
    assert "\n" not in str(caught.value)


def test_without_a_network_a_copy_serves_and_else_one_sentence(
    server: FakeHub, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    push(model, "me/houses", token="hf_mine")
    there = resolve("hf://me/houses", cache=tmp_path / "c")
    server.commits.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 would
    assert resolve("hf://me/houses", cache=tmp_path / "c") == there
    with pytest.raises(HubError, match="cannot be reached and there is no copy"):
        resolve("hf://me/houses", cache=tmp_path / "empty")
