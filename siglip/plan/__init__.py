"""What a run needs on TPUs that are not there: its step, compiled for them on this machine.

The step is the one that `train.py` runs, with the same configuration, mesh and shardings; the TPU's
own compiler says what memory it takes and what it exchanges. Times are bounds: what the chips'
peaks allow if nothing else costs anything.
"""

from siglip.plan.compiled import Plan, make_plan
from siglip.plan.fastest import search
from siglip.plan.text import remedy, render

__all__ = ["Plan", "make_plan", "remedy", "render", "search"]
