"""Code groups and the k-means behind them: what holds for any codebook, files, the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from folders import write_tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import GOLDEN
from typer.testing import CliRunner

import smalti.storage.mapping
import smalti.vq.groups
import smalti.vq.kmeans
from smalti.cli.app import app
from smalti.cli.main import main
from smalti.errors import SmaltiError
from smalti.storage.entries import Entry
from smalti.storage.folder import load_codebook, load_denoiser, load_image_tokenizer
from smalti.storage.headers import read_headers
from smalti.storage.inspection import inspect
from smalti.storage.mapping import map_tensor
from smalti.vq.groups import CodeGroups, file_name, fingerprint
from smalti.vq.kmeans import kmeans, nearest, plus_plus


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_codebook(V: int = 40, C: int = 3, copies: int = 0, seed: int = 0) -> torch.Tensor:
    """Random codes, of which the last `copies` are copies of others."""
    codes = torch.randn(V, C, generator=generator(seed))
    if copies:
        codes[V - copies :] = codes[torch.randint(V - copies, (copies,), generator=generator(seed))]
    return codes


@st.composite
def codebooks(draw: Any) -> torch.Tensor:
    V = draw(st.integers(1, 40))
    copies = draw(st.integers(0, V - 1))
    scale, shift = draw(st.sampled_from([(1.0, 0.0), (1e-3, 0.0), (1.0, 300.0)]))
    codes = make_codebook(V, draw(st.integers(1, 4)), copies, draw(st.integers(0, 99)))
    return codes * scale + shift


# k-means


def reference_centers(points: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """k-means++ by its definition, one draw at a time."""
    draws = generator(seed)
    centers = points[torch.randint(len(points), (1,), generator=draws)]
    while len(centers) < count:
        distances = torch.cdist(points.double(), centers.double()).min(dim=1).values.square()
        centers = torch.cat([centers, points[torch.multinomial(distances, 1, generator=draws)]])
    return centers


def distortion(points: torch.Tensor, centers: torch.Tensor) -> float:
    return float(torch.cdist(points.double(), centers.double()).min(dim=1).values.square().mean())


def clumps(seed: int) -> torch.Tensor:
    """600 points in 40 clumps of very different sizes, and 200 copies of one point."""
    draws = generator(seed)
    middles = torch.randn(40, 4, generator=draws) * 5
    which = (torch.rand(600, generator=draws).square() * 40).long()
    points = middles[which] + torch.randn(600, 4, generator=draws) * 0.3
    return torch.cat([points, points[:1].expand(200, -1)])


def test_seeding_is_as_good_as_one_draw_at_a_time() -> None:
    ours, theirs = [], []
    for seed in range(6):
        points = clumps(seed)
        ours.append(distortion(points, plus_plus(points, 50, generator(seed))))
        theirs.append(distortion(points, reference_centers(points, 50, seed)))
    assert sum(ours) < 1.1 * sum(theirs)


def test_kmeans_is_as_good_as_lloyd_from_the_reference() -> None:
    ours, theirs = [], []
    for seed in range(4):
        points = clumps(seed)
        ours.append(distortion(points, kmeans(points, 50, generator=generator(seed))[0]))
        centers = reference_centers(points, 50, seed)
        for _ in range(10):
            ids = torch.cdist(points, centers).argmin(dim=1)
            for group in ids.unique():
                centers[group] = points[ids == group].mean(dim=0)
        theirs.append(distortion(points, centers))
    assert sum(ours) < 1.05 * sum(theirs)


def test_seeding_draws_by_squared_distance() -> None:
    """From three points at 0, 1 and 3, the probabilities of every pair of centers are known."""
    points = torch.tensor([[0.0], [1.0], [3.0]])
    found = torch.zeros(3, 3)
    draws = generator(0)
    for _ in range(600):
        first, second = (int(value) for value in plus_plus(points, 2, draws)[:, 0].clamp_max(2))
        found[first, second] += 1 / 600
    expected = torch.tensor([[0, 0.1, 0.9], [0.2, 0, 0.8], [9 / 13, 4 / 13, 0]]) / 3
    torch.testing.assert_close(found, expected, rtol=0, atol=0.07)


def test_a_batch_of_proposals_is_drawn_as_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Points at 1, 1.1 and 2 of a center at 0: what is kept in one batch must know of what was kept before it."""
    monkeypatch.setattr(smalti.vq.kmeans, "_PROPOSALS", 8)
    points = torch.tensor([[0.0], [1.0], [1.1], [-2.0]])
    distances = points.square().sum(dim=1)
    found = torch.zeros(4, 4)
    draws = generator(0)
    places = {round(value, 1): index for index, value in enumerate(points[:, 0].tolist())}
    for _ in range(600):
        pair = plus_plus(points, 2, draws, distances)[:, 0].tolist()
        found[places[round(pair[0], 1)], places[round(pair[1], 1)]] += 1 / 600
    expected = torch.zeros(4, 4)
    for first in range(1, 4):
        left = torch.minimum(distances, (points - points[first]).square().sum(dim=1))
        expected[first] = distances[first] / distances.sum() * left / left.sum()
    torch.testing.assert_close(found, expected, rtol=0, atol=0.07)


