"""What a study is and what its sessions show."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pairloom.study.drawing import DrawnTrial, draw_session, staircase
from pairloom.study.protocol import StudyFault, StudyImage, StudySettings, load_key


def settings_of(**fields: Any) -> StudySettings:
    return StudySettings(**{"algorithms": ("L1", "L1+cGAN"), "seed": 3, "trials": 8, "practice": 2} | fields)


def key_of(settings: StudySettings, sources: int, *, wrecks: int = 0) -> dict[str, StudyImage]:
    """`sources` images of each kind; the first `wrecks` sources have a wreck too."""
    kinds: list[str | None] = [None, *settings.algorithms]
    images = [StudyImage(kind, f"{kind} {pair}", pair) for kind in kinds for pair in range(sources)]
    images += [StudyImage(None, f"wreck {pair}", pair, attention=True) for pair in range(wrecks)]
    return {f"{i:032x}": image for i, image in enumerate(images)}


def ids(trials: tuple[DrawnTrial, ...]) -> list[str]:
    return [id_ for trial in trials for id_ in (trial.first, trial.second) if id_ is not None]


# -----------------------------------------------------------------------------------------------------------
# Settings


def test_settings_survive_json() -> None:
    settings = settings_of(size=64, shape=(48, 64), exclusion={"least_seconds": 5})
    assert StudySettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings
    assert settings.height_width == (48, 64)
    assert settings_of(size=64).height_width == (64, 64)


def test_the_defaults_are_the_papers() -> None:
    settings = StudySettings(algorithms=("L1",))
    assert (settings.practice, settings.trials, settings.exposure_ms, settings.size) == (10, 40, 1000, 256)
    assert (settings.mode, settings.layout, settings.attention) == ("two", "sequential", 0)


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"mode": "three"}, "mode"),
        ({"trials": 0}, "trials"),
        ({"trials": 2.5}, "trials"),
        ({"practice": -1}, "practice"),
        ({"exposure_ms": 10}, "exposure_ms"),
        ({"seed": -1}, "seed"),
        ({"algorithms": ()}, "algorithms"),
        ({"algorithms": ("a", "a")}, "algorithms"),
        ({"algorithms": ("real",)}, "algorithms"),
        ({"algorithms": ("a|b",)}, "algorithms"),
        ({"algorithms": ("../a",)}, "algorithms"),
        ({"mode": "prefer", "algorithms": ("a",)}, "algorithms"),
        ({"mode": "prefer", "adaptive": True}, "adaptive"),
        ({"mode": "prefer", "paired": False}, "paired"),
        ({"mode": "single", "layout": "side-by-side"}, "layout"),
        ({"exclusion": {"most_bored": 1.0}}, "exclusion"),
        ({"exclusion": {"most_one_sided": 95}}, "exclusion.most_one_sided"),
        ({"shape": (10, 10)}, "shape"),
        ({"title": " "}, "title"),
    ],
)
def test_a_wrong_setting_is_named(fields: dict[str, Any], name: str) -> None:
    with pytest.raises(StudyFault, match=rf"^{name} is .*; it must be ") as caught:
        settings_of(**fields)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "holds no study"),
        ("{", "cannot be read"),
        ("[]", "no JSON object"),
        (
            '{"version": 2, "algorithms": ["a"], "telepathy": true}',
            "version 2, and this pairloom reads up to 1",
        ),
        ('{"version": 1, "algorithms": ["a"], "telepathy": true}', "unknown fields telepathy"),
        ('{"version": 1}', "lack algorithms"),
        ('{"version": 1, "algorithms": "L1"}', "algorithms is 'L1'"),
        ('{"version": 1, "algorithms": ["a"], "trials": "many"}', "trials is 'many'"),
        ('{"version": 1, "algorithms": ["a"], "exclusion": 3}', "exclusion is 3"),
    ],
)
def test_a_wrong_study_file_is_one_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    if text is not None:
        (tmp_path / "study.json").write_text(text)
    with pytest.raises(StudyFault) as caught:
        StudySettings.load(tmp_path)
    assert words in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_damaged_key_is_refused(tmp_path: Path) -> None:
    for text in ('{"../etc/passwd": {"algorithm": null, "source": "a", "pair": 0}}', '{"00": {"who": 1}}'):
        (tmp_path / "key.json").write_text(text)
        with pytest.raises(StudyFault, match="damaged"):
            load_key(tmp_path)


# -----------------------------------------------------------------------------------------------------------
# Sessions


@pytest.mark.parametrize("mode", ["two", "single", "prefer"])
@pytest.mark.parametrize("paired", [True, False])
def test_no_image_twice_and_the_right_number(mode: str, paired: bool) -> None:
    settings = settings_of(mode=mode, paired=paired or mode == "prefer", attention=2)
    key = key_of(settings, settings.images_needed, wrecks=2)
    for seed in range(40):
        arm, trials = draw_session(settings, key, seed=seed, counts={})
        assert arm in settings.arms
        assert [t.number for t in trials] == list(range(settings.images_needed))
        assert [t.practice for t in trials] == [t.number < 2 for t in trials]
        assert sum(t.attention for t in trials) == 2
        assert not any(t.attention and t.practice for t in trials)
        assert len(set(ids(trials))) == len(ids(trials))
        assert all((t.second is None) == (mode == "single") for t in trials)


def test_two_shows_the_arms_fake_beside_the_real_image_of_its_source() -> None:
    settings = settings_of()
    key = key_of(settings, 12)
    arm, trials = draw_session(settings, key, seed=0, counts={"L1": 1})
    assert arm == "L1+cGAN"
    for trial in trials:
        shown = [key[trial.first], key[str(trial.second)]]
        assert shown[trial.fake_side or 0].algorithm == arm
        assert shown[1 - (trial.fake_side or 0)].algorithm is None
        assert shown[0].pair == shown[1].pair


def test_unpaired_trials_never_show_one_source() -> None:
    settings = settings_of(paired=False)
    for sources in (10, 13, 20):
        key = key_of(settings, sources)
        for seed in range(30):
            _, trials = draw_session(settings, key, seed=seed, counts={})
            pairs = [(key[t.first].pair, key[str(t.second)].pair) for t in trials]
            assert all(a != b for a, b in pairs)
            if sources >= 2 * len(trials):
                assert len({pair for both in pairs for pair in both}) == 2 * len(trials)


def test_single_is_half_fake_and_marks_it() -> None:
    settings = settings_of(mode="single")
    key = key_of(settings, 10)
    for seed in range(10):
        arm, trials = draw_session(settings, key, seed=seed, counts={})
        assert [key[t.first].algorithm == arm for t in trials] == [t.fake_side == 1 for t in trials]
        assert sum(t.fake_side or 0 for t in trials[:2]) == 1
        assert sum(t.fake_side or 0 for t in trials[2:]) == 4
        assert len({key[t.first].pair for t in trials}) == 10, "no source twice, be it real or fake"


def test_prefer_compares_two_algorithms_on_one_source() -> None:
    settings = settings_of(mode="prefer", algorithms=("a", "b", "c"), attention=1)
    key = key_of(settings, 12, wrecks=1)
    arms = Counter(draw_session(settings, key, seed=seed, counts={})[0] for seed in range(60))
    assert set(arms) == {"a|b", "a|c", "b|c"}
    arm, trials = draw_session(settings, key, seed=1, counts={})
    for trial in trials:
        first, second = key[trial.first], key[str(trial.second)]
        assert first.pair == second.pair
        if trial.attention:
            better = (first, second)[trial.fake_side or 0]
            assert not better.attention, "the right answer is the whole image"
        else:
            assert {first.algorithm, second.algorithm} == set(arm.split("|"))
            assert trial.fake_side is None


def test_attention_checks_show_a_wreck_that_no_other_trial_shows() -> None:
    settings = settings_of(attention=3)
    key = key_of(settings, 13, wrecks=3)
    places = Counter()
    for seed in range(40):
        _, trials = draw_session(settings, key, seed=seed, counts={})
        for trial in trials:
            shown = [key[trial.first], key[str(trial.second)]]
            assert trial.attention == any(image.attention for image in shown)
            assert trial.attention == (shown[0].pair < 3)
            if trial.attention:
                assert shown[trial.fake_side or 0].attention
                places[trial.number] += 1
    assert set(places) == set(range(2, 13)), "anywhere among the trials that count"


def test_sides_and_images_are_drawn_evenly() -> None:
    settings = settings_of(trials=40, practice=0)
    key = key_of(settings, 80)
    sides, images = Counter(), Counter()
    for seed in range(200):
        _, trials = draw_session(settings, key, seed=seed, counts={})
        sides.update(t.fake_side for t in trials)
        images.update(key[t.first].pair for t in trials)
    assert abs(sides[0] - 4000) < 4 * np.sqrt(8000 / 4)
    assert len(images) == 80
    assert all(abs(n - 100) < 5 * np.sqrt(50) for n in images.values())


def test_a_session_is_a_function_of_the_seeds() -> None:
    settings, other = settings_of(), settings_of(seed=4)
    key = key_of(settings, 12)
    first = draw_session(settings, key, seed=5, counts={})
    assert draw_session(settings, dict(reversed(key.items())), seed=5, counts={}) == first
    assert draw_session(settings, key, seed=6, counts={}) != first
    assert draw_session(other, key, seed=5, counts={}) != first


def test_arms_are_balanced() -> None:
    settings = settings_of(algorithms=("a", "b", "c"))
    key = key_of(settings, 12)
    counts: Counter[str] = Counter()
    firsts = Counter()
    for seed in range(30):
        arm, _ = draw_session(settings, key, seed=seed, counts=counts)
        if seed % 3 == 0:
            firsts[arm] += 1
        counts[arm] += 1
        assert max(counts.values()) - min(counts.get(a, 0) for a in settings.arms) <= 1
    assert len(firsts) == 3, "ties are broken at random"


# -----------------------------------------------------------------------------------------------------------
# The staircase


def test_staircase_steps() -> None:
    assert staircase(1000, []) == 1000
    assert staircase(1000, [True]) == 1000
    assert staircase(1000, [True, True]) == 500
    assert staircase(1000, [True] * 4) == 250
    assert staircase(1000, [False]) == 2000
    assert staircase(1000, [True, True, False]) == round(500 * 2**0.5), "smaller steps from the first turn on"
    assert staircase(1000, [True, True, False, True, True]) == 500
    assert staircase(1000, [True, False, True]) == 2000, "two in a row, not two in all"
    assert staircase(1000, [True] * 100) == 50
    assert staircase(1000, [False] * 100) == 4000
    assert staircase(8000, [False]) == 8000


def test_staircase_settles_where_70_7_percent_are_right() -> None:
    """An observer whose share of right answers rises with the logarithm of the exposure."""
    rng = np.random.default_rng(0)

    def right_at(ms: float) -> float:
        return 0.5 + 0.5 / (1 + np.exp(-2.5 * np.log2(ms / 300)))

    answers: list[bool] = []
    seen = []
    for _ in range(800):
        exposure = staircase(1000, answers)
        seen.append(right_at(exposure))
        answers.append(bool(rng.random() < seen[-1]))
    assert abs(np.mean(answers[100:]) - 0.707) < 0.05
