"""The report: one file that opens from disk and says everything, whatever the run was."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import pairloom
from pairloom.cli import main
from pairloom.config import DiscriminatorConfig
from pairloom.evaluation import gallery
from pairloom.evaluation.curves import MAX_POINTS, running_mean, thin
from pairloom.evaluation.evaluate import evaluate
from pairloom.evaluation.gallery import view
from pairloom.evaluation.patches import nearest_patch, patch_map
from pairloom.evaluation.report import write_report
from pairloom.images import ImageSpec
from pairloom.networks import build_discriminator

VOID = {"meta", "img", "br", "link", "input", "hr"}


@dataclass
class Page(HTMLParser):
    """A page's elements, text and ids; complains about tags that do not nest."""

    source: str
    elements: list[tuple[str, dict[str, str | None]]] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    open: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.source)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        return [value for _, attributes in self.elements if (value := attributes.get("id"))]

    def alts(self) -> list[str]:
        return [alt for image in self.all("img") if (alt := image["alt"])]


def write_pairs(root: Path, **splits: int) -> Path:
    rng = np.random.default_rng(0)
    for split, count in splits.items():
        (root / split).mkdir(parents=True)
        for i in range(count):
            left = np.kron(rng.integers(0, 200, (4, 4, 3)), np.ones((8, 8, 1))) + rng.integers(
                0, 50, (32, 32, 3)
            )
            pair = np.concatenate([left, 255 - left * [1, 0.5, 0.25]], axis=1).astype(np.uint8)
            Image.fromarray(pair).save(root / split / f"{split}-{i}.png")
    return root


def train_on(root: Path, run: Path, **groups: dict[str, Any]) -> Path:
    config = pairloom.presets.tiny()
    groups["data"] = {"path": str(root), "direction": "AtoB"} | groups.get("data", {})
    changes = {name: replace(getattr(config, name), **fields) for name, fields in groups.items()}
    return pairloom.train(replace(config, **changes), run)


def page_of(run: Path) -> Page:
    return Page(write_report(run).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("report")
    made = train_on(write_pairs(base / "pairs", train=3, val=1, test=5), base / "first <run> & more")
    with (made / "metrics.jsonl").open("a") as file:
        for step in (3, 4):
            file.write(json.dumps({"step": step, "warning": "D wins <everything>."}) + "\n")
    write_report(made)
    return made


@pytest.fixture(scope="module")
def page(run: Path) -> Page:
    return Page((run / "report.html").read_text(encoding="utf-8"))


def test_the_page_needs_nothing_but_itself(run: Path, page: Page) -> None:
    for tag, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "data", "action", "poster"):
            value = attributes.get(name) or ""
            assert value == "" or value.startswith(("data:image/png;base64,", "#")), (tag, name, value[:80])
    assert "://" not in re.sub(r'"data:[^"]*"', "", page.source)
    assert not re.search(r"@import|url\((?!#)", page.source)
    assert "default-src 'none'" in page.source
    assert (run / "report.html").stat().st_size < 4_000_000
    assert (run / "evaluation" / "summary.json").exists()


def test_the_page_is_well_formed_and_accessible(page: Page) -> None:
    assert page.source.lstrip().startswith("<!doctype html>")
    assert page.all("html") == [{"lang": "en"}]
    ids = page.ids()
    assert len(ids) == len(set(ids))
    links = [link["href"] for link in page.all("a")]
    assert links
    assert {f"#{i}" for i in ids} >= set(links)
    assert all(image.get("alt") and image.get("width") for image in page.all("img"))
    assert all(head.get("scope") in ("col", "row") for head in page.all("th"))
    references = re.findall(r"url\(#([^)]+)\)", page.source) + re.findall(
        r'xlink:href="#([^"]+)"', page.source
    )
    assert references
    assert set(references) <= set(ids)


def test_names_are_text_not_markup(page: Page) -> None:
    assert "first <run> & more" in page.text
    assert page.all("run") == []