@settings(max_examples=20, deadline=None)
@given(points=codebooks(), share=st.floats(0, 1), iterations=st.integers(0, 4), seed=st.integers(0, 9))
def test_kmeans_leaves_no_group_empty(points: torch.Tensor, share: float, iterations: int, seed: int) -> None:
    count = 1 + round(share * (len(points) - 1))
    centers, ids = kmeans(points, count, iterations=iterations, generator=generator(seed))
    assert centers.shape == (count, points.shape[1]) and centers.isfinite().all()
    assert torch.equal(ids.unique(), torch.arange(count))
    # Every point lies with a nearest center, up to rounding.
    apart = torch.cdist(points.double(), centers.double())
    own = apart.gather(1, ids[:, None])[:, 0]
    spread = float((points - points.mean(dim=0)).abs().max())
    assert float((own - apart.min(dim=1).values).max()) <= 2e-3 * spread + 1e-4 * float(points.abs().max())


def test_groups_that_lose_their_points_are_drawn_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """From a start with all centers but one far from everything, k-means still finds the clusters."""
    points = torch.eye(6).repeat_interleave(5, dim=0) * 10
    points += torch.randn(points.shape, generator=generator(0)) * 0.1
    first = plus_plus

    def start(points: torch.Tensor, count: int, *rest: Any) -> torch.Tensor:
        if len(rest) > 1:
            return first(points, count, *rest)
        return torch.cat([points[:1], points[:1] + torch.full((count - 1, 1), 1e6)])

    monkeypatch.setattr(smalti.vq.kmeans, "plus_plus", start)
    centers, ids = kmeans(points, 6, iterations=2, generator=generator(1))
    assert torch.equal(ids.unique(), torch.arange(6)) and distortion(points, centers) < 1


def test_a_mean_of_many_copies_is_the_copied_point() -> None:
    points = torch.full((100_000, 1), 0.1)
    centers, ids = kmeans(points, 1, generator=generator(0))
    assert centers.item() == points[0].item() and not ids.any()


def test_distances_survive_a_large_common_part() -> None:
    points = make_codebook(30, 4) * 1e-3
    centers = points[::3] * 1.1
    expected = torch.cdist(points.double(), centers.double()).argmin(dim=1)
    near, distances = nearest(points, centers)
    far, _ = nearest(points + 4, centers + 4)
    assert torch.equal(near, expected) and float((far == expected).float().mean()) > 0.9
    assert (nearest(points, points)[1] == 0).all() and (distances >= 0).all()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e20])
def test_kmeans_refuses_what_is_not_finite(value: float) -> None:
    points = torch.zeros(4, 2)
    points[2, 1] = value
    with pytest.raises(SmaltiError, match="points must be finite numbers of at most 1e"):
        kmeans(points, 2, generator=generator(0))


# Groups


@settings(max_examples=20, deadline=None)
@given(codebook=codebooks(), share=st.floats(0, 1), seed=st.integers(0, 2**63 - 1))
def test_every_code_has_a_group_and_every_group_a_code(
    codebook: torch.Tensor, share: float, seed: int
) -> None:
    count = 1 + round(share * (len(codebook) - 1))
    groups = CodeGroups.from_kmeans(codebook, count, seed=seed)
    assert groups.ids.shape == (len(codebook),) and groups.ids.dtype == torch.int64
    assert torch.equal(groups.ids.unique(), torch.arange(count))
    assert (groups.kind, groups.count, groups.seed) == ("groups", count, seed)
    assert torch.equal(CodeGroups.from_kmeans(codebook, count, seed=seed).ids, groups.ids)
    report = groups.report(codebook)
    assert 1 <= report.smallest <= report.median <= report.largest <= len(codebook)
    assert (report.within is None) == (count == len(codebook))
    assert (report.between is None) == (count == 1)


