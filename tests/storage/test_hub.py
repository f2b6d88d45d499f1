"""Models on the Hugging Face hub, without a network: the cache, and a stand-in for downloads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import constants, errors
from release_shape import CUT, CUT_VQ, write_release
from safetensors import safe_open

import smalti
from smalti.errors import SmaltiError
from smalti.storage.hub import fetch, is_hub_id, remote_headers
from smalti.storage.inspection import inspect
from smalti.storage.loading import find_model

REPO = "someone/a-model"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, offline."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "home" / "hub"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_release(
        tmp_path_factory.mktemp("release") / "model",
        config=CUT,
        vq=CUT_VQ,
        vision_tower=(20_000_000, 8),
        shard_bytes=4_000_000,
    )


def put(cache: Path, model: Path, *, without: str = "") -> Path:
    """Lay a model out as the hub's cache does."""
    repository = cache / "models--someone--a-model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(COMMIT)
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(model, snapshot, ignore=shutil.ignore_patterns(without) if without else None)
    return snapshot


@pytest.fixture
def hub(cache, model, monkeypatch):
    """A hub that has one model; what was asked of it, in order."""
    asked: list[tuple[str, str | None]] = []
    snapshot = cache / "models--someone--a-model" / "snapshots" / COMMIT

    def download(repo, name, *, revision=None, local_files_only=False):
        asked.append((name, revision))
        assert repo == REPO and not local_files_only
        if not (model / name).is_file():
            response = SimpleNamespace(headers={}, request=None, status_code=404)
            raise errors.RemoteEntryNotFoundError("404\nEntry not found", response=response)
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(model / name, snapshot / name)
        return str(snapshot / name)

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return asked


def fails(message, action, *arguments, **options):
    with pytest.raises(SmaltiError, match=message) as caught:
        action(*arguments, **options)
    assert "\n" not in str(caught.value)


def test_what_looks_like_a_name_on_the_hub():
    for name in ("nvidia/NL-Diffusion-Image", "a/b", "A0/b_c.d-e"):
        assert is_hub_id(name)
    for name in (
        "model",
        "a/b/c",
        "/a/b",
        "./a",
        "../a",
        "a/",
        "a/..",
        "a b/c",
        "ä/b",
        "",
        Path("a/b"),
        None,
        3,
    ):
        assert not is_hub_id(name)


