"""The table and the page of many results as files."""

import os
from collections.abc import Iterable

from etils import epath

from siglip.evaluation import results
from siglip.evaluation.summary import page, table
from siglip.workdir import locate, made, told


def write(paths: Iterable[str | os.PathLike], folder: str | os.PathLike) -> list[epath.Path]:
    """Write `report.md`, `report.csv` and `report.html` of all results in files and folders.

    Returns:
      their paths.

    Raises:
      UserError: there is no result, one cannot be read, or the folder cannot be written to.
    """
    found = results.read_all(paths)
    details = [results.read_details(result) for result in found]
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
