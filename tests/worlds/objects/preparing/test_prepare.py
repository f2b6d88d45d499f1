from __future__ import annotations

import os
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import sprite_packages

from smalti.errors import SmaltiError
from smalti.worlds.objects import archive as archive_module
from smalti.worlds.objects.archive import SpriteArchive
from smalti.worlds.objects.preparing.parts import Part, plan
from smalti.worlds.objects.preparing.prepare import prepare_objects

pytest.importorskip("resvg_py")

STYLES = ["fluent-3d", "noto", "twemoji", "clipart"]


def keys(folder: Path) -> list[str]:
    return [sprite.key for sprite in SpriteArchive(folder).sprites]


def stamps(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}


@pytest.fixture
def written(monkeypatch) -> list[str]:
    """List the parts that are written."""
    names: list[str] = []
    write = Part.write

    def noted(part: Part, folder: Path, package: Path) -> None:
        write(part, folder, package)
        names.append(f"{part.package.style}-{part.number}")

    monkeypatch.setattr(Part, "write", noted)
    return names


def test_what_is_prepared(publisher, tmp_path: Path) -> None:
    made = prepare_objects(tmp_path / "out", jobs=1)
    assert made.problems == ()
    assert keys(tmp_path / "out") == [
        *("fluent-3d/1f34e", "noto/apple", "noto/pear", "noto/crab", "twemoji/apple", "clipart/food/plum")
    ]
    apple = made.archive.sprites[1]
    assert (apple.name, apple.noun, apple.hypernyms, apple.color) == (
        "apple",
        "apple",
        ("fruit", "food"),
        "red",
    )
    assert (apple.style, apple.licence, apple.creator) == ("noto", "MIT", "Somebody")
    assert (apple.package, apple.entry, apple.view) == ("@tiny/noto", "apple", None)
    image = made.archive.image(1)
    assert image.shape == (128, 128, 4) and (image[64, 64] == (220, 32, 40, 255)).all()
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "| noto | [Tiny noto](https://example.org) | @tiny/noto 1.0.0 | MIT | 3 |" in text
    assert "- clipart: Open Clip Art Library, public domain, 1 image\n" in text


def test_a_second_call_makes_nothing(publisher, tmp_path: Path, written: list[str]) -> None:
    prepare_objects(tmp_path / "out", jobs=1)
    before = stamps(tmp_path / "out")
    assert written == ["fluent-3d-0", "noto-0", "twemoji-0", "clipart-0"]
    written.clear()
    publisher.calls()
    prepare_objects(tmp_path / "out", jobs=1)
    assert written == publisher.calls() == [] and stamps(tmp_path / "out") == before


def test_styles_are_added(publisher, tmp_path: Path, written: list[str]) -> None:
    prepare_objects(tmp_path / "out", ["twemoji"], jobs=1)
    assert keys(tmp_path / "out") == ["twemoji/apple"]
    prepare_objects(tmp_path / "out", ["fluent-3d", "fluent-3d"], jobs=1)
    assert keys(tmp_path / "out") == ["fluent-3d/1f34e", "twemoji/apple"]
    assert written == ["twemoji-0", "fluent-3d-0"]


def test_an_archive_that_was_deleted_is_written_again(publisher, tmp_path: Path, written: list[str]) -> None:
    out = tmp_path / "out"
    prepare_objects(out, ["noto"], jobs=1)
    before = (out / "sprites.zip").read_bytes()
    (out / "sprites.zip").unlink()
    prepare_objects(out, ["noto"], jobs=1)
    assert (out / "sprites.zip").read_bytes() == before and written == ["noto-0"]


def test_new_entries_replace_a_part(publisher, tmp_path: Path, monkeypatch) -> None:
    prepare_objects(tmp_path / "out", ["twemoji", "noto"], jobs=1)
    catalog = tmp_path / "catalogs" / "emoji.tsv"
    catalog.write_text(catalog.read_text() + "sky\t=\tsky\t\t\t=\n")
    sprite_packages.forget()
    prepare_objects(tmp_path / "out", ["twemoji"], jobs=1)
    assert keys(tmp_path / "out")[-2:] == ["twemoji/apple", "twemoji/sky"]
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2


