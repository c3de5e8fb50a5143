"""Folders and lists that follow a known layout are read by it; what nearly does is named before an image is opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from worker.datasets.dataset import DatasetError, read_dataset
from worker.datasets.formats import ListedImage
from worker.datasets.sources import read_listing

FORENSICS = ("images/train/l/real/a.png", "images/train/l/adm/b.png")
OWN = ("images/reals/a.png", "images/fakes/b.png")
NUMBERED = ("progan/car/0_real/a.png", "progan/car/1_fake/b.png")
NATURE = ("ADM/train/nature/a.png", "ADM/train/ai/b.png")


def lay(root: Path, files: Sequence[str]) -> Path:
    """Write files of no content: whoever opens them finds no image."""
    for file in files:
        path = root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return root


def rows_of(source: Path) -> list[ListedImage]:
    mistakes: list[str] = []
    found = read_listing(source, mistakes)
    assert mistakes == []
    return list(found.images)


def mistakes_of(source: Path) -> str:
    """What is told before any image is opened: none of these could be decoded."""
    with pytest.raises(DatasetError) as caught:
        read_dataset(source)
    assert "left out" not in caught.value.message
    return "\n".join(caught.value.mistakes)


@pytest.mark.parametrize("below", ["", "images/"])
@pytest.mark.parametrize(
    ("file", "told"),
    [
        ("reals/deep/er/x.png", (False, "", None)),
        ("reals/nature/x.png", (False, "", None)),
        ("fakes/x.png", (True, "unknown", None)),
        ("fakes/sdxl/deep/x.png", (True, "sdxl", None)),
        ("train/imagenet/real/n01/x.png", (False, "", "train")),
        ("valid/imagenet/adm/x.png", (True, "adm", "validation")),
        ("validation/imagenet/adm/x.png", (True, "adm", "validation")),
        ("test/celebahq/if/x.png", (True, "if", "test")),
        ("0_real/x.png", (False, "", None)),
        ("1_fake/x.png", (True, "unknown", None)),
        ("imagenet/0_real/x.png", (False, "", None)),
        ("dalle/1_fake/x.png", (True, "dalle", None)),
        ("whichfaceisreal/1_fake/x.png", (True, "whichfaceisreal", None)),
        ("deepfake/1_fake/x.png", (True, "deepfake", None)),
        ("progan/car/0_real/x.png", (False, "", None)),
        ("progan/car/1_fake/x.png", (True, "progan", None)),
        ("stylegan/human/1_fake/x.png", (True, "stylegan", None)),
        ("train/1_fake/x.png", (True, "unknown", "train")),
        ("train/car/1_fake/x.png", (True, "unknown", "train")),
        ("val/car/0_real/x.png", (False, "", "validation")),
        ("test/progan/car/1_fake/x.png", (True, "progan", "test")),
        ("ADM/train/nature/x.png", (False, "", "train")),
        ("stable_diffusion_v_1_4/val/ai/x.png", (True, "stable_diffusion_v_1_4", "validation")),
        ("Midjourney/imagenet_midjourney/val/ai/x.png", (True, "Midjourney", "validation")),
        ("train/ai/x.png", (True, "unknown", "train")),
    ],
)
def test_known_conventions_are_read(tmp_path: Path, below: str, file: str, told: tuple[bool, str, str | None]) -> None:
    (row,) = rows_of(lay(tmp_path, [below + file]))
    assert (row.fake, row.generator, row.split) == told
    assert row.path == tmp_path / below / file
    assert row.group == row.where == below + file


@pytest.mark.parametrize(
    ("files", "told"),
    [
        # Two layouts in one.
        (
            (
                *("images/train/car/real/a.png", "images/train/car/progan/b.png"),
                *("images/train/cat/0_real/c.png", "images/train/cat/1_fake/d.png"),
            ),
            ("mixes layouts", "images/train/car/real is of", "images/train/cat/0_real is of"),
        ),
        ((*OWN, "images/train/x/real/c.png", "images/train/x/adm/d.png"), ("mixes layouts", "images/train/x/real is")),
        ((*OWN, "images/train/x/adm/d.png"), ("images/train/x/adm/d.png lies in no folder",)),
        ((*OWN, "images/0_real/c.png"), ("mixes layouts",)),
        ((*NUMBERED, *NATURE), ("mixes layouts",)),
        ((*FORENSICS, "images/train/l/1_fake/c.png"), ("mixes layouts",)),
        ((*OWN, "train/car/0_real/c.png"), ("train/car/0_real/c.png lies beside images",)),
        ((*OWN, "data.csv"), ()),
        # Words that are nearly those of the layout.
        (
            (*OWN, "images/fake/c.png", "images/real/d.png", "images/Fakes2/e.png"),
            ("images/fake/c.png lies", "images/real/d.png lies", "images/Fakes2/e.png lies"),
        ),
        ((*FORENSICS, "images/dev/l/real/c.png"), ("images/dev/l/real/c.png lies in no folder",)),
        ((*FORENSICS, "images/Train/l/adm/c.png"), ("images/Train/l/adm/c.png lies in no folder",)),
        ((*NUMBERED, "progan/cat/0_Real/c.png"), ("progan/cat/0_Real/c.png lies in no folder",)),
        ((*NUMBERED, "progan/cat/real/c.png"), ("progan/cat/real/c.png lies in no folder",)),
        ((*NATURE, "ADM/val/Nature/c.png"), ("ADM/val/Nature/c.png lies in no folder",)),
        ((*NATURE, "ADM/nature/c.png"), ("ADM/nature/c.png lies in no folder",)),
        ((*OWN, "Images/reals/c.png"), ("Images/reals/c.png lies beside images",)),
        (("train/REAL/a.png", "train/FAKE/b.png"), ("train/REAL/a.png lies in no folder train/SUBJECT",)),
        (("real/a.png", "fake/b.png"), ("none of what is understood", "it has fake, real")),
        # Words of a class or a split where they would be passed over, or taken for another.
        ((*OWN, "images/fakes/real/c.png"), ("images/fakes/real would be a generator's",)),
        ((*OWN, "images/fakes/sdxl/0_real/c.png"), ("images/fakes/sdxl/0_real contradicts sdxl",)),
        ((*OWN, "images/reals/fake/c.png"), ("images/reals/fake contradicts reals",)),
        ((*OWN, "images/reals/test/c.png"), ("images/reals/test is a split where none is read",)),
        ((*OWN, "images/fakes/sdxl/train/c.png"), ("images/fakes/sdxl/train is a split where none is read",)),
        ((*OWN, "images/fakes/val/c.png"), ("images/fakes/val would be a generator's",)),
        ((*FORENSICS, "images/train/real/imagenet/c.png"), ("images/train/real would be a subject's",)),
        ((*FORENSICS, "images/train/nature/paris/c.png"), ("images/train/nature would be a subject's",)),
        ((*FORENSICS, "images/train/l/val/c.png"), ("images/train/l/val would be a generator's",)),
        ((*FORENSICS, "images/train/l/adm/real/c.png"), ("images/train/l/adm/real contradicts adm",)),
        ((*FORENSICS, "images/train/l/fake/c.png"), ("images/train/l/fake would be a generator's",)),
        ((*NUMBERED, "real/1_fake/c.png"), ("real contradicts 1_fake",)),
        ((*NUMBERED, "fake/0_real/c.png"), ("fake contradicts 0_real",)),
        ((*NUMBERED, "nature/1_fake/c.png"), ("nature contradicts 1_fake",)),
        ((*NUMBERED, "progan/train/1_fake/c.png"), ("progan/train is a split where none is read",)),
        ((*NUMBERED, "1/1_fake/c.png"), ("1 would be a generator's",)),
        ((*NATURE, "test/train/ai/c.png"), ("test is a split where none is read",)),
        # Images at another depth.
        ((*OWN, "images/c.png"), ("images/c.png lies in no folder",)),
        ((*OWN, "c.JPG"), ("c.JPG lies beside images",)),
        ((*OWN, "more/deep/c.webp"), ("more/deep/c.webp lies beside images", "move more away")),
        ((*FORENSICS, "images/train/l/c.png", "images/train/l/d.png"), ("images/train/l/c.png and 1 more lie in no",)),
        ((*FORENSICS, "images/train/c.png"), ("images/train/c.png lies in no folder train/SUBJECT/{real,GENERATOR}",)),
        ((*NUMBERED, "progan/car/0_real/deep/c.png"), ("progan/car/0_real/deep lies in 0_real",)),
        ((*NUMBERED, "a/b/c/1_fake/c.png"), ("a/b/c/1_fake lies too deep",)),
        ((*NATURE, "all/ADM/train/ai/c.png"), ("all/ADM stands where the split is expected",)),
    ],
)
def test_what_nearly_fits_is_named(tmp_path: Path, files: Sequence[str], told: Sequence[str]) -> None:
    lay(tmp_path, files)
    if "data.csv" in files:
        (tmp_path / "data.csv").write_text("Path;Label;Split\n")
        told = ("data.csv lists images as well",)
    found = mistakes_of(tmp_path)
    assert [part for part in told if part not in found] == [], found


@pytest.mark.parametrize(
    "name",
    [
        *("real", "Real", "REALS", "0_real", "real_images", "RealImages", "real-photos", "coco_real", "real2"),
        *("nature", "Natural", "authentic", "genuine", "photo", "photos", "photographs", "original", "pristine"),
        *("human", "human_made", "camera", "non_fake", "nonfake", "0", "1", "class_0", "images", "fake", "ai"),
        *("train", "val", "Test", "dev"),
    ],
)
def test_no_class_is_taken_for_a_generator(tmp_path: Path, name: str) -> None:
    lay(tmp_path / "own", [*OWN, f"images/fakes/{name}/c.png"])
    assert f"images/fakes/{name} would be a generator's" in mistakes_of(tmp_path / "own")
    if name not in {"real", "0_real"}:  # there the first is right, and the second of another layout
        lay(tmp_path / "forensics", [*FORENSICS, f"images/train/m/{name}/c.png"])
        assert f"images/train/m/{name} would be a generator's" in mistakes_of(tmp_path / "forensics")


@pytest.mark.parametrize(
    "name",
    ["sdxl_photo", "realistic_vision", "RealVisXL_V4", "Midjourney", "deepfake", "stable-diffusion-1.5", "imagen"],
)
def test_generators_whose_names_only_sound_alike_are_read(tmp_path: Path, name: str) -> None:
    rows = rows_of(lay(tmp_path, [*OWN, f"images/fakes/{name}/c.png"]))
    assert {row.generator for row in rows if row.fake} == {"unknown", name}


def test_a_subject_may_be_called_as_a_class_where_its_class_lies_in_it(tmp_path: Path) -> None:
    rows = rows_of(lay(tmp_path, ["images/train/nature/real/a.png", "images/train/nature/adm/b.png"]))
    assert [(row.path.name, row.fake) for row in rows] == [("b.png", True), ("a.png", False)]


def test_the_order_is_that_of_classes_and_splits_then_of_names(tmp_path: Path) -> None:
    rows = rows_of(lay(tmp_path / "own", ["images/fakes/b.png", "images/fakes/a.png", "images/reals/c.png"]))
    assert [row.path.name for row in rows] == ["c.png", "a.png", "b.png"]
    files = [f"images/{split}/l/real/{split}.png" for split in ("test", "val", "train")]
    assert [row.path.name for row in rows_of(lay(tmp_path / "df", files))] == ["train.png", "val.png", "test.png"]


def test_what_lies_beside_images_by_convention_is_left_alone(tmp_path: Path) -> None:
    others = ["README.md", "dire/reals/a.png", "eps/reals/a.pt", "recons/a.png", "images/labels.json", "notes.csv"]
    assert len(rows_of(lay(tmp_path, [*OWN, *others]))) == 2


@pytest.mark.parametrize(
    ("files", "empty"),
    [
        (OWN, "images/fakes/adm"),
        (FORENSICS, "images/val"),
        (FORENSICS, "images/test/l"),
        (FORENSICS, "images/train/m/real"),
        (NUMBERED, "progan/cat/0_real"),
        (NATURE, "ADM/val/nature"),
    ],
)
def test_empty_folders_of_a_layout_are_named(tmp_path: Path, files: Sequence[str], empty: str) -> None:
    (lay(tmp_path, files) / empty).mkdir(parents=True)
    assert f"{empty} is empty" in mistakes_of(tmp_path)


def test_hidden_files_are_listed_and_are_no_generator(tmp_path: Path) -> None:
    lay(tmp_path, [*OWN, "images/fakes/.cache/c.png", "images/reals/.a.png", ".git/x.png", "images/__MACOSX/d.png"])
    mistakes: list[str] = []
    found = read_listing(tmp_path, mistakes)
    assert mistakes == []
    assert [row.path.name for row in found.images] == ["a.png", "b.png"]
    assert {skipped.path.name for skipped in found.skipped} == {".cache", ".a.png", "__MACOSX"}


def test_a_folder_that_links_lead_to_twice_is_named(tmp_path: Path) -> None:
    lay(tmp_path / "data", OWN)
    lay(tmp_path / "elsewhere", ["c.png"])
    for name in ("sdxl", "flux"):
        (tmp_path / "data/images/fakes" / name).symlink_to(tmp_path / "elsewhere")
    assert "images/fakes/sdxl is the same folder as images/fakes/flux, by a link" in mistakes_of(tmp_path / "data")


def test_links_among_folders_end(tmp_path: Path) -> None:
    """Each of twelve folders links to the eleven others: walked along every way, that is 12! of them."""
    lay(tmp_path, [*OWN, *(f"images/fakes/g{number}/x.png" for number in range(12))])
    for number in range(12):
        for other in range(12):
            if other != number:
                (tmp_path / f"images/fakes/g{number}/to{other}").symlink_to(tmp_path / f"images/fakes/g{other}")
    assert "by a link" in mistakes_of(tmp_path)


def test_folders_end_in_some_depth(tmp_path: Path) -> None:
    lay(tmp_path, [*OWN, f"images/reals/{'/'.join('x' * 300)}/c.png"])
    assert "lies more than 40 folders deep" in mistakes_of(tmp_path)


def test_a_link_to_nothing_in_a_generators_place_is_named(tmp_path: Path) -> None:
    (lay(tmp_path, FORENSICS) / "images/train/l/sdxl").symlink_to(tmp_path / "gone")
    assert "images/train/l/sdxl lies in no folder" in mistakes_of(tmp_path)


@pytest.mark.timeout(20)
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("path,label\npipe.png,real\npipe.png,fake\n")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "data.csv").write_text("path,label\npipe.png,real\ngone.png,fake\n")
    with pytest.raises(DatasetError, match=r"pipe\.png: is no file"):
        read_dataset(tmp_path / "data.csv")


@pytest.mark.parametrize(
    "text",
    [
        "path,label,generator,group,split\na.png,real,,g,train\nb.png,fake,sdxl,g,validation\n",
        "Path, LABEL ,Generator,Group,Split\na.png,Real,,g,Train\nb.png,FAKE,sdxl,g,VAL\n",
        "\ufeffpath;label;generator;group;split\r\na.png;real;;g;train\r\nb.png;fake;sdxl;g;valid\r\n",
        "path\tlabel\tgenerator\tgroup\tsplit\na.png\treal\t\tg\ttrain\nb.png\tfake\tsdxl\tg\tvalidation\n",
        "path,label,generator,group,split,,\na.png,real,,g,train,,\n\n,,,,,,\nb.png,fake,sdxl,g,validation,,,,\n",
    ],
)
def test_a_list_is_read_where_it_can_mean_one_thing_only(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.csv").write_text(text, encoding="utf-8")
    rows = rows_of(tmp_path / "data.csv")
    assert [(row.path.name, row.fake, row.generator, row.group, row.split) for row in rows] == [
        ("a.png", False, "", "g", "train"),
        ("b.png", True, "sdxl", "g", "validation"),
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("path,label\na.png,0\nb.png,1\n", ("line 2 has the label '0'", "line 3 has the label '1'")),
        ("path,label\na.png,reals\n", ("line 2 has the label 'reals'",)),
        ("path,label,path\na.png,real,b.png\n", ("it has 2 columns path",)),
        ("path,label,Label\na.png,real,fake\n", ("it has 2 columns label",)),
        ("path,label,splits\na.png,real,test\n", ("it has a column 'splits': rename it to split",)),
        ("path,labels\na.png,real\n", ("it has a column 'labels': rename it to label",)),
        ("path|label\na.png|real\n", ("it has no column path and no column label",)),
        ("path,label\na,b.png,real\nc.png,fake\n", ("line 2 has 3 fields for 2 columns",)),
        ("path,label,generator,split\nb.png,fake,test\n", ("line 2 has 3 fields for 4 columns",)),
        ('path,label\na.png,real\n"b.png,fake\nc.png,fake\n', ("line 4 cannot be read as CSV",)),
        ("path,label\na.png,real\n./a.png,fake\n", ("line 3 repeats", "of line 2 with another label")),
        ("path,label\na.png,real\nx/../a.png,real\n", ("line 3 repeats",)),
        ("path,label,generator\na.png,fake,real\n", ("line 2 is labelled fake and has the generator 'real'",)),
        ("path,label,split\na.png,real,dev\n", ("line 2 has the split 'dev'",)),
        ("path,label\n", ("there is no real image", "there is no fake image")),
        ("", ("it has no column path and no column label",)),
    ],
)
def test_a_line_that_may_mean_something_else_is_named(tmp_path: Path, text: str, told: Sequence[str]) -> None:
    (tmp_path / "data.csv").write_text(text)
    found = mistakes_of(tmp_path / "data.csv")
    assert [part for part in told if part not in found] == [], found


def test_a_list_in_another_encoding_is_named(tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("path,label\na.png,real\n", encoding="utf-16")
    assert "cannot be read as CSV in UTF-8" in mistakes_of(tmp_path / "data.csv")