class TestCached:
    def test_a_cached_model_works_offline(self, cache, model):
        snapshot = put(cache, model)
        pipe = smalti.load(REPO)
        assert pipe.components.name == REPO and pipe.denoiser.config.hidden_size == 256
        assert find_model(REPO) == snapshot == find_model(REPO, revision="main")
        assert find_model(REPO, revision=COMMIT, local_files_only=True) == snapshot

    def test_a_folder_of_that_name_wins(self, cache, model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        shutil.copytree(model, REPO)
        assert find_model(REPO) == Path(REPO)
        fails(
            f"revision is for models on the Hugging Face hub, not '{REPO}'",
            smalti.load,
            REPO,
            revision="main",
        )

    def test_shards_of_unused_tensors_need_not_be_there(self, cache, model):
        snapshot = put(cache, model, without="model-00001-*")
        assert not list(snapshot.glob("model-00001-*")) and list(snapshot.glob("model-00002-*"))
        smalti.load(REPO)

    def test_what_is_missing_is_named(self, cache, model):
        put(cache, model, without="model-00003-*")
        fails(
            f"{REPO} at .*model-00003-of-0000..safetensors is not in the Hugging Face cache",
            smalti.load,
            REPO,
        )

    def test_uncached(self, cache):
        fails(
            f"{REPO}: config.json is not in the Hugging Face cache .*HF_HUB_OFFLINE is set: fetch the model once",
            smalti.load,
            REPO,
        )
        fails("local_files_only was asked for", smalti.load, REPO, local_files_only=True)
        fails(f"{REPO} at revision v2: config.json", smalti.load, REPO, revision="v2")

    def test_neither_folder_nor_name(self, cache):
        for name in ("nowhere", "a/b/c", "./a", Path("a/b"), 3):
            fails(
                r"model must be a folder that exists, a bundled model \(objects, scenes\), or a name on the",
                smalti.load,
                name,
            )


class TestFetching:
    def test_only_needed_files(self, hub, model):
        fetch(REPO)
        names = [name for name, _ in hub]
        index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
        unused = {file for tensor, file in index.items() if "vision_tower" in tensor}
        shards = {file for tensor, file in index.items() if not tensor.startswith(("encoder.v", "diffusion"))}
        assert unused - shards and shards < set(index.values())
        assert set(names) == shards | {
            "config.json",
            "emu3_vqvae/config.json",
            "emu3_vqvae/model.safetensors",
            "tokenizer.json",
            "words.txt",
            "model.safetensors.index.json",
        }
        assert len(names) == len(set(names)), "nothing is asked for twice"

    def test_all_of_one_commit(self, hub):
        fetch(REPO, revision="v2")
        assert hub[0] == ("config.json", "v2") and {revision for _, revision in hub[1:]} == {COMMIT}

    def test_what_was_fetched_loads(self, hub):
        assert smalti.load(REPO).components.name == REPO

    def test_parts(self, hub):
        fetch(REPO, parts=())
        names = {"config.json", "emu3_vqvae/config.json", "model.safetensors.index.json"}
        assert {name for name, _ in hub} == names
        hub.clear()
        fetch(REPO, parts=("image_tokenizer",))
        assert {name for name, _ in hub} == names | {"emu3_vqvae/model.safetensors"}

    def test_an_image_tokenizer_inside_the_shards(self, hub, model, monkeypatch, tmp_path):
        shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("emu3_vqvae"))
        real = huggingface_hub.hf_hub_download

        def download(repo, name, **options):
            if name.startswith("emu3_vqvae"):
                return real(repo, "no such file", **options)
            return real(repo, name, **options)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        folder = fetch(REPO)
        index = json.loads((model / "model.safetensors.index.json").read_text())["weight_map"]
        assert {file for tensor, file in index.items() if "vqvae" in tensor} <= {name for name, _ in hub}
        assert not (folder / "emu3_vqvae").exists()
        assert smalti.load(REPO).image_tokenizer.config.codebook_size == 2048

    def test_a_single_file(self, hub, model, monkeypatch, tmp_path):
        single = write_release(tmp_path / "single", config=CUT, vq=CUT_VQ, vision_tower=(8, 8))
        assert not (single / "model.safetensors.index.json").exists()
        snapshot = tmp_path / "cache" / "snapshots" / COMMIT

        def download(repo, name, *, revision=None, local_files_only=False):
            hub.append((name, revision))
            if not (single / name).is_file():
                response = SimpleNamespace(headers={}, request=None, status_code=404)
                raise errors.RemoteEntryNotFoundError("404", response=response)
            (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(single / name, snapshot / name)
            return str(snapshot / name)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
        assert fetch(REPO) == snapshot
        assert ("model.safetensors", COMMIT) in hub
        smalti.load(REPO)

    @pytest.mark.parametrize(
        "kind, message",
        [
            (
                "RepositoryNotFoundError",
                "there is no folder someone/a-model, and the Hugging Face hub has no model",
            ),
            ("GatedRepoError", "only for those who accepted its terms"),
            ("RevisionNotFoundError", "someone/a-model on the Hugging Face hub has no revision v2"),
            ("RemoteEntryNotFoundError", "on the Hugging Face hub has no file config.json"),
            ("HfHubHTTPError", "config.json cannot be fetched from the Hugging Face hub: first line$"),
        ],
    )
    def test_refusals(self, hub, monkeypatch, kind, message):
        def refuse(*arguments, **options):
            response = SimpleNamespace(headers={}, request=None, status_code=404)
            raise getattr(errors, kind)("first line\nsecond line", response=response)

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", refuse)
        fails(message, smalti.load, REPO, revision="v2")

    def test_a_broken_connection(self, hub, monkeypatch):
        def break_(*arguments, **options):
            raise (
                errors.HTTPError("connection reset by peer")
                if hasattr(errors, "HTTPError")
                else OSError("reset")
            )

        monkeypatch.setattr(huggingface_hub, "hf_hub_download", break_)
        fails("config.json cannot be fetched from the Hugging Face hub", smalti.load, REPO)


class TestHeaders:
    def test_from_the_cache(self, cache, model):
        folder = put(cache, model, without="model-00001-*")
        report, whole = inspect(folder, remote_headers(REPO, folder)), inspect(model)
        assert report["parameters"]["total"] == whole["parameters"]["total"]
        assert report["image_tokenizer"] == whole["image_tokenizer"]
        assert len(report["files"]) == len(whole["files"]) - 1

    def test_needed_shards_that_are_not_there(self, cache, model):
        folder = put(cache, model, without="model-00003-*")
        fails("model-00003-of-0000..safetensors is not in", inspect, folder, remote_headers(REPO, folder))

    def test_from_the_hub(self, hub, model, monkeypatch):
        """Weights that are not in the cache stay where they are: only headers come."""

        def parse(self, repo, name, *, revision=None):
            hub.append((name, revision))
            tensors, end = {}, 0
            with safe_open(model / name, framework="np") as file:
                for tensor in file.offset_keys():
                    piece = file.get_slice(tensor)
                    count, size = 1, 2 if piece.get_dtype() == "BF16" else 4
                    for side in piece.get_shape():
                        count *= side
                    start, end = end, end + count * size
                    tensors[tensor] = SimpleNamespace(
                        shape=piece.get_shape(), dtype=piece.get_dtype(), data_offsets=(start, end)
                    )
            return SimpleNamespace(tensors=tensors)

        monkeypatch.setattr(huggingface_hub.HfApi, "parse_safetensors_file_metadata", parse)
        folder = find_model(REPO, parts=())
        report, whole = inspect(folder, remote_headers(REPO, folder)), inspect(model)
        assert report["parameters"] == whole["parameters"] and report["dtypes"] == whole["dtypes"]
        assert abs(report["bytes"] / whole["bytes"] - 1) < 1e-3
        assert not list(folder.rglob("model*.safetensors"))
        assert {revision for name, revision in hub if name.endswith(".safetensors")} == {COMMIT}


@pytest.mark.slow
def test_the_command_line_offline(tmp_path, model):
    root = Path(smalti.__file__).parents[1]

    def run(*arguments: str) -> subprocess.CompletedProcess:
        environment = {
            **os.environ,
            "PYTHONPATH": str(root),
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_OFFLINE": "1",
        }
        return subprocess.run(
            [sys.executable, "-m", "smalti", *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env=environment,
        )

    for command in (["info", REPO], ["generate", "a cat", "-o", "a.png", "--model", REPO]):
        done = run(*command)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"smalti: {REPO}: config.json is not in the Hugging Face cache")
        assert done.stderr.count("\n") == 1
    put(tmp_path / "home" / "hub", model, without="tokenizer.json")
    done = run("info", REPO, "--json")
    assert done.returncode == 0 and json.loads(done.stdout)["config"]["hidden_size"] == 256
    done = run("groups", REPO, "--groups", "4")
    assert done.returncode == 2 and "-o must name the file to write" in done.stderr
    done = run("info", REPO, "--revision", "v2")
    assert done.returncode == 2 and "revision v2" in done.stderr


@pytest.mark.slow
def test_the_hub_is_imported_only_when_it_is_named(tmp_path, model):
    code = (
        "import sys, smalti, smalti.cli.main; smalti.load(sys.argv[1]); "
        "print(any(name.startswith('huggingface_hub.') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
