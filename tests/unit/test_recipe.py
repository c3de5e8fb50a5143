"""Recipes: the two that are shipped, and files that differ from one of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from worker.model.cards.schema import StudentConfig
from worker.training.recipe import (
    BASES,
    FOLDER,
    Augmentation,
    PairOptions,
    RecipeError,
    StudentOptions,
    StudentPlan,
    TeacherOptions,
    changed,
    read_recipe,
)


def write(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_published_repeats_the_quirks_and_corrected_does_not() -> None:
    published, corrected = read_recipe("published"), read_recipe("corrected")
    assert published.needs_dire
    assert not corrected.needs_dire
    assert (published.augmentation.clean_eps, corrected.augmentation.clean_eps) == (True, False)
    assert (published.teacher.normalised, corrected.teacher.normalised) == (False, True)
    assert (published.training.cutmix, corrected.training.cutmix) == ("first", "pairs")
    assert (published.training.pos_weight, published.teacher.weight) == (0.5, 1.0)


def test_a_file_names_what_differs_from_its_base(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, 'base = "published"\n[teacher]\nsees = "image"\n'))
    assert recipe.name == "mine"
    assert recipe.teacher == read_recipe("published").teacher.model_copy(update={"sees": "image"})
    assert recipe.training == read_recipe("published").training
    assert read_recipe(write(tmp_path, "")).training == read_recipe("corrected").training


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, '[teacher]\nweights = "w.pth"\n[student]\nweights = "/w.pth"\n'))
    assert recipe.teacher.weights == tmp_path / "w.pth"
    assert recipe.student.weights == Path("/w.pth")


def test_all_faults_are_named(tmp_path: Path) -> None:
    text = '[training]\nepochs = 0\nlr = 1\n[student]\ninputs = "depth"\n[augmentation]\ncrop_sides = [0.9, 0.5]\n'
    text += "[pairs]\nseed = -1\n"
    text = text.replace("lr = 1", "lr = 1\nbeta1 = 1.0")
    with pytest.raises(RecipeError) as caught:
        read_recipe(write(tmp_path, text))
    for name in (
        "training.epochs",
        "training.lr",
        "training.beta1",
        "pairs.seed",
        "student.inputs",
        "crop_sides must ascend",
    ):
        assert name in caught.value.message


def test_a_clean_noise_map_goes_with_no_geometry() -> None:
    with pytest.raises(ValueError, match="clean_eps allows no"):
        Augmentation(clean_eps=True, flip_probability=0.5)


def test_noise_channels_are_taken_from_weights_that_are_named(tmp_path: Path) -> None:
    text = '[student]\nnoise_channels = "pretrained"\n'
    with pytest.raises(RecipeError, match=r'student: .*"pretrained" needs a file: name it in weights'):
        read_recipe(write(tmp_path, text))
    assert read_recipe(write(tmp_path, text + 'weights = "w.pth"\n')).student.noise_channels == "pretrained"


@pytest.mark.parametrize(
    ("text", "said"), [(None, "There is no recipe"), ("[", "cannot be read"), ('base = "best"', "base is 'best'")]
)
def test_a_recipe_that_cannot_be_read_is_an_error_with_a_remedy(tmp_path: Path, text: str | None, said: str) -> None:
    named = str(tmp_path / "nowhere.toml") if text is None else write(tmp_path, text)
    with pytest.raises(RecipeError, match=said):
        read_recipe(named)


def test_a_section_can_be_changed() -> None:
    recipe = changed(read_recipe("corrected"), "training", seed=7)
    assert recipe.training.seed == 7
    assert recipe.teacher == read_recipe("corrected").teacher


@pytest.mark.parametrize("section", [Augmentation, PairOptions, StudentOptions, TeacherOptions, StudentPlan])
def test_every_field_is_documented(section: type[BaseModel]) -> None:
    text = section.__doc__ or ""
    as_in_a_card = set(StudentConfig.model_fields) if issubclass(section, StudentConfig) else set()
    assert [name for name in section.model_fields if f"`{name}`" not in text and name not in as_in_a_card] == []


def test_the_recipe_in_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    recipe = read_recipe(write(tmp_path, page.partition("```toml\n")[2].partition("```")[0]))
    assert (recipe.student.backbone, recipe.student.input_size, recipe.teacher.weight) == ("mobilenet_v3_small", 224, 0)


def test_the_shipped_recipes_name_every_field() -> None:
    """Whoever copies one sees all there is; left out is what has no value, or no use."""
    paths = list(FOLDER.glob("*.toml"))
    assert {path.stem for path in paths} == set(BASES)
    for path in paths:
        recipe = read_recipe(path.stem)
        text = path.read_text()
        for section in ("augmentation", "pairs", "student", "teacher", "training"):
            below = text.partition(f"[{section}]")[2].partition("\n[")[0]
            unnamed = [name for name in type(getattr(recipe, section)).model_fields if f"\n{name} =" not in below]
            assert set(unnamed) <= {"weights", "input_size", "crop_sides", "resize_factors"}, path.name