@settings(max_examples=20, deadline=None)
@given(codebook=codebooks(), share=st.floats(0, 1), chunk=st.sampled_from([1, 100, 2**24]))
def test_neighbours_are_the_nearest_codes(codebook: torch.Tensor, share: float, chunk: int) -> None:
    V = len(codebook)
    n = 1 + round(share * (V - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smalti.vq.groups, "_CHUNK_ELEMENTS", chunk)
        groups = CodeGroups.from_neighbours(codebook, n)
    assert groups.ids.shape == (V, n) and groups.ids.dtype == torch.int64
    assert (groups.kind, groups.count, groups.seed) == ("neighbours", n, None)
    assert torch.equal(groups.ids[:, 0], torch.arange(V))
    assert all(len(set(row)) == n for row in groups.ids.tolist())
    apart = torch.cdist(codebook.double(), codebook.double())
    tolerance = 2e-3 * float((codebook - codebook.mean(dim=0)).abs().max())
    torch.testing.assert_close(
        apart.gather(1, groups.ids), apart.sort(dim=1).values[:, :n], rtol=0, atol=tolerance + 1e-9
    )
    report = groups.report(codebook)
    assert report.smallest == report.median == report.largest == n
    assert (report.within is None) == (n == 1) and (report.between is None) == (n == V)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    codebook = make_codebook(60, 5)
    whole = CodeGroups.from_kmeans(codebook, 9).ids
    monkeypatch.setattr(smalti.vq.kmeans, "_CHUNK_ELEMENTS", 64)
    assert torch.equal(CodeGroups.from_kmeans(codebook, 9).ids, whole)
    monkeypatch.setattr(smalti.vq.kmeans, "_PROPOSALS", 4)
    assert torch.equal(CodeGroups.from_kmeans(codebook, 9).ids.unique(), torch.arange(9))


def test_another_seed_makes_other_groups() -> None:
    codebook = make_codebook()
    assert not torch.equal(
        CodeGroups.from_kmeans(codebook, 8).ids, CodeGroups.from_kmeans(codebook, 8, seed=1).ids
    )


def test_short_floats_and_gradients_are_fine() -> None:
    codebook = torch.nn.Parameter(make_codebook().bfloat16())
    groups = CodeGroups.from_kmeans(codebook, 8)
    assert torch.equal(groups.ids, CodeGroups.from_kmeans(codebook.detach().float(), 8).ids)
    assert not groups.ids.requires_grad


def test_the_report_measures_pairs() -> None:
    """Codes at two places: pairs within are 0 apart, pairs between 10."""
    codebook = torch.tensor([[0.0], [0.0], [10.0], [10.0], [10.0]])
    made = CodeGroups(torch.tensor([0, 0, 1, 1, 1]), fingerprint(codebook), 0)
    report = made.report(codebook)
    assert (report.smallest, report.median, report.largest) == (2, 2.5, 3)
    assert (report.within, report.between) == (0, 10)
    pairs = CodeGroups(torch.tensor([[0, 1], [1, 0], [2, 3], [3, 4], [4, 2]]), fingerprint(codebook))
    assert pairs.report(codebook).within == 0 and 5 < pairs.report(codebook).between < 10
    # A partner is another code, and any other one of the group.
    inside = {
        tuple(pair) for seed in range(40) for pair in torch.stack(made._inside(generator(seed))).T.tolist()
    }
    assert inside == {(0, 1), (1, 0), (2, 3), (2, 4), (3, 2), (3, 4), (4, 2), (4, 3)}
    outside = {
        tuple(pair) for seed in range(40) for pair in torch.stack(made._outside(generator(seed))).T.tolist()
    }
    assert outside == {(a, b) for a in range(5) for b in range(5) if (a < 2) != (b < 2)}
    with pytest.raises(SmaltiError, match="codebook must be the one"):
        made.report(codebook + 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda codes: CodeGroups.from_kmeans(codes, 0), "count must be a whole number of at least 1, not 0"),
        (lambda codes: CodeGroups.from_kmeans(codes, 41), "count must be from 1 to 40, .*, not 41"),
        (lambda codes: CodeGroups.from_kmeans(codes, 2.0), "count must be a whole number"),
        (lambda codes: CodeGroups.from_kmeans(codes, 2, seed=-1), "seed must be a whole number from 0"),
        (lambda codes: CodeGroups.from_kmeans(codes, 2, seed=2**64), "seed must be a whole number from 0"),
        (lambda codes: CodeGroups.from_neighbours(codes, 41), "n must be from 1 to 40"),
        (lambda codes: CodeGroups.from_neighbours(codes / 0, 2), "codebook must hold finite numbers"),
        (lambda codes: CodeGroups.from_neighbours(codes[0], 2), r"codebook must be .* not \(3,\)"),
        (lambda codes: CodeGroups.from_kmeans(codes.long(), 2), "codebook must be floating-point"),
        (lambda codes: CodeGroups.from_kmeans(codes[:0], 1), "codebook must be"),
        (
            lambda codes: CodeGroups(torch.tensor([0, 2, 2]), ""),
            "no group may be empty, but 1 are, such as 1",
        ),
        (
            lambda codes: CodeGroups(torch.tensor([0, 3, 1]), ""),
            "ids must be from 0 to at most 2, not 0 to 3",
        ),
        (lambda codes: CodeGroups(torch.tensor([0, -1]), ""), "ids must be from 0 to at most 1, not -1 to 0"),
        (lambda codes: CodeGroups(torch.tensor([0.0]), ""), "ids must be int64, not float32"),
        (lambda codes: CodeGroups(torch.zeros(0).long(), ""), r"not \(0,\)"),
        (lambda codes: CodeGroups(torch.tensor([[0, 1], [0, 1]]), ""), "the first of its own neighbours"),
        (lambda codes: CodeGroups(torch.tensor([[0, 0], [1, 0]]), ""), "no code may be twice"),
        (lambda codes: file_name("crowds", 2), "kind must be 'groups' or 'neighbours', not 'crowds'"),
    ],
)
def test_wrong_input_is_named(make: Any, message: str) -> None:
    with pytest.raises(SmaltiError, match=message):
        make(make_codebook())


