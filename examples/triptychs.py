"""Draw evenly chosen pairs: source | output | target. The pictures in the README were made so.

python examples/triptychs.py RUN PICTURE.png [--split test] [--count 6] [--columns 2] [--enlarge 2]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

from pairloom import Translator
from pairloom.data import evenly, find_pairs, load_pair
from pairloom.pictures import sample_sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--columns", type=int, default=2)
    parser.add_argument("--enlarge", type=int, default=2)
    arguments = parser.parse_args()

    model = Translator.load(arguments.run)
    rows = []
    for pair in evenly(find_pairs(model.config.data).split(arguments.split), arguments.count):
        x, y = load_pair(pair, model.source_spec, model.target_spec, model.config.data)
        rows.append((x, model.translate_tensor(x[None])[0].cpu(), y))

    per_column = -(-len(rows) // arguments.columns)
    sheets = [
        sample_sheet(rows[i : i + per_column], model.source_spec, model.target_spec)
        for i in range(0, len(rows), per_column)
    ]
    gap = 16
    width = sum(sheet.width for sheet in sheets) + gap * (len(sheets) - 1)
    picture = Image.new("RGB", (width, max(sheet.height for sheet in sheets)), "white")
    left = 0
    for sheet in sheets:
        picture.paste(sheet, (left, 0))
        left += sheet.width + gap
    size = picture.width * arguments.enlarge, picture.height * arguments.enlarge
    picture.resize(size, Image.Resampling.BICUBIC).save(arguments.picture, quality=90)


if __name__ == "__main__":
    main()