def test_it_has_every_section_with_its_pictures(page: Page) -> None:
    assert {"pictures", "extremes", "train", "numbers", "curves", "patches", "images", "use"} <= set(
        page.ids()
    )
    alts = page.alts()
    for split, side in (
        ("test-0", "source"),
        ("test-0", "output"),
        ("test-0", "target"),
        ("train-0", "output"),
    ):
        assert f"{side} of {split}" in alts
    assert "patch map of the target" in alts
    assert "patch map of the output" in alts
    assert all(image.get("class") == "pixelated" for image in page.all("img"))
    assert len(page.all("svg")) == 4
    for name in (
        "D_real, real pairs",
        "D_fake, generated pairs",
        "G_GAN",
        "G_L1, training",
        "val_L1, validation",
    ):
        assert name in page.text
    assert "0.693" in page.text


def test_it_says_what_was_found(run: Path, page: Page) -> None:
    summary = json.loads((run / "evaluation" / "summary.json").read_text())
    assert "D wins <everything>. Step 3, and 1 more times up to step 4" in page.text
    assert f"{summary['metrics']['model']['SSIM']['mean']:.3f}" in page.text
    for word in (
        "mean target",
        "nearest pair",
        "95 % bootstrap interval",
        "rough",
        "test-4",
        "batch_size",
        "torch",
    ):
        assert word in page.text
    assert "On 5 test pairs" in page.text
    assert f"pairloom translate '{run}' IMAGES" in page.text
    assert f'Translator.load("{run}")' in page.text
    assert "16 × 16 pixels" in page.text


def test_the_best_and_the_worst_are_those_of_the_table(run: Path, page: Page) -> None:
    rows = gallery.read_rows(run / "evaluation" / "per_image.csv", ("SSIM", "L1", "PSNR"))
    names = [row["name"] for row in sorted(rows, key=lambda row: -row["SSIM"])]
    section = page.source[page.source.index('id="extremes"') : page.source.index('id="train"')]
    shown = re.findall(r"<b>([^<]+)</b>", section)
    assert shown == [names[0], names[1], names[-1], names[-2]]


def test_an_evaluation_that_exists_is_used(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    path = copy / "evaluation" / "summary.json"
    values = json.loads(path.read_text())
    values["metrics"]["model"]["SSIM"]["mean"] = 0.987
    path.write_text(json.dumps(values))
    assert "SSIM 0.987" in page_of(copy).text


def test_an_evaluation_of_an_earlier_step_is_made_again(run: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(run, tmp_path / "copy")
    elsewhere = shutil.copytree(run / "evaluation", tmp_path / "evaluation")
    for folder in (copy / "evaluation", elsewhere):
        values = json.loads((folder / "summary.json").read_text())
        values["metrics"]["model"]["SSIM"]["mean"] = 0.987
        values["settings"]["model"]["step"] = 1
        (folder / "summary.json").write_text(json.dumps(values))
    given = Page(write_report(copy, evaluation=elsewhere).read_text())
    assert "SSIM 0.987" in given.text
    assert "are of another state of the model" in given.text
    own = page_of(copy)
    assert "SSIM 0.987" not in own.text
    assert "another state" not in own.text


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("summary.json", "{"),
        ("summary.json", "[]"),
        ("summary.json", '{"SSIM": 0.5}'),
        ("summary.json", '{"version": 2}'),
        ("summary.json", '{"version": 1, "settings": [], "metrics": {}}'),
        ("per_image.csv", "name,score\na,1\n"),
        ("per_image.csv", None),
    ],
)
def test_a_damaged_or_foreign_evaluation_is_a_sentence(
    run: Path, tmp_path: Path, file: str, text: str | None
) -> None:
    folder = shutil.copytree(run / "evaluation", tmp_path / "evaluation")
    (folder / file).unlink()
    if text is not None:
        (folder / file).write_text(text)
    with pytest.raises(ValueError, match=rf"evaluation/{re.escape(file)}: .*\.$") as caught:
        write_report(run, evaluation=folder)
    assert "\n" not in str(caught.value)