# Files


@pytest.mark.parametrize("kind", ["groups", "neighbours"])
def test_round_trip(tmp_path: Path, kind: str) -> None:
    codebook = make_codebook()
    made = CodeGroups.from_kmeans(codebook, 5, seed=3)
    if kind == "neighbours":
        made = CodeGroups.from_neighbours(codebook, 5)
    path = tmp_path / file_name(made.kind, made.count)
    assert path.name == f"{kind}-5.safetensors"
    made.save(path)
    first = path.read_bytes()
    made.save(path)
    assert path.read_bytes() == first and [entry.name for entry in tmp_path.iterdir()] == [path.name]
    loaded = CodeGroups.load(path, codebook)
    assert torch.equal(loaded.ids, made.ids)
    assert (loaded.kind, loaded.codebook, loaded.seed) == (kind, made.codebook, made.seed)
    # What was read must not hang on the file.
    path.write_bytes(bytes(len(first)))
    assert torch.equal(loaded.ids, made.ids)


def test_groups_of_another_codebook_are_refused(tmp_path: Path) -> None:
    codebook = make_codebook()
    path = tmp_path / "groups.safetensors"
    CodeGroups.from_kmeans(codebook.bfloat16(), 5).save(path)
    CodeGroups.load(path)
    CodeGroups.load(path, codebook.bfloat16().double())
    for other in (codebook + 1, codebook[:-1], codebook):
        with pytest.raises(SmaltiError, match="groups.safetensors holds groups of another codebook"):
            CodeGroups.load(path, other)


def facts(**changes: Any) -> dict[str, str]:
    values = {"kind": "groups", "count": 2, "seed": 0, "codebook": "0" * 16, **changes}
    values = {name: value for name, value in values.items() if value is not ...}
    return {"code_groups": json.dumps(values)}


