"""A model of the hub: what is fetched, and that its files give what they give as a folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import peft
import pytest
import torch
from conftest import build_model, build_tokenizer, save_model
from huggingface_hub import constants

from memaudit.config.settings import TargetSettings
from memaudit.errors import TargetError
from memaudit.target.checkpoint import load_checkpoint, load_tokenizer
from memaudit.target.failures import quiet_transformers

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PLAIN = TargetSettings(device="cpu")


class FakeHub:
    """The part of the hub that its client asks for one model, on this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.fetched: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                path = self.path.partition("?")[0]
                name = path.partition(f"/resolve/{COMMIT}/")[2]
                if path.startswith("/api/models/org/name"):
                    body = hub.listing("/tree/" in path)
                elif name and (hub.folder / name).is_file():
                    body = (hub.folder / name).read_bytes()
                    if with_body:
                        hub.fetched.append(name)
                else:
                    body = b""
                self.send_response(200 if body else 404)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
                self.end_headers()
                if with_body:
                    self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Keep quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def listing(self, as_tree: bool) -> bytes:
        names = sorted(
            path.relative_to(self.folder).as_posix()
            for path in self.folder.rglob("*")
            if path.is_file()
        )
        if as_tree:
            return json.dumps(
                [{"type": "file", "oid": "0", "size": 1, "path": name} for name in names]
            ).encode()
        siblings = [{"rfilename": name} for name in names]
        return json.dumps({"id": "org/name", "sha": COMMIT, "siblings": siblings}).encode()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_model(build_model("llama"), build_tokenizer(), tmp_path / "repository")


@pytest.fixture
def hub(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub that has ``folder`` as org/name, and an empty cache."""
    fake = FakeHub(folder)
    url = f"http://127.0.0.1:{fake.server.server_port}"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    yield fake
    fake.close()


def add_adapter(folder: Path, base: str) -> None:
    """Put a LoRA over ``base`` into ``folder``."""
    model = build_model("llama")
    model.name_or_path = base
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", init_lora_weights=False
    )
    with quiet_transformers():
        peft.get_peft_model(model, config).save_pretrained(folder)


def test_only_the_weights_that_are_read_are_fetched(hub: FakeHub, folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    build_model("llama").save_pretrained(folder, max_shard_size="60KB")
    for name in ("consolidated.safetensors", "pytorch_model.bin", "onnx/config.json"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"another format")
    load_tokenizer("org/name", PLAIN)
    assert not any(name.endswith((".safetensors", ".bin")) for name in hub.fetched)
    checkpoint = load_checkpoint("org/name", PLAIN)
    assert sorted(hub.fetched) == sorted(checkpoint.fingerprint)
    assert checkpoint.revision == COMMIT
    assert checkpoint.fingerprint == load_checkpoint(str(folder), PLAIN).fingerprint


def test_a_cache_serves_where_the_hub_is_out_of_reach(hub: FakeHub) -> None:
    load_checkpoint("org/name", PLAIN)
    hub.close()
    assert load_checkpoint("org/name", PLAIN).revision == COMMIT


def test_weights_that_are_not_in_the_cache_are_named(hub: FakeHub) -> None:
    load_tokenizer("org/name", PLAIN)
    hub.close()
    with pytest.raises(TargetError, match=r"^org/name: .*"):
        load_checkpoint("org/name", TargetSettings(offline=True))


def test_a_repository_without_usable_weights_is_explained(hub: FakeHub, folder: Path) -> None:
    shutil.move(folder / "model.safetensors", folder / "consolidated.safetensors")
    with pytest.raises(TargetError, match=r"maker's own format \(consolidated.safetensors\)"):
        load_checkpoint("org/name", PLAIN)
    assert "consolidated.safetensors" not in hub.fetched


@pytest.mark.parametrize("offline", [False, True])
def test_whole_weights_and_an_adapter_are_refused_by_id_as_by_folder(
    hub: FakeHub, folder: Path, tmp_path: Path, offline: bool
) -> None:
    base = save_model(build_model("llama", seed=1), build_tokenizer(), tmp_path / "base")
    add_adapter(folder, str(base))
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    cache = tmp_path / "cache" / "models--org--name"
    shutil.copytree(folder, cache / "snapshots" / COMMIT)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text(COMMIT)
    messages = []
    for name in ("org/name", str(folder)):
        with pytest.raises(TargetError) as caught:
            load_checkpoint(name, TargetSettings(device="cpu", offline=offline))
        messages.append(str(caught.value).removeprefix(name).removesuffix(" (in a copy here)"))
    assert messages[0] == messages[1]
    assert "holds whole weights (model.safetensors) and an adapter" in messages[0]


def test_an_adapter_on_the_hub_over_a_base_here(hub: FakeHub, folder: Path, tmp_path: Path) -> None:
    base = save_model(build_model("llama"), build_tokenizer(), tmp_path / "base")
    (folder / "model.safetensors").unlink()
    add_adapter(folder, str(base))
    by_id, by_folder = (load_checkpoint(name, PLAIN) for name in ("org/name", str(folder)))
    assert by_id.fingerprint == by_folder.fingerprint
    assert "base/model.safetensors" in by_id.fingerprint
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(by_id.model(input_ids=ids).logits, by_folder.model(input_ids=ids).logits)
