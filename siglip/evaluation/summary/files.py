"""The table and the page of many results as files."""

import os
from collections.abc import Sequence

from etils import epath

from siglip.evaluation.results import Result, read_details
from siglip.evaluation.summary import page, table
from siglip.workdir import locate, made, told


def write(found: Sequence[Result], folder: str | os.PathLike) -> list[epath.Path]:
    """Write `report.md`, `report.csv` and `report.html` of results that were read.

    Returns:
      their paths.

    Raises:
      UserError: what was kept beside one cannot be read, or the folder cannot be written to.
    """
    details = [read_details(result) for result in found]
    contents = {
        "report.md": table.markdown(found),
        "report.csv": table.csv(found),
        "report.html": page.render(found, details),
    }
    written = []
    for name, content in contents.items():
        path = locate(folder) / name
        with told(path), made(path) as here:
            here.write_text(content, "utf-8", errors="backslashreplace", newline="")
        written.append(path)
    return written
