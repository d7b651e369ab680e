import numpy as np
from PIL import Image

from siglip.evaluation import sheet
from siglip.evaluation.classification import score


def test_a_contact_sheet_of_few_pictures_and_odd_names(tmp_path):
    zimg = np.eye(3, dtype=np.float32)[[0, 1, 0]]
    zimg[2] = np.nan  # unusable: not asked for
    scores = score(zimg, np.eye(3, dtype=np.float32)[:2], np.array([[0], [0], [1]]), 0.0, 0.0)
    asked = []

    def picture(row):
        asked.append(row)
        return Image.new("RGBA", (9, 5), "red")

    sheet.contact_sheet(tmp_path / "sheet.png", scores, ["$\\frac$", "[red]"], picture)
    assert asked == [0, 1]
    with Image.open(tmp_path / "sheet.png") as made:
        assert min(made.size) > 300 and (255, 0, 0) in made.convert("RGB").get_flattened_data()


def test_a_loss_curve(tmp_path):
    record = {"loss": 1.0, "positive_logit": 2.0, "negative_logit": -3.0}
    sheet.loss_curve(tmp_path / "loss.png", [{"step": i, **record} for i in (1, 2)])
    with Image.open(tmp_path / "loss.png") as made:
        assert min(made.size) > 300
