"""Published logits of released checkpoints, where the weights are.

`golden_logits.json` holds what the authors' code and its ports printed. To run these tests, set
SIGLIP_WEIGHTS to a folder with a model's weights (big_vision's .npz, or folders named as on the
hub), its vocabulary, and the pictures below `images/`.
"""

import json
import os
import pathlib

import numpy as np
import pytest

import siglip
from siglip import config as cfg
from siglip.pretrained import names, places
from tests.conftest import ROOT

TABLES = json.loads((ROOT / "tests/fixtures/golden_logits.json").read_text())


def find(table):
    """The weights and the pictures of a table; what is missing, as a skip."""
    release, form = names.find(table["model"])
    wanted = [release.file.rpartition("/")[2], release.hub]
    if form == names.HUGGINGFACE:
        wanted = [release.hub]
    folder = pathlib.Path(os.environ.get(places.WEIGHTS) or "$SIGLIP_WEIGHTS")
    place = next((folder / name for name in wanted if (folder / name).exists()), None)
    if place is None:
        pytest.skip(f"weights missing: {' or '.join(str(folder / name) for name in wanted)}")
    pictures = {name: folder / f"images/{name}.jpg" for name in table["images"]}
    there = {name: path for name, path in pictures.items() if path.exists()}
    if not there:
        pytest.skip(f"pictures missing: {', '.join(map(str, pictures.values()))}")
    return place, form, there


@pytest.mark.parametrize("table", TABLES, ids=lambda t: f"{t['model']}, {len(t['texts'])} texts")
def test_published_logits(table):
    place, profile, pictures = find(table)
    model = siglip.load(place, profile=profile)
    try:
        ztxt = model.encode_text(table["texts"])
    except cfg.UserError as error:
        if "vocabulary" not in str(error):
            raise
        pytest.skip(str(error))
    logits = model.logits(model.encode_image(list(pictures.values())), ztxt).T
    if not table["logits"]:  # the notebooks print them without the bias
        logits = logits - float(model.params["b"])
    columns = [table["images"].index(name) for name in pictures]
    expected = np.array(table["values"])[:, columns]
    np.testing.assert_allclose(logits, expected, atol=table["atol"])
