"""What the file of a model says of its images; `checkpoint` itself knows nothing of them."""

from __future__ import annotations

from pairloom.checkpoint import SavedNetwork
from pairloom.images import ImageError, ImageSpec


def specs_of(saved: SavedNetwork) -> tuple[ImageSpec, ImageSpec]:
    """What the generator takes, and what it gives.

    Raises:
        CheckpointError: The description lacks one, holds a wrong one, or one of other channels than G's.
    """
    source, target = saved.config().generator.channels
    return _spec(saved, "source", source), _spec(saved, "target", target)


def _spec(saved: SavedNetwork, side: str, channels: int) -> ImageSpec:
    name = f"{side}_spec"
    if name not in saved.description:
        raise saved.incomplete(repr(name))
    try:
        spec = ImageSpec.from_dict(saved.description[name])
    except ImageError as error:
        raise saved.wrong(name, error) from error
    if spec.tensor_channels != channels:
        raise saved.wrong(
            name, f"it has {spec.tensor_channels} channels, and generator.{side}_channels is {channels}"
        )
    return spec