def test_a_run_that_does_not_exist_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone: there is no such run directory\.$"):
        write_report(tmp_path / "gone")


def test_the_command_in_the_page_works_for_two_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    sides = []
    for side, seed in (("the first", 0), ("the second", 1)):
        for split in ("train", "test"):
            (tmp_path / side / split).mkdir(parents=True)
            for i in range(2):
                pixels = np.random.default_rng([seed, i]).integers(0, 256, (32, 32, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / side / split / f"{i}.png")
        sides.append(str(tmp_path / side))
    page = page_of(train_on(Path(sides[0]), tmp_path / "run", data={"path_b": sides[1]}))
    monkeypatch.chdir(tmp_path)
    command = re.search(r"pairloom (evaluate .*? --out \w+)", page.text)
    assert command
    main(shlex.split(command[1]))
    assert "test split, 2 pairs" in capsys.readouterr().out
    ours, theirs = (
        json.loads((folder / "evaluation" / "summary.json").read_text())
        for folder in (tmp_path, tmp_path / "run")
    )
    assert ours["metrics"] == theirs["metrics"]


def test_figures_of_other_data_are_told_from_the_runs_own(run: Path, tmp_path: Path) -> None:
    flat = write_pairs(tmp_path / "other", there=3) / "there"
    evaluate(run, flat, out=tmp_path / "evaluation")
    page = Page(write_report(run, evaluation=tmp_path / "evaluation").read_text(encoding="utf-8"))
    assert "Pictures from the data without splits" in page.text
    assert "On 3 other pairs" in page.text
    assert "output of there-0" in page.alts()
    assert "train" not in page.ids()


def test_moved_data_are_said_and_samples_shown(run: Path, tmp_path: Path) -> None:
    data = Path(json.loads((run / "config.json").read_text())["data"]["path"])
    away = data.rename(data.with_name("away"))
    try:
        never_evaluated = shutil.copytree(run, tmp_path / "copy", ignore=shutil.ignore_patterns("evaluation"))
        for page in (page_of(run), page_of(never_evaluated)):
            assert "those drawn while training" in page.text
            assert page.text.count(f"{data} does not exist") == 1
            assert any(alt.startswith("sample sheet step-") for alt in page.alts())
            assert len(page.all("svg")) == 4
    finally:
        away.rename(data)


def test_without_discriminator_and_without_test_split(tmp_path: Path) -> None:
    root = write_pairs(tmp_path / "pairs", train=3)
    page = page_of(train_on(root, tmp_path / "run", objective={"lambda_gan": 0.0}))
    assert "everything measured here is from the train split" in page.text
    assert "no discriminator: objective.lambda_gan is 0" in page.text
    assert "No warnings" in page.text
    assert len(page.all("svg")) == 1
    assert "patch map of the target" not in page.alts()


def test_five_channels_of_uint16(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for folder, channels in (("trainA", 2), ("trainB", 5), ("testA", 2), ("testB", 5)):
        (tmp_path / "d" / folder).mkdir(parents=True)
        for i in range(2):
            array = rng.integers(100, 4000, (32, 32, channels), dtype=np.uint16)
            tifffile.imwrite(tmp_path / "d" / folder / f"{i}.tif", array, planarconfig="contig")
    page = page_of(train_on(tmp_path / "d", tmp_path / "run"))
    assert (
        "The source is shown with the first of its 2 channels only and uint16 values stretched from the 1st"
        in page.text
    )
    assert "The target is shown with channels 1 to 3 of its 5 as red, green and blue and uint16" in page.text
    assert "5 channels, uint16" in page.text


def test_label_outputs_and_images_too_small_for_d_or_ssim(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        (tmp_path / "d" / split).mkdir(parents=True)
        for i in range(2):
            labels = rng.integers(0, 3, (8, 8)).astype(np.uint8)
            pair = np.concatenate([labels * 80, labels], axis=1)
            Image.fromarray(pair).save(tmp_path / "d" / split / f"{i}.png")
    (tmp_path / "palette.txt").write_text("0,road\n1,sky\n2,tree\n")
    data = {
        "crop_size": 8,
        "load_size": 8,
        "source_kind": "intensity",
        "target_palette": str(tmp_path / "palette.txt"),
        "target_one_hot": True,
    }
    page = page_of(train_on(tmp_path / "d", tmp_path / "run", data=data))
    assert "The target's classes are shown in made-up colours." in page.text
    assert "SSIM leaves out 2 of 2" in page.text
    assert "Of 2, by L1." in page.text
    assert "label map of 3 classes, one-hot" in page.text


@pytest.mark.parametrize("num_layers", [0, 1, 3])
def test_each_pixel_belongs_to_the_patch_centred_nearest(num_layers: int) -> None:
    config = DiscriminatorConfig(num_layers=num_layers, base_channels=2, norm="none", conditional=False)
    net = build_discriminator(config, 1, 1, torch.Generator().manual_seed(0))
    for parameter in net.parameters():
        torch.nn.init.constant_(parameter, 0.1)  # every path counts, none cancels
    y = torch.rand(1, 1, 160, 160, requires_grad=True)
    logits = net(y, y)
    middle = logits.shape[-1] // 2
    logits[0, 0, middle, middle].backward()
    assert y.grad is not None
    seen = y.grad[0, 0].abs().sum(0).nonzero().flatten()
    centre = (seen.min() + seen.max()).item() / 2
    index = nearest_patch(net.windows, 160, logits.shape[-1])
    own = np.flatnonzero(index == middle)
    assert len(own) == net.jump
    assert abs(own.mean() - centre) <= 0.5
    assert np.all(np.diff(index) >= 0)
    assert (index[0], index[-1]) == (0, logits.shape[-1] - 1)


def test_the_patch_map_is_the_sigmoid_and_lsgan_is_clipped() -> None:
    logits = torch.tensor([[[[0.0, 2.0], [-2.0, 0.25]]]])
    np.testing.assert_allclose(patch_map(logits, "vanilla"), 1 / (1 + np.exp(-logits[0, 0].double().numpy())))
    np.testing.assert_allclose(patch_map(logits, "lsgan"), [[0, 1], [0, 0.25]])


def test_long_curves_are_thinned_without_moving_their_mean() -> None:
    steps = list(range(50_000))
    values: list[float | None] = [float(np.sin(step / 9000)) for step in steps]
    values[7] = None
    at, means = thin(steps, values)
    assert len(at) == len(means) == MAX_POINTS
    assert means.mean() == pytest.approx(np.mean([v for v in values if v is not None]), abs=1e-3)
    assert np.all(np.diff(at) > 0)
    few_at, few = thin([1, 2], [0.5, None])
    assert (few_at.tolist(), few.tolist()) == ([1.0], [0.5])
    assert len(thin([], [])[0]) == 0
    np.testing.assert_allclose(running_mean(np.full(300, 2.5)), 2.5)
    np.testing.assert_allclose(running_mean(np.array([1.0, 2.0, 6.0])), [1.5, 3.0, 4.0])


def test_an_output_is_stretched_as_its_target() -> None:
    spec = ImageSpec(channels=1, dtype="uint16", scaling="full", low=(0.0,), high=(65535.0,))
    target = torch.linspace(-1, -0.9, 1024).reshape(1, 32, 32)  # a dark 12-bit image in a 16-bit range
    shown = view(target, spec)
    assert shown.shape == (32, 32, 3)
    assert (int(shown.min()), int(shown.max())) == (0, 255)
    darker = view(target - 0.02, spec, target)
    assert darker.mean() < shown.mean() - 20
