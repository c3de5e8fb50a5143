"""Data sets in their three layouts, and every mistake in them."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import defaultdict
from pathlib import Path
from typing import Literal

import pytest
from PIL import Image

from worker.datasets.dataset import Dataset, DatasetError, read_dataset, split_of
from worker.datasets.formats import Skipped, Split


def save(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    red, green, blue, *_ = hashlib.sha256(os.fsencode(path)).digest()  # no two files are the same
    Image.new("RGB", (8, 8), (red, green, blue)).save(path)
    return path


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """A manifest of a photograph, a fake made from it and one more fake; tests append to it."""
    for name in ("a.png", "a-sdedit.png", "b.jpg"):
        save(tmp_path / "files" / name)
    path = tmp_path / "data.csv"
    path.write_text(
        "path,label,generator,group,split\n"
        "files/a.png,real,,a,test\n"
        "files/a-sdedit.png,fake,sdedit,a,test\n"
        "files/b.jpg,fake,,,train\n"
    )
    return path


def add(manifest: Path, *lines: str) -> None:
    with manifest.open("a") as file:
        file.write("".join(f"{line}\n" for line in lines))


def mistakes_of(source: Path) -> tuple[str, ...]:
    with pytest.raises(DatasetError) as caught:
        read_dataset(source)
    assert all(mistake in caught.value.message for mistake in caught.value.mistakes)
    return caught.value.mistakes


def by_name(dataset: Dataset) -> dict[str, tuple[bool, str, str, str]]:
    return {image.path.name: (image.fake, image.generator, image.group, image.split) for image in dataset.images}


def test_class_folders(tmp_path: Path) -> None:
    for name in ("reals/r.png", "fakes/f.png", "fakes/adm/deep/g.png"):
        save(tmp_path / "images" / name)
    found = by_name(read_dataset(tmp_path))
    assert found["r.png"][:3] == (False, "", "images/reals/r.png")
    assert found["f.png"][:3] == (True, "unknown", "images/fakes/f.png")
    assert found["g.png"][:3] == (True, "adm", "images/fakes/adm/deep/g.png")
    assert {image.split for image in read_dataset(tmp_path).images} == {split_of(row[2]) for row in found.values()}


def test_the_folders_of_diffusion_forensics(tmp_path: Path) -> None:
    save(tmp_path / "images/train/imagenet/real/n01/1.png")
    save(tmp_path / "images/val/imagenet/adm/2.png")
    save(tmp_path / "images/test/lsun_bedroom/iddpm/3.png")
    assert by_name(read_dataset(tmp_path)) == {
        "1.png": (False, "", "images/train/imagenet/real/n01/1.png", "train"),
        "2.png": (True, "adm", "images/val/imagenet/adm/2.png", "validation"),
        "3.png": (True, "iddpm", "images/test/lsun_bedroom/iddpm/3.png", "test"),
    }


def test_a_manifest_is_read_in_its_order(manifest: Path) -> None:
    dataset = read_dataset(manifest)
    assert [image.path for image in dataset.images] == [
        manifest.parent / "files" / name for name in ("a.png", "a-sdedit.png", "b.jpg")
    ]
    assert by_name(dataset)["a-sdedit.png"] == (True, "sdedit", "a", "test")
    assert by_name(dataset)["b.jpg"] == (True, "unknown", "files/b.jpg", "train")
    assert [image.path.name for image in dataset.of("train")] == ["b.jpg"]


def test_a_group_without_a_split_gets_one_by_its_digest(tmp_path: Path) -> None:
    lines = ["path,label,group"]
    for number in range(60):
        save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'real' if number % 2 else 'fake'},g{number // 2}")
    (tmp_path / "data.csv").write_text("\n".join(lines))
    splits = defaultdict(set)
    for image in read_dataset(tmp_path / "data.csv").images:
        splits[image.group].add(image.split)
    assert all(found == {split_of(group)} for group, found in splits.items())
    assert set.union(*splits.values()) == {"train", "validation", "test"}


def test_a_group_is_where_any_of_its_images_is_said_to_be(manifest: Path) -> None:
    for name in ("c.png", "d.png"):
        save(manifest.parent / name)
    add(manifest, "c.png,real,,other,", "d.png,fake,,other,validation")
    assert split_of("other") != "validation"
    assert by_name(read_dataset(manifest))["c.png"][3] == "validation"


def test_every_mistake_is_listed_at_once_before_an_image_is_opened(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr("worker.datasets.labelled_image.decode")
    add(
        manifest,
        "x.png,genuine,,x,train",
        ",real,,x,train",
        "y.png,real,adm,y,train",
        "z.png,fake,adm,z,dev",
        "files/c.png,real,,a,train",
        "files/b.jpg,fake,,b,train",
        "n\0.png,fake,,n,train",
    )
    found = mistakes_of(manifest)
    wanted = [
        "line 5 has the label 'genuine'",
        "line 6 has no path",
        "line 7 is labelled real and has the generator 'adm'",
        "line 8 has the split 'dev'",
        "line 11 has a path with the character NUL",
        "group 'a' is in 2 splits: test (line 2) and train (line 9)",
        "line 10 repeats",
    ]
    assert len(found) == len(wanted)
    assert all(part in mistake for part, mistake in zip(wanted, found, strict=True))


def test_a_class_without_images_is_a_mistake(tmp_path: Path) -> None:
    save(tmp_path / "images/fakes/f.png")
    assert mistakes_of(tmp_path) == ("there is no real image",)
    (tmp_path / "data.csv").write_text("path,label\nimages/fakes/f.png,fake\nx.png,photo\n")
    assert mistakes_of(tmp_path / "data.csv")[1] == "there is no real image"


def test_columns_that_are_needed_are_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("file,class\na.png,real\n")
    assert mistakes_of(tmp_path / "data.csv") == ("it has no column path and no column label",)


def test_what_is_no_data_set_is_told_what_one_looks_like(tmp_path: Path) -> None:
    assert "images/fakes and images/reals" in mistakes_of(tmp_path)[0]
    assert mistakes_of(tmp_path / "nowhere")[0] == "there is no such path"
    (tmp_path / "latin.csv").write_bytes(b"path,label\n\xff.png,real\n")
    assert "UTF-8" in mistakes_of(tmp_path / "latin.csv")[0]
    save(tmp_path / "images/train/real.png")
    assert "lies in no folder train/SUBJECT" in mistakes_of(tmp_path)[0]


def test_files_that_cannot_be_used_are_listed_and_left_out(manifest: Path) -> None:
    whole = save(manifest.parent / "files" / "whole.png").read_bytes()
    (manifest.parent / "cut.png").write_bytes(whole[: len(whole) // 2])
    (manifest.parent / "notes.txt").write_text("no image")
    add(manifest, "cut.png,real,,,train", "missing.png,real,,,train", "notes.txt,fake,,,train")
    dataset = read_dataset(manifest)
    assert [image.path.name for image in dataset.images] == ["a.png", "a-sdedit.png", "b.jpg"]
    assert [skipped.path.name for skipped in dataset.skipped] == ["cut.png", "missing.png", "notes.txt"]
    assert [skipped.reason.partition(":")[0] for skipped in dataset.skipped] == [
        "corrupt_image",
        "cannot be read",
        "unsupported_media_type",
    ]
    assert isinstance(dataset.skipped[0], Skipped)


def test_a_class_of_unusable_files_is_a_class_without_images(manifest: Path) -> None:
    (manifest.parent / "files" / "a.png").write_bytes(b"")
    mistakes = mistakes_of(manifest)
    assert len(mistakes) == 1
    assert "no real image" in mistakes[0]
    assert "a.png" in mistakes[0]


def test_one_file_with_two_labels_or_in_two_splits_is_a_mistake(manifest: Path) -> None:
    files = manifest.parent / "files"
    for copy, of in (("a2.png", "a.png"), ("a3.png", "a.png"), ("a4.png", "a.png"), ("b2.jpg", "b.jpg")):
        shutil.copyfile(files / of, files / copy)
    add(manifest, "files/a2.png,fake,,a,test", "files/a3.png,real,,other,train", "files/a4.png,real,,a,test")
    add(manifest, "files/b2.jpg,fake,,files/b.jpg,train")
    assert mistakes_of(manifest) == (
        f"{files}/a2.png is the same file as {files}/a.png, labelled otherwise: remove one or both",
        f"{files}/a3.png is the same file as {files}/a.png and is in train, the other in test: remove one",
    )


def test_copies_of_one_file_are_not_evidence_of_their_own(manifest: Path) -> None:
    files = manifest.parent / "files"
    shutil.copyfile(files / "b.jpg", files / "b2.jpg")
    add(manifest, "files/b2.jpg,fake,,,train")
    said = f"{files}/b2.jpg is the same file as {files}/b.jpg, in another group: remove one, or give both one group"
    assert mistakes_of(manifest) == (said,)


def test_links_to_folders_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "data/images/reals/r.png")
    save(tmp_path / "elsewhere/deep/f.png")
    (tmp_path / "data/images/fakes").mkdir()
    (tmp_path / "data/images/fakes/sdxl").symlink_to(tmp_path / "elsewhere")
    assert by_name(read_dataset(tmp_path / "data"))["f.png"][:2] == (True, "sdxl")
    (tmp_path / "elsewhere/deep/round").symlink_to(tmp_path / "elsewhere")
    assert mistakes_of(tmp_path / "data") == (
        "images/fakes/sdxl/deep/round is a link to a folder that it lies in: remove it",
    )


def test_folders_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    """A path that is too long stands for a missing permission: those do not bind whom tests may run as."""
    for name in ("reals/r.png", "fakes/f.png"):
        save(tmp_path / "images" / name)
    folder = os.open(tmp_path / "images/fakes", os.O_RDONLY)
    for _ in range(20):
        os.mkdir("x" * 250, dir_fd=folder)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    (mistake,) = mistakes_of(tmp_path)
    assert mistake.startswith("images/fakes/xxx")
    assert mistake.endswith("cannot be read: File name too long; make it readable, or remove it")


def test_names_that_no_report_can_hold_are_mistakes(tmp_path: Path) -> None:
    for name in ("reals/r.png", "fakes/f.png", os.fsdecode(b"fakes/\xff.png")):
        save(tmp_path / "images" / name)
    assert mistakes_of(tmp_path) == ("images/fakes/\\udcff.png has a name that is not UTF-8: rename it",)
    strange = (tmp_path / "images").rename(tmp_path / os.fsdecode(b"\xff"))
    with pytest.raises(DatasetError, match="its path is not UTF-8"):
        read_dataset(strange)


def test_photographs_in_a_misspelt_folder_are_no_fakes(tmp_path: Path) -> None:
    for name in ("a/real/1.png", "a/adm/2.png", "b/Real/3.png", "b/Real/4.png", "c/reals/5.png"):
        save(tmp_path / "images/train" / name)
    assert mistakes_of(tmp_path) == (
        "images/train/b/Real would be a generator's: rename it to real",
        "images/train/c/reals would be a generator's: rename it to real",
    )


def test_a_groups_digest_decides_14_3_and_3_in_20() -> None:
    buckets = {int(hashlib.sha256(name.encode()).hexdigest(), 16) % 20: name for name in map(str, range(1000))}
    found = [split_of(buckets[bucket]) for bucket in range(20)]
    assert found == ["train"] * 14 + ["validation"] * 3 + ["test"] * 3


def test_only_the_asked_split_stays_in_memory_and_only_while_there_is_room(
    manifest: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What does not stay is read again, and has the same bytes."""
    size = (manifest.parent / "files" / "a.png").stat().st_size
    cases: list[tuple[int, dict[Split | Literal["all"] | None, int]]] = [
        (1000 * size, {"test": 2, "all": 3, None: 0}),
        (size, {"test": 1}),
    ]
    for room, held in cases:
        monkeypatch.setattr("worker.datasets.labelled_image.HELD_BYTES", room)
        for split, count in held.items():
            images = read_dataset(manifest, hold=split).images
            assert sum(image.content is not None for image in images) == count
            assert all(image.read() == image.path.read_bytes() for image in images)
