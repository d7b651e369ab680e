"""Which checkpoints of a run stay."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from siglip.checkpoint.saved import highest


@dataclasses.dataclass(frozen=True)
class Keep:
    """The latest, the first of every so many steps, and the one that scored highest.

    Attributes:
      latest: how many.
      every: steps; 0: none for good.
      scores: by step, of those that were evaluated; may grow while the run goes on.
    """

    latest: int
    every: int = 0
    scores: dict[int, float] = dataclasses.field(default_factory=dict)

    def steps(self, saved: Sequence[int]) -> dict[int, str]:
        """Those of the steps, ascending, that stay, and why: "latest", "every" or "best"."""
        why = {}
        if self.every:
            before = 0
            for step in saved:
                if step // self.every > before // self.every:
                    why[step], before = "every", step
        why |= dict.fromkeys(saved[-self.latest :], "latest")
        if (best := highest(self.scores, saved)) is not None:
            why[best] = "best"
        return why

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """Orbax asks this when it has saved another."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        stay = self.steps(sorted(steps))
        return [step in stay for step in steps]
