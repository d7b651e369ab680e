"""The table of before and after, and the curves."""

import io

import pytest
from PIL import Image
from rich.console import Console

from siglip.evaluation import history

RECORDS = [
    {"step": 0, "validation/loss": 3.0, "validation/mean_recall": 0.1, "emoji/acc1": 0.5},
    {"step": 10, "validation/loss": 2.0, "validation/mean_recall": 0.4, "emoji/acc1": 0.4},
    {"step": 20, "validation/loss": 1.5, "validation/mean_recall": 0.4, "emoji/acc1": 0.3},
]


def rendered(table) -> list[list[str]]:
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    lines = console.export_text().splitlines()
    return [
        [cell.strip() for cell in line.strip("│┃").replace("┃", "│").split("│")] for line in lines
    ]


def test_table_shows_before_best_and_after():
    rows = rendered(history.table(RECORDS, "validation/mean_recall"))
    assert ["metric", "step 0", "step 20", "step 20"] in rows  # of equals the latest
    assert ["validation/mean_recall (best by it)", "10.00%", "40.00%", "40.00%"] in rows
    assert ["validation/loss", "3", "1.5", "1.5"] in rows
    assert ["emoji/acc1", "50.00%", "30.00%"] in rendered(history.table(RECORDS))


@pytest.mark.parametrize("names,panels", [(list(RECORDS[0]), 3), (["step", "emoji/acc1"], 1)])
def test_curves_draw_what_was_measured(tmp_path, names, panels):
    history.curves(tmp_path / "c.png", [{n: r[n] for n in names} for r in RECORDS])
    picture = Image.open(tmp_path / "c.png")
    assert picture.width == pytest.approx(500 * panels, abs=20)
    assert len(picture.convert("RGB").getcolors(10**6)) > 50  # lines, not a blank page


def test_the_start_has_no_checkpoint_and_so_is_never_the_best():
    worse = [{"step": 0, "r": 0.9}, {"step": 5, "r": 0.2}, {"step": 9, "r": 0.1}]
    assert history.best(worse, "r")["step"] == 5
    assert "no checkpoint has a higher r than the model had before" in history.verdict(worse, "r")
    assert not history.verdict([{"step": 0, "r": 0.1}, {"step": 5, "r": 0.2}], "r")


def test_a_continued_run_may_measure_other_things(tmp_path):
    mixed = [RECORDS[0], {"step": 30, "validation/loss": 1.0, "emoji/acc5": 0.9}]
    rows = rendered(history.table(mixed, "validation/mean_recall"))
    assert ["validation/mean_recall (best by it)", "10.00%", "-"] in rows
    assert ["emoji/acc5", "-", "90.00%"] in rows
    assert not history.verdict(mixed, "validation/mean_recall")
    history.curves(tmp_path / "c.png", mixed)


def test_line_says_what_was_measured():
    assert history.line(RECORDS[1]) == (
        "validation/loss 2, validation/mean_recall 40.00%, emoji/acc1 40.00%"
    )
    assert history.line({"step": 1, "emoji/acc1": 0.25}) == "emoji/acc1 25.00%"