def test_new_names_need_no_rendering(publisher, tmp_path: Path, written: list[str]) -> None:
    prepare_objects(tmp_path / "out", ["noto"], jobs=1)
    catalog = tmp_path / "catalogs" / "emoji.tsv"
    catalog.write_text(catalog.read_text().replace("apple\t=", "ripe apple\tcrab"))
    sprite_packages.forget()
    apple = prepare_objects(tmp_path / "out", ["noto"], jobs=1).archive.sprites[0]
    assert (apple.name, apple.noun, apple.hypernyms) == ("ripe apple", "crab", ("sea creature", "animal"))
    assert written == ["noto-0"]


def test_what_cannot_be_seen_is_left_out(publisher, tmp_path: Path, monkeypatch) -> None:
    image = SpriteArchive.image

    def glassy(archive: SpriteArchive, index: int) -> np.ndarray:
        pixels = image(archive, index).copy()
        pixels[..., 3] //= 2 if archive.sprites[index].key == "noto/crab" else 1
        return pixels

    monkeypatch.setattr(SpriteArchive, "image", glassy)
    prepare_objects(tmp_path / "out", ["noto"], jobs=1)
    assert keys(tmp_path / "out") == ["noto/apple", "noto/pear"]


@pytest.mark.slow
def test_two_processes(publisher, tmp_path: Path) -> None:
    prepare_objects(tmp_path / "one", ["noto", "twemoji", "clipart"], jobs=1)
    prepare_objects(tmp_path / "two", ["noto", "twemoji", "clipart"], jobs=2)
    assert (tmp_path / "one/sprites.zip").read_bytes() == (tmp_path / "two/sprites.zip").read_bytes()


@pytest.mark.parametrize("styles", [["noto", "photos"], ["noto", ""], [None]])
def test_unknown_styles(publisher, tmp_path: Path, styles) -> None:
    with pytest.raises(
        SmaltiError, match="styles must be 'fluent-3d' or 'noto' or 'twemoji' or 'clipart', not"
    ):
        prepare_objects(tmp_path / "out", styles)
    assert not (tmp_path / "out").exists()


def test_no_styles_and_no_jobs(publisher, tmp_path: Path) -> None:
    with pytest.raises(SmaltiError, match="styles must name at least one style"):
        prepare_objects(tmp_path, [])
    with pytest.raises(SmaltiError, match="jobs must be a whole number of at least 1, not 0"):
        prepare_objects(tmp_path, jobs=0)


def test_what_cannot_be_had_is_named(publisher, tmp_path: Path) -> None:
    publisher.withdraw("noto")
    publisher.replace("twemoji", b"another file")
    made = prepare_objects(tmp_path / "out", jobs=1)
    assert [problem[:40] for problem in made.problems] == [
        "@tiny/noto 1.0.0 cannot be had: npm erro",
        "@tiny/twemoji 1.0.0 is refused: its sha2",
    ]
    assert keys(tmp_path / "out") == ["fluent-3d/1f34e", "clipart/food/plum"]