IDS = torch.tensor([0, 1, 1])


@pytest.mark.parametrize(
    ("tensors", "metadata", "message"),
    [
        ({"ids": IDS}, None, "its metadata must hold code_groups"),
        ({"ids": IDS}, {"code_groups": "{"}, "its metadata must hold code_groups"),
        ({"ids": IDS}, {"code_groups": "[" * 9 + "]" * 9}, "its metadata must hold code_groups"),
        ({"ids": IDS}, facts(seed=...), "its metadata must hold code_groups"),
        ({"ids": IDS}, facts(more=1), "its metadata must hold code_groups"),
        ({"ids": IDS}, facts(kind="crowds"), "kind must be 'groups' or 'neighbours'"),
        ({"ids": IDS}, facts(kind=["groups"]), "kind must be"),
        ({"ids": IDS}, facts(seed=-1), "seed must be a whole number"),
        ({"ids": IDS}, facts(seed=None), "seed must be a whole number"),
        ({"ids": IDS}, facts(codebook=7), "codebook must be a fingerprint, not 7"),
        ({"ids": IDS}, facts(count=3), "it must hold groups, 3, not groups, 2"),
        ({"ids": IDS}, facts(count="2"), "it must hold groups, '2', not groups, 2"),
        ({"ids": IDS}, facts(kind="neighbours", seed=None), "it must hold neighbours, 2, not groups, 2"),
        ({"ids": IDS}, facts(kind="neighbours"), "neighbours have no seed, not 0"),
        ({"ids": IDS, "odd": IDS + 0}, facts(), "it must hold the tensor ids alone, not ids, odd"),
        ({"groups": IDS}, facts(), "it must hold the tensor ids alone, not groups"),
        ({}, facts(), "it must hold the tensor ids alone, not none"),
        ({"ids": IDS.int()}, facts(), "ids must be int64, not int32"),
        ({"ids": IDS[None, None]}, facts(), r"ids must be \(V,\) or \(V, n\), not \(1, 1, 3\)"),
        ({"ids": IDS * 2}, facts(), "no group may be empty"),
        ({"ids": IDS * 3}, facts(), "ids must be from 0 to at most 2, not 0 to 3"),
        ({"ids": -IDS}, facts(), "not -1 to 0"),
        ({"ids": IDS[:, None]}, facts(count=1, seed=None, kind="neighbours"), "first of its own neighbours"),
    ],
)
def test_a_file_of_something_else(
    tmp_path: Path, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, message: str
) -> None:
    path = tmp_path / "groups.safetensors"
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(SmaltiError, match=message) as caught:
        CodeGroups.load(path)
    assert str(caught.value).startswith(f"{path} is not a file of code groups: ")


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_files(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "groups.safetensors"
    CodeGroups.from_kmeans(make_codebook(), 3).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(SmaltiError, match="is truncated or not a safetensors file"):
        CodeGroups.load(path)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(SmaltiError, match="does not exist"):
            CodeGroups.load(path)
    with pytest.raises(SmaltiError, match="cannot write"):
        CodeGroups.from_kmeans(make_codebook(), 3).save(tmp_path / "none" / "groups.safetensors")


def test_a_failed_write_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "groups.safetensors"
    CodeGroups.from_kmeans(make_codebook(), 2).save(path)
    old = path.read_bytes()

    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(smalti.vq.groups, "save_file", fail)
    with pytest.raises(SmaltiError, match="cannot write .*: No space left"):
        CodeGroups.from_kmeans(make_codebook(), 3).save(path)
    assert path.read_bytes() == old and len(list(tmp_path.iterdir())) == 1


# The codebook of a folder, and the command


@pytest.mark.parametrize("inside", [False, True])
def test_only_the_codebook_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inside: bool) -> None:
    read: list[str] = []

    def spy(entry: Entry, *arguments: Any, **options: Any) -> torch.Tensor:
        read.append(names[entry.path, entry.offset])
        return map_tensor(entry, *arguments, **options)

    expected = load_image_tokenizer(GOLDEN).quantize.embedding.weight
    folder, prefix = GOLDEN, ""
    if inside:
        folder, prefix = tmp_path, "encoder.vqvae."
        for path in GOLDEN.glob("*.*"):
            (folder / path.name).symlink_to(path)
    holder = folder if inside else folder / "emu3_vqvae"
    names = {(entry.path, entry.offset): name for name, entry in read_headers(holder).items()}
    monkeypatch.setattr(smalti.storage.mapping, "map_tensor", spy)
    codebook = load_codebook(folder)
    assert torch.equal(codebook, expected) and codebook.dtype == torch.float32
    assert not codebook.requires_grad and read == [prefix + "quantize.embedding.weight"]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model of 64 codes of dimension 8."""
    return write_tiny_model(tmp_path / "model")


@pytest.mark.parametrize("part", [".", "vq"])
def test_the_command(model: Path, capfd: pytest.CaptureFixture[str], part: str) -> None:
    folder = model / part
    assert main(["groups", str(folder), "--groups", "10", "--seed", "3", "--json"]) == 0
    out, err = capfd.readouterr()
    report = json.loads(out)
    path = folder / "groups-10.safetensors"
    codebook = load_codebook(model)
    made = CodeGroups.load(path, codebook)
    assert torch.equal(made.ids, CodeGroups.from_kmeans(codebook, 10, seed=3).ids) and err == ""
    assert Path(report["file"]) == path and report["seconds"] > 0
    assert (report["kind"], report["count"], report["codes"], report["dimension"]) == ("groups", 10, 64, 8)
    assert report["smallest"] <= report["median"] <= report["largest"]
    assert 0 < report["within"] < report["between"]
    # A folder with groups in it is read as before.
    load_denoiser(model), load_image_tokenizer(folder), inspect(folder)


def test_the_command_with_neighbours(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["groups", str(model), "--neighbours", "4"]) == 0
    out, err = capfd.readouterr()
    assert "neighbours-4.safetensors" in out and "4 to 4 codes, median 4" in out and "within" in out
    made = CodeGroups.load(model / "neighbours-4.safetensors", load_codebook(model))
    assert made.ids.shape == (64, 4) and err == ""
    assert main(["groups", str(model), "--groups", "64", "-o", str(tmp_path / "own.safetensors")]) == 0
    assert "64 of dimension 8" in capfd.readouterr().out
    assert CodeGroups.load(tmp_path / "own.safetensors").count == 64
    assert not (model / "groups-64.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--groups", "65"], "--groups must be from 1 to 64, the number of codes, not 65"),
        (["--groups", "0"], "--groups must be a whole number of at least 1, not 0"),
        (["--groups", "many"], "'--groups'"),
        (["--neighbours", "65"], "--neighbours must be from 1 to 64, the number of codes, not 65"),
        (["--neighbours", "-1"], "--neighbours must be a whole number of at least 1, not -1"),
        ([], "name either --groups or --neighbours"),
        (["--groups", "2", "--neighbours", "2"], "name either --groups or --neighbours"),
        (
            ["--groups", "2", "--seed", "-1"],
            "--seed must be a whole number from 0 to 9223372036854775807, not -1",
        ),
        (["--groups", "2", "--seed", str(2**64)], "seed must be a whole number from 0"),
        (["--groups", "2", "-o", "groups.pt"], "-o must name a .safetensors file, not 'groups.pt'"),
        (["--groups", "2", "-o", "none/groups.safetensors"], "-o cannot be written: none/groups.safetensors"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    model: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["groups", str(model), *arguments]) == 2
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("smalti: ") and err.count("\n") == 1 and message in err
    assert not list(model.glob("groups-*"))


def test_bad_folders(model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["groups", str(tmp_path / "none"), "--groups", "2"]) == 2
    assert "model must be a folder that exists" in capfd.readouterr().err
    weights = model / "vq" / "model.safetensors"
    save_file({"odd": torch.zeros(1)}, weights)
    assert main(["groups", str(model), "--groups", "2"]) == 2
    assert "lacks tensor quantize.embedding.weight" in capfd.readouterr().err
    save_file({"quantize.embedding.weight": torch.full((64, 8), torch.nan)}, weights)
    assert main(["groups", str(model), "--groups", "2"]) == 2
    assert "codebook must hold finite numbers" in capfd.readouterr().err


def test_help() -> None:
    result = CliRunner().invoke(app, ["groups", "--help"])
    assert result.exit_code == 0 and "--neighbours" in result.output and "codebook" in result.output
