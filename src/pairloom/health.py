"""Loss health in words: what the curves of a GAN mean, said when it happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pairloom.losses import GanMode, chance_level


class NonFiniteLoss(ValueError):
    """A loss became NaN or infinite; nothing of that step was saved."""


def legend(gan_mode: GanMode, *, halved: bool) -> str:
    """How to read the logged losses of an adversarial run, in one sentence."""
    if gan_mode == "wgan-gp":
        return (
            "-(D_real + D_fake) estimates the distance between real and generated pairs; its zero and its "
            "sign in each term mean nothing; G_L1 is unweighted, on [-1, 1]. (Readers of the paper found "
            "that WGAN-GP did not help here.)"
        )
    chance = chance_level(gan_mode)
    total = chance if halved else 2 * chance
    kind = "halved" if halved else "not halved"
    return (
        f"D_real and D_fake are at {chance:.3f} each when D cannot tell ({gan_mode}; D's objective, {kind}, "
        f"is then {total:.3f}); G_L1 is unweighted, on [-1, 1]."
    )


class LossHealth:
    """Reads the lines of metrics.jsonl in order and says, once each, what a person should know.

    Feed it the old lines again when a run resumes: it holds nothing that is not in them.
    """

    def __init__(self) -> None:
        self._d_wins_since: int | None = None
        self._d_wins_lines = 0
        self._g_wins_lines = 0
        self._best: tuple[float, int] | None = None
        self._worse_lines = 0
        self._said: set[str] = set()

    def observe(self, line: Mapping[str, Any]) -> list[str]:
        """New warnings after this line of metrics."""
        if "warning" in line:
            return []
        if line.get("val_L1") is not None:
            return self._observe_validation(line["step"], line["val_L1"])
        real, fake = line.get("D_real_accuracy"), line.get("D_fake_accuracy")
        return [] if real is None or fake is None else self._observe_accuracy(line["step"], real, fake)

    def _observe_accuracy(self, step: int, real: float, fake: float) -> list[str]:
        if min(real, fake) > 0.97:
            self._d_wins_since = step if self._d_wins_since is None else self._d_wins_since
            self._d_wins_lines += 1
        else:
            self._d_wins_since, self._d_wins_lines = None, 0
            self._said.discard("d wins")
        if max(real, fake) < 0.5:
            self._g_wins_lines += 1
        else:
            self._g_wins_lines = 0
            self._said.discard("g wins")
        if self._d_wins_lines == 20:
            return self._once(
                "d wins",
                f"D wins everything since step {self._d_wins_since}: it tells {real:.0%} of the real and "
                f"{fake:.0%} of the generated patches apart, so little but L1 still teaches G. If the "
                "pictures have stopped improving: more pairs, more jitter, or a weaker D "
                "(discriminator.base_channels, num_layers).",
            )
        if self._g_wins_lines == 20:
            return self._once(
                "g wins",
                f"D is wrong about most patches ({real:.0%} of the real, {fake:.0%} of the generated right), "
                "so its advice to G is poor: raise discriminator.base_channels, or lower "
                "training.learning_rate.",
            )
        return []

    def _observe_validation(self, step: int, val_l1: float) -> list[str]:
        if self._best is None or val_l1 < self._best[0]:
            self._best, self._worse_lines = (val_l1, step), 0
            return []
        self._worse_lines = self._worse_lines + 1 if val_l1 > 1.05 * self._best[0] else 0
        if self._worse_lines == 4:
            best, when = self._best
            return self._once(
                "overfitting",
                f"The validation L1 was best at step {when} ({best:.4f}) and is {val_l1:.4f} now: G is "
                "learning the training pairs by heart. The best step is kept (checkpoint=best); more pairs "
                "or more jitter help. L1 alone does not see texture: compare the pictures too.",
            )
        return []

    def _once(self, name: str, text: str) -> list[str]:
        if name in self._said:
            return []
        self._said.add(name)
        return [text]