def test_nothing_can_be_had(publisher, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    needs = r"@tiny/fluent-3d 1.0.0 needs npm, which is not installed \(and 3 more\)"
    with pytest.raises(SmaltiError, match=f"nothing could be prepared: {needs}"):
        prepare_objects(tmp_path / "out", jobs=1)
    assert not (tmp_path / "out" / "sprites.zip").exists()


def test_what_was_prepared_before_stays(publisher, tmp_path: Path, monkeypatch) -> None:
    prepare_objects(tmp_path / "out", ["noto"], jobs=1)
    before = stamps(tmp_path / "out")
    monkeypatch.setenv("PATH", str(tmp_path / "nowhere"))
    made = prepare_objects(tmp_path / "out", ["twemoji", "noto"], jobs=1)
    assert len(made.problems) == 1 and stamps(tmp_path / "out") == before


def test_no_resvg(publisher, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    made = prepare_objects(tmp_path / "out", jobs=1)
    assert made.problems == ("SVG drawings need resvg: pip install 'smalti[objects]'",)
    assert keys(tmp_path / "out") == ["fluent-3d/1f34e", "clipart/food/plum"]


@pytest.mark.parametrize("style", STYLES)
def test_broken_packages_are_named(publisher, tmp_path: Path, style: str) -> None:
    files = sprite_packages.published()
    files[style] = files[style][: len(files[style]) // 2]
    sprite_packages.write_catalogs(tmp_path / "catalogs", files)
    sprite_packages.forget()
    publisher.replace(style, files[style])
    made = prepare_objects(tmp_path / "out", jobs=1)
    assert len(made.problems) == 1 and "is broken" in made.problems[0]
    assert style not in {sprite.style for sprite in made.archive.sprites}


def test_a_full_disk_keeps_the_parts(publisher, tmp_path: Path, monkeypatch, written: list[str]) -> None:
    encode = archive_module.encode

    def fill(pixels: np.ndarray) -> bytes:
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        return encode(pixels)

    monkeypatch.setattr(archive_module, "encode", fill)
    with pytest.raises(SmaltiError, match="cannot write .*: No space left on device"):
        prepare_objects(tmp_path / "out", jobs=1)
    assert written == ["fluent-3d-0", "noto-0"]
    assert len(list((tmp_path / "out" / "parts").iterdir())) == 2
    monkeypatch.setattr(archive_module, "encode", encode)
    prepare_objects(tmp_path / "out", jobs=1)
    assert written == ["fluent-3d-0", "noto-0", "twemoji-0", "clipart-0"]


def test_a_full_disk_keeps_the_archive(publisher, tmp_path: Path, monkeypatch) -> None:
    prepare_objects(tmp_path / "out", ["noto"], jobs=1)
    before = (tmp_path / "out" / "sprites.zip").read_bytes()

    write = zipfile.ZipFile.writestr

    def full(archive: zipfile.ZipFile, *arguments: object) -> None:
        if "sprites." in str(archive.filename):
            raise OSError(28, "No space left on device")
        write(archive, *arguments)

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SmaltiError, match=r"cannot write .*sprites\.zip: No space left on device"):
        prepare_objects(tmp_path / "out", ["twemoji"], jobs=1)
    assert (tmp_path / "out" / "sprites.zip").read_bytes() == before


_KILLED = """\
import os, signal, sys
from pathlib import Path
from smalti.worlds.objects.preparing import record
from smalti.worlds.objects.preparing.parts import Part

record.CATALOGS = Path(sys.argv[1])
write = Part.write

def killed(part, folder, package):
    if part.package.style == "twemoji":
        os.kill(os.getpid(), signal.SIGKILL)
    write(part, folder, package)

Part.write = killed
from smalti.worlds.objects.preparing.prepare import prepare_objects
prepare_objects(sys.argv[2], jobs=1)
"""


@pytest.mark.slow
def test_a_kill_in_the_middle(publisher, tmp_path: Path, written: list[str]) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", _KILLED, str(tmp_path / "catalogs"), str(out)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert len(list((out / "parts").glob("*.zip"))) == 2 and not (out / "sprites.zip").exists()
    publisher.calls()
    prepare_objects(out, jobs=1)
    assert written == ["twemoji-0", "clipart-0"] and publisher.calls() == []
    assert len(keys(out)) == 6


@pytest.mark.slow
def test_ctrl_c_ends_the_workers(publisher, tmp_path: Path, monkeypatch) -> None:
    import multiprocessing

    from smalti.worlds.objects.preparing import prepare

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "as_completed", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare_objects(tmp_path / "out", ["noto", "twemoji"], jobs=2)
    assert multiprocessing.active_children() == []


def test_a_damaged_part_is_named(publisher, tmp_path: Path) -> None:
    prepare_objects(tmp_path / "out", ["noto"], jobs=1)
    (part,) = (tmp_path / "out" / "parts").iterdir()
    part.write_bytes(part.read_bytes()[:-100])
    (tmp_path / "out" / "prepared.json").write_text("{}")
    with pytest.raises(SmaltiError, match="is no sprite archive, or is damaged"):
        prepare_objects(tmp_path / "out", ["noto"], jobs=1)


def test_part_names_depend_on_what_is_drawn(publisher) -> None:
    (part,) = plan("noto")
    others = [
        Part(part.package, 0, part.entries[:1]),
        Part(part.package, 1, part.entries),
        Part(plan("twemoji")[0].package, 0, part.entries),
        Part(part.package, 0, part.entries, {"apple": ["red"]}),
    ]
    names = {part.file_name, *(other.file_name for other in others)}
    assert len(names) == 5 and all(name.endswith(".zip") for name in names)
