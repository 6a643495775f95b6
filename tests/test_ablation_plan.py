"""What a study consists of: variants, equal budgets, shares, a user's grid; and what cannot be a study."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from conftest import tiny_config, write_pairs
from pairloom import presets
from pairloom.ablation.grid import read_grid
from pairloom.ablation.paper_tables import TABLE_1
from pairloom.ablation.plan import Plan
from pairloom.ablation.schedule import share
from pairloom.ablation.studies import DEFAULTS, STUDIES, check_name
from pairloom.ablation.study import StudyError
from pairloom.config import Config, DataConfig
from pairloom.configfile import override
from pairloom.data import find_pairs
from pairloom.describe import describe
from pairloom.networks import build_discriminator

SCORES = {"ssim": None, "class_iou": None}


def plan_of(name: str, tmp_path: Path, base: Config | None = None, **more: int) -> Plan:
    base = base or override(presets.paper(), DEFAULTS.get(name, {}))
    study = STUDIES[name](base, more.pop("pairs", 400))
    return Plan.make(tmp_path / "study", study, base, seeds=more.pop("seeds", 2), pairs=400)


# -----------------------------------------------------------------------------------------------------------
# The paper's studies


@pytest.mark.parametrize("name", STUDIES)
def test_every_variant_of_every_study_can_be_built_and_counted(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, tmp_path)
    for cell in plan.cells():
        assert describe(cell.config).words()
    named = {variant.name for variant in plan.study.variants}
    for finding in plan.study.findings:
        assert {finding.higher, finding.lower or finding.higher} <= named
        assert sum(v is not None for v in (finding.lower, finding.above, finding.below)) == 1


@pytest.mark.parametrize("name", STUDIES)
def test_every_run_sees_as_many_images(name: str, tmp_path: Path) -> None:
    plan = plan_of(name, tmp_path)
    assert plan.images == 400 * 200  # the paper's facades: 200 epochs of 400 pairs
    for cell in plan.cells():
        seen = cell.steps * cell.config.training.batch_size
        assert plan.images <= seen < plan.images + cell.config.training.batch_size


def test_the_objectives_are_those_of_table_1_and_l2(tmp_path: Path) -> None:
    plan = plan_of("objectives", tmp_path)
    terms = {}
    for cell in plan.cells():
        objective, d = cell.config.objective, cell.config.discriminator
        d_sees_x = d.conditional if objective.lambda_gan else None
        terms[cell.variant.title] = (objective.lambda_l1, objective.lambda_l2, objective.lambda_gan, d_sees_x)
    assert terms == {
        "L2": (0, 100, 0, None),
        "L1": (100, 0, 0, None),
        "GAN": (0, 0, 1, False),
        "cGAN": (0, 0, 1, True),
        "L1+GAN": (100, 0, 1, False),
        "L1+cGAN": (100, 0, 1, True),
    }
    assert set(TABLE_1.rows) - set(terms) == {"Ground truth"}


def test_an_objective_keeps_the_weight_that_the_user_gave(tmp_path: Path) -> None:
    base = override(presets.paper(), {"objective.lambda_l1": 30.0})
    plan = plan_of("objectives", tmp_path, base)
    assert plan.cell(plan.study.variant("l1-cgan"), 0).config.objective.lambda_l1 == 30
    assert plan.cell(plan.study.variant("l2"), 0).config.objective.lambda_l2 == 30


def test_generators_are_compared_at_batch_size_10(tmp_path: Path) -> None:
    configs = [cell.config for cell in plan_of("generators", tmp_path).cells()]
    assert {c.training.batch_size for c in configs} == {10}
    assert {(c.generator.skip, c.objective.lambda_gan) for c in configs} == {
        (skip, weight) for skip in ("none", "concat", "add") for weight in (0, 1)
    }


def test_a_patch_variant_is_named_for_the_receptive_field_that_its_d_has(tmp_path: Path) -> None:
    for cell in plan_of("patches", tmp_path).cells():
        if cell.config.objective.lambda_gan:
            d = build_discriminator(cell.config.discriminator, 3, 3)
            assert cell.variant.name == f"{d.receptive_field}x{d.receptive_field}"
        else:
            assert cell.variant.name == "l1"


def test_286_pixels_do_not_exist_below_128(tmp_path: Path) -> None:
    base = override(presets.paper(), {"data.crop_size": 64})
    with pytest.raises(StudyError, match=r"286x286.*discriminator\.num_layers is 5.*for a crop of 64"):
        plan_of("patches", tmp_path, base)
    assert plan_of("patches", tmp_path, override(base, {"data.crop_size": 128}))


def test_scaled_patches_are_to_the_crop_what_the_papers_are_to_256(tmp_path: Path) -> None:
    plan = plan_of("patches-scaled", tmp_path, override(presets.paper(), {"data.crop_size": 64}))
    assert [v.title for v in plan.study.variants] == [
        "L1, no D",
        "1x1",
        "16x16 (for the paper's 70x70)",
        "70x70 (for the paper's 286x286)",
    ]
    same = plan_of("patches-scaled", tmp_path)
    assert [v.name for v in same.study.variants] == ["l1", "1x1", "16x16", "70x70", "286x286"]


def test_dropout_at_test_only_is_a_second_look_at_the_same_runs(tmp_path: Path) -> None:
    plan = plan_of("noise", tmp_path, seeds=1)
    assert [cell.variant.name for cell in plan.cells()] == ["none", "dropout", "gaussian"]
    without, with_ = (plan.cell(plan.study.variant(n), 0) for n in ("dropout-train", "dropout"))
    assert without.path == with_.path
    alone = plan.study.only(("none", "dropout-train"))
    assert [v.run_name for v in alone.variants] == ["none", "dropout-train"]


def test_the_learning_curve_halves_the_pairs(tmp_path: Path) -> None:
    plan = plan_of("data", tmp_path)
    counts = [cell.config.data.max_pairs for cell in plan.cells() if cell.seed == 0]
    assert counts == [25, 50, 100, 200, 400] == list(plan.study.curve)


# -----------------------------------------------------------------------------------------------------------
# The plan


def test_runs_differ_by_their_seeds_only(tmp_path: Path) -> None:
    plan = plan_of("batch", tmp_path, seeds=3)
    cells = list(plan.cells())
    assert [(c.variant.name, c.seed) for c in cells[:4]] == [("1", 0), ("4", 0), ("10", 0), ("1", 1)]
    assert len({c.path for c in cells}) == 9
    assert override(cells[0].config, {"training.seed": 1}) == cells[3].config


def test_shares_divide_the_runs(tmp_path: Path) -> None:
    cells = list(plan_of("objectives", tmp_path, seeds=3).cells())
    parts = [share(cells, f"{i}/4") for i in range(1, 5)]
    assert sorted(c.path for part in parts for c in part) == sorted(c.path for c in cells)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert share(cells, None) == cells
    for wrong in ("0/4", "5/4", "2", "a/b", "1/0", "-1/2"):
        with pytest.raises(StudyError, match="--cell is"):
            share(cells, wrong)


def test_a_study_goes_on_only_as_it_was_begun(tmp_path: Path) -> None:
    base = override(presets.paper(), {"training.steps": 10})
    plan_of("lambda", tmp_path, base).save()
    plan_of("lambda", tmp_path, base, seeds=5).save()  # more seeds are welcome
    with pytest.raises(StudyError, match=r"training\.learning_rate: 0\.0002 -> 0\.001"):
        plan_of("lambda", tmp_path, override(base, {"training.learning_rate": 1e-3})).save()
    with pytest.raises(StudyError, match="images seen by each run: 10 -> 20"):
        plan_of("lambda", tmp_path, override(base, {"training.steps": 20})).save()
    with pytest.raises(StudyError, match="holds the study 'lambda'; give 'batch' another --out"):
        plan_of("batch", tmp_path, base).save()
    begun = json.loads((tmp_path / "study" / "study.json").read_text())
    assert (begun["study"], begun["seeds"], begun["images"]) == ("lambda", 5, 10)


def test_some_variants_alone_keep_the_findings_that_they_can_answer(tmp_path: Path) -> None:
    study = plan_of("objectives", tmp_path).study
    some = study.only(("l1-cgan", "l1"))
    assert [v.name for v in some.variants] == ["l1", "l1-cgan"]
    assert {(f.higher, f.lower) for f in some.findings} == {("l1-cgan", "l1")}
    with pytest.raises(StudyError, match=r"no variant 'l1cgan'.*did you mean 'l1-cgan'"):
        study.only(("l1cgan",))


def test_an_unknown_study_names_the_nearest() -> None:
    with pytest.raises(StudyError, match=r"no study 'objective'.*did you mean 'objectives'"):
        check_name("objective")


# -----------------------------------------------------------------------------------------------------------
# A user's grid


def grid(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return path


def test_a_grid_is_every_combination_of_its_values(tmp_path: Path, tiny_data: Path) -> None:
    study = read_grid(
        grid(
            tmp_path,
            """
            title = "Upsampling"
            [grid]
            generator.upsample = ["transposed", "resize"]
            "objective.lambda_l1" = [10, 100]
            [[variant]]
            name = "wide"
            fields = { generator.base_channels = 16 }
            [[finding]]
            statement = "Resize-convolutions score a higher SSIM"
            score = "ssim"
            higher = "resize-100"
            lower = "transposed-100"
            """,
        ),
        SCORES,
    )
    plan = Plan.make(tmp_path / "out", study, tiny_config(tiny_data), seeds=1, pairs=5)
    got = {
        c.variant.name: (
            c.config.generator.upsample,
            c.config.objective.lambda_l1,
            c.config.generator.base_channels,
        )
        for c in plan.cells()
    }
    assert got == {
        "transposed-10": ("transposed", 10, 8),
        "transposed-100": ("transposed", 100, 8),
        "resize-10": ("resize", 10, 8),
        "resize-100": ("resize", 100, 8),
        "wide": ("transposed", 100, 16),
    }
    assert study.findings[0].source == "grid.toml"
    assert study.variants[0].title == "upsample transposed, lambda_l1 10"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("title = 'x'", "the grid has no cells"),
        ("[grid]\ngenerator.skip = []", r"grid.generator.skip has no values, so the grid has no cells"),
        ("[grid]\ngenerator.skip = 'add'", r"give its values in brackets: \['add'\]"),
        ("[gird]\na = [1]", "no key 'gird'.*did you mean 'grid'"),
        ("grid = 3", "grid is 3; write it as a table"),
        ("title = 3", "title is 3; it must be a text"),
        ("[grid", "cannot be read as a TOML grid"),
        ("[[variant]]\nname = '../x'", "a variant is named '../x'"),
        ("[[variant]]\nname = 'a'\nfeilds = {}", "no key 'feilds'.*did you mean 'fields'"),
        ("[[variant]]\nname = 'a'\n[[variant]]\nname = 'a'", "two variants are named 'a'"),
        ("[[variant]]\nname = 'a'\ndropout = 2", "dropout is 2; it must be true or false"),
        (
            "[[variant]]\nname = 'a'\n[[finding]]\nstatement='s'\nscore='sim'\nhigher='a'\nabove=1.0",
            "no score 'sim'.*did you mean 'ssim'",
        ),
        (
            "[[variant]]\nname = 'a'\n[[finding]]\nstatement='s'\nscore='ssim'\nhigher='b'\nabove=1.0",
            "names the variant 'b', which is none of a",
        ),
        (
            "[[variant]]\nname = 'a'\n[[finding]]\nstatement='s'\nscore='ssim'\nhigher='a'",
            "needs one of lower, above and below",
        ),
        ("[[variant]]\nname = 'a'\n[[finding]]\nstatement='s'", "a finding needs statement, score"),
    ],
)
def test_a_faulty_grid_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(StudyError, match=sentence) as error:
        read_grid(grid(tmp_path, text), SCORES)
    assert "grid.toml: " in str(error.value)


def test_an_unknown_field_of_a_grid_names_the_nearest(tmp_path: Path, tiny_data: Path) -> None:
    study = read_grid(grid(tmp_path, "[grid]\ngenerator.base_chanels = [8]"), SCORES)
    with pytest.raises(
        StudyError, match=r"no field 'generator.base_chanels'; did you mean 'generator.base_channels'"
    ):
        Plan.make(tmp_path / "out", study, tiny_config(tiny_data), seeds=1, pairs=5)


def test_no_seeds_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--seeds is 0"):
        plan_of("lambda", tmp_path, seeds=0)


def test_fewer_pairs_are_drawn_from_within_the_more(tmp_path: Path) -> None:
    """As docs/studies/data.md says: the curve adds pairs, it never swaps them."""
    root = write_pairs(tmp_path / "pairs", train=16)
    names = [
        {pair.name for pair in find_pairs(DataConfig(path=str(root), max_pairs=count)).split("train")}
        for count in (2, 4, 8, 16)
    ]
    assert [len(chosen) for chosen in names] == [2, 4, 8, 16]
    assert all(fewer < more for fewer, more in itertools.pairwise(names))
