"""Files and folders translated: every image finds its place, and nothing of the user's is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from pairloom import images
from pairloom.files import find_images, translate_files
from pairloom.images import ImageError
from pairloom.translator import Translator
from test_translator import model, picture, spec


def save_picture(path: Path, size: tuple[int, int] = (20, 24), seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(size, seed=seed)).save(path)
    return path


def written(translator: Translator, inputs: Any, out: Path, **options: Any) -> list[str]:
    """Names of the files, relative to `out`; each is whole when it is yielded."""
    names = []
    for path in translate_files(translator, inputs, out, **options):
        assert images.read_image(path).size > 0
        names.append(path.relative_to(out).as_posix())
    assert sorted(names) == sorted(p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file())
    return sorted(names)


def test_folders_are_translated_in_depth_and_keep_names_and_sizes(tmp_path):
    sizes = {"a.png": (20, 24), "deep/er/b.png": (7, 50), "deep/a.png": (1, 1)}
    for seed, (name, size) in enumerate(sizes.items()):
        save_picture(tmp_path / "in" / name, size, seed)
    save_picture(tmp_path / "in/.hidden/c.png")
    (tmp_path / "in/notes.txt").write_text("not an image")
    translator, out = model(), tmp_path / "out"
    assert written(translator, [tmp_path / "in"], out) == sorted(sizes)
    for name, size in sizes.items():
        result = images.read_image(out / name)
        assert result.shape == (*size, 3)
        assert np.array_equal(result, translator(tmp_path / "in" / name))


def test_containers_follow_the_source_where_they_hold_the_result(tmp_path):
    save_picture(tmp_path / "in/photo.jpg")
    save_picture(tmp_path / "in/web.webp")
    save_picture(tmp_path / "in/scan.tiff")
    save_picture(tmp_path / "in/plain.PNG")
    np.save(tmp_path / "in/array.npy", picture())
    names = written(model(), [tmp_path / "in"], tmp_path / "rgb")
    assert names == ["array.npy", "photo.png", "plain.PNG", "scan.tiff", "web.webp"]
    names = written(model(target=spec(1, "uint16")), [tmp_path / "in"], tmp_path / "deep")
    assert names == ["array.npy", "photo.png", "plain.PNG", "scan.tiff", "web.png"]
    names = written(model(target=spec(5, "float32")), [tmp_path / "in"], tmp_path / "float")
    assert names == ["array.npy", "photo.tif", "plain.tif", "scan.tiff", "web.tif"]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_depth_and_range_survive_the_file(tmp_path, suffix):
    image = picture((20, 24), 1, "uint16")
    if suffix == "png":
        Image.fromarray(image[..., 0]).save(tmp_path / "deep.png")
    else:
        tifffile.imwrite(tmp_path / "deep.tif", image[..., 0])
    translator = model(spec(1, "uint16"), spec(1, "uint16"))
    assert written(translator, [tmp_path / f"deep.{suffix}"], tmp_path / "out") == [f"deep.{suffix}"]
    result = images.read_image(tmp_path / "out" / f"deep.{suffix}")
    assert result.dtype == np.uint16
    assert np.array_equal(result, translator(image))


def test_several_samples_are_several_files(tmp_path):
    source = save_picture(tmp_path / "in/x.png")
    translator, out = model(), tmp_path / "out"
    names = written(translator, [source], out, samples=3, seed=5)
    assert names == ["x-1.png", "x-2.png", "x-3.png", "x-mean.png", "x-spread.tif"]
    several = translator.samples(images.read_image(source), 3, seed=5)
    for number in range(3):
        assert np.array_equal(images.read_image(out / f"x-{number + 1}.png"), several.images[number])
    assert np.array_equal(images.read_image(out / "x-mean.png"), several.mean)
    spread = images.read_image(out / "x-spread.tif")
    assert spread.dtype == np.float32
    assert np.array_equal(spread, several.spread)
    assert spread.max() > 1


@pytest.mark.parametrize("batch_size", [2, 3, 100])
def test_batches_change_speed_and_not_results(tmp_path, batch_size):
    for i, size in enumerate([(16, 16), (16, 16), (16, 16), (20, 16), (16, 16)]):
        save_picture(tmp_path / f"in/{i}.png", size, i)
    translator = model()
    alone = written(translator, [tmp_path / "in"], tmp_path / "alone")
    assert written(translator, [tmp_path / "in"], tmp_path / "many", batch_size=batch_size) == alone
    for name in alone:
        a, b = (images.read_image(tmp_path / where / name).astype(int) for where in ("alone", "many"))
        assert np.abs(a - b).max() <= 1


@pytest.mark.parametrize("option", ["samples", "batch_size"])
def test_none_of_something_is_refused(tmp_path, option):
    source = save_picture(tmp_path / "x.png")
    with pytest.raises(ValueError, match=f"{option} is 0; it must be 1 or more"):
        next(translate_files(model(), [source], tmp_path / "out", **{option: 0}))


def test_results_that_would_collide_are_refused_before_the_first(tmp_path):
    first = save_picture(tmp_path / "one/x.png")
    second = save_picture(tmp_path / "two/x.jpg")
    with pytest.raises(ImageError, match=r"both would be written to .*x\.png") as error:
        list(translate_files(model(), [first, second], tmp_path / "out"))
    assert str(first) in str(error.value) and str(second) in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_source_is_never_overwritten(tmp_path):
    source = save_picture(tmp_path / "x.png")
    before = source.read_bytes()
    with pytest.raises(ImageError, match=r"x\.png: is there already, in a folder that images are read from"):
        list(translate_files(model(), [source], tmp_path))
    assert source.read_bytes() == before


@pytest.mark.parametrize(("name", "options"), [("a.png", {}), ("a-mean.png", {"samples": 2})])
def test_a_neighbour_of_a_source_is_never_overwritten(tmp_path, name, options):
    source = save_picture(tmp_path / "photos/a.jpg")
    before = save_picture(tmp_path / "photos" / name, seed=1).read_bytes()
    with pytest.raises(ImageError, match=rf"{name}: is there already, .* choose another --out") as error:
        list(translate_files(model(), [source], tmp_path / "photos", **options))
    assert str(source) in str(error.value)
    assert (tmp_path / "photos" / name).read_bytes() == before
    assert len(list((tmp_path / "photos").iterdir())) == 2
    # Elsewhere, the same command again replaces its own results.
    for _ in range(2):
        assert len(list(translate_files(model(), [source], tmp_path / "out", **options))) in (1, 4)


def test_spreads_that_would_collide_are_refused_before_the_first(tmp_path):
    save_picture(tmp_path / "in/x.png")
    save_picture(tmp_path / "in/x.tif")
    assert len(list(translate_files(model(), [tmp_path / "in"], tmp_path / "one"))) == 2
    with pytest.raises(ImageError, match=r"both would be written to .*x-spread\.tif"):
        list(translate_files(model(), [tmp_path / "in"], tmp_path / "out", samples=2))


def test_the_output_folder_is_left_out_of_the_search(tmp_path):
    save_picture(tmp_path / "in/x.png")
    for _ in range(3):
        assert written(model(), [tmp_path / "in"], tmp_path / "in/out") == ["x.png"]
    # Asked for, it is translated, and so is what lies below the folder that the results go to.
    assert len(list(translate_files(model(), [tmp_path / "in/out"], tmp_path / "again"))) == 1
    assert find_images([tmp_path / "in/out"], besides=tmp_path) == [
        (tmp_path / "in/out/x.png", Path("x.png"))
    ]


def test_a_bad_file_does_not_stop_the_good_ones(tmp_path):
    for name in ("a", "b", "d", "f"):
        save_picture(tmp_path / f"in/{name}.png")
    (tmp_path / "in/c.png").write_bytes((tmp_path / "in/a.png").read_bytes()[:60])
    Image.fromarray(picture(channels=1)[..., 0]).save(tmp_path / "in/e.png")
    out = tmp_path / "out"
    with pytest.raises(ImageError) as error:
        for _ in translate_files(model(), [tmp_path / "in"], out, batch_size=2):
            pass
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "d.png", "f.png"]
    first, second, total = str(error.value).splitlines()
    assert first.startswith(f"{tmp_path / 'in/c.png'}: ")
    assert second.startswith(f"{tmp_path / 'in/e.png'}: ")
    assert total == "2 of 6 images could not be translated; the others were."


def test_what_cannot_be_translated_or_written_does_not_stop_the_others(tmp_path, monkeypatch):
    """Of a batch of one size all fail, as it is the size that fails; each has its line."""
    for name, side in {"a": 16, "b": 40, "c": 40, "d": 16, "e": 16}.items():
        save_picture(tmp_path / f"in/{name}.png", (side, side))
    (tmp_path / "out/d.png").mkdir(parents=True)
    translator, out = model(), tmp_path / "out"
    translate = translator.translate_tensor

    def up_to_32(x: torch.Tensor, **options: Any) -> torch.Tensor:
        if x.shape[-1] > 32:
            raise ImageError("model.onnx: was exported for images up to 32x32 pixels")
        return translate(x, **options)

    monkeypatch.setattr(translator, "translate_tensor", up_to_32)
    with pytest.raises(ImageError) as error:
        list(translate_files(translator, [tmp_path / "in"], out, batch_size=2))
    assert sorted(p.name for p in out.iterdir() if p.is_file()) == ["a.png", "e.png"]
    *lines, total = str(error.value).splitlines()
    assert sorted(line.split(": ")[0] for line in lines) == [str(tmp_path / f"in/{n}.png") for n in "bcd"]
    assert sum("up to 32x32" in line for line in lines) == 2
    assert total == "3 of 5 images could not be translated; the others were."


def test_an_image_of_which_no_sample_can_be_written_has_one_line(tmp_path):
    save_picture(tmp_path / "in/x.png")
    save_picture(tmp_path / "in/y.png")
    for ending in ("-1", "-2", "-mean"):
        (tmp_path / f"out/x{ending}.png").mkdir(parents=True)
    with pytest.raises(ImageError, match=r"x\.png: .*\n1 of 2 images could not be translated"):
        list(translate_files(model(), [tmp_path / "in"], tmp_path / "out", samples=2))
    assert (tmp_path / "out/y-mean.png").is_file()


def test_every_bad_file_has_its_line(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(15):
        (tmp_path / f"in/{number:02}.png").write_bytes(b"")
    with pytest.raises(ImageError) as error:
        list(translate_files(model(), [tmp_path / "in"], tmp_path / "out"))
    *lines, total = str(error.value).splitlines()
    assert [line.split(": ")[0] for line in lines] == [str(tmp_path / f"in/{n:02}.png") for n in range(15)]
    assert total == "15 of 15 images could not be translated."


def test_an_output_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    source = save_picture(tmp_path / "x.png")
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/deep", Path("/proc/nowhere")):
        with pytest.raises(ImageError, match=r"cannot be made .* choose another --out") as error:
            list(translate_files(model(), [source], out))
        assert str(error.value).startswith(str(out))


def test_what_is_given_must_be_there_and_hold_images(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ImageError, match=r"empty: the folder holds no images \(.*\.jpeg \.jpg .*\.npy"):
        find_images([tmp_path / "empty"])
    with pytest.raises(ImageError, match="gone: there is no such file or folder"):
        find_images([tmp_path / "gone"])


def test_at_the_training_scale_images_are_resized_and_back(tmp_path):
    source = save_picture(tmp_path / "x.png", (50, 70))
    translator, out = model(), tmp_path / "out"
    assert translator.config.data.resize == "stretch" and translator.config.data.crop_size == 32
    assert written(translator, [source], out, scale="training") == ["x.png"]
    result = images.read_image(out / "x.png")
    assert result.shape == (50, 70, 3)
    x = images.to_tensor(images.read_image(source), translator.source_spec)[None]
    small = torch.nn.functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    expected = torch.nn.functional.interpolate(
        translator.translate_tensor(small), (50, 70), mode="bilinear", antialias=True
    )
    assert np.array_equal(result, images.to_array(expected[0], translator.target_spec))
    assert not np.array_equal(result, translator(source))


def test_the_training_scale_keeps_the_shape_where_training_did(tmp_path):
    source = save_picture(tmp_path / "x.png", (50, 70))
    translator = model(data={"data__resize": "shorter"})
    seen: list[tuple[int, ...]] = []
    translator.generator.register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape[-2:])))
    written(translator, [source], tmp_path / "out", scale="training")
    assert seen == [(32, 48)]  # 32 x 45, continued to the stride
    native = model(data={"data__resize": "none"})
    native.generator.register_forward_hook(lambda _m, i, _o: seen.append(tuple(i[0].shape[-2:])))
    written(native, [source], tmp_path / "native", scale="training")
    assert seen[1] == (64, 80)
