"""The model card: facts, from the files themselves, and nothing that could be mistaken for one."""

import json
import re
import shutil

import pytest
import yaml

from siglip import config as cfg
from siglip.model import presets
from siglip.pretrained import card, export, names
from tests.conftest import EMOJI
from tests.fixtures.make_pretrained import FOLDER


@pytest.fixture(scope="module")
def evaluated(workdir, tmp_path_factory):
    """A run with two evaluations, as if of steps 0 and 1."""
    run = shutil.copytree(workdir, tmp_path_factory.mktemp("card") / "run")
    lines = [{"step": 0, "validation/loss": 9.5}, {"step": 1, "validation/loss": 3.25, "x": None}]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run


def facts(text: str) -> dict[str, str]:
    """The rows of all tables."""
    return dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))


@pytest.mark.parametrize("to", ["huggingface", "big_vision"])
def test_a_run(evaluated, tmp_path, to):
    export.convert(evaluated, tmp_path / "there", to)
    text = (tmp_path / "there/README.md").read_text()
    rows = facts(text)
    assert rows["pictures"] == "30 x 30 pixels, patches of 7"
    assert rows["data"] == f"`{EMOJI}/train-00000.tar`" and rows["started from"] == "random numbers"
    assert rows["batch"].startswith("8 pairs: 8 seen") and rows["steps"] == "1 of `1 steps`"
    assert rows["padding"] == "with 1" and rows["vocabulary"].startswith("2,000 pieces, sha256 `")
    assert rows["validation/loss"] == "3.25" and "9.5" not in text and "| x |" not in text
    assert "siglip.load(" in text and "$" not in text and "\n\n\n" not in text
    assert ("max_length=8" in text) == (to == "huggingface")


def test_the_licence_is_for_its_author_to_state(evaluated, tmp_path):
    """The head is valid for the hub, and neither it nor the text states one."""
    export.convert(evaluated, tmp_path / "there", "huggingface")
    text = (tmp_path / "there/README.md").read_text()
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head) == {
        "library_name": "transformers", "pipeline_tag": "zero-shot-image-classification",
        "tags": ["siglip"],
    }  # fmt: skip
    assert "**Licence: not chosen yet.**" in body and "# license: CHOOSE ONE" in head


def test_nothing_is_overwritten(evaluated, tmp_path):
    """Not even by the same export again: its author may have written into it."""
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(cfg.UserError, match="exists already; give a new folder"):
        export.convert(evaluated, tmp_path, "huggingface")
    assert (tmp_path / "README.md").read_text() == "mine"


def test_a_card_knows_whether_its_author_wrote_into_it(evaluated, tmp_path):
    export.convert(evaluated, tmp_path / "there", "huggingface")
    text = (tmp_path / "there/README.md").read_text()
    assert not card.is_edited(text)
    for edited in (text.replace("siglip", "mine", 1), text + "More.", "mine", ""):
        assert card.is_edited(edited)


def test_what_is_no_run_has_no_training(tmp_path):
    export.convert(f"{FOLDER}/huggingface:img", tmp_path / "img", "huggingface")
    text = (tmp_path / "img/README.md").read_text()
    assert "Where it comes from" not in text and "vocabulary" not in facts(text)
    assert "pipeline_tag: feature-extraction" in text and "One tower of two" in text


@pytest.mark.parametrize("to", names.STACKS)
@pytest.mark.parametrize("name", ["siglip-b16-256", "siglip2-g-opt16-384"])
def test_code_is_code(to, name):
    c = presets.get(name)
    image, clean = names.profile(to, 2)
    text = card.text(to, "x", c, image, cfg.Text(clean=clean), None)
    (code,) = re.findall("```python\n(.*?)```", text, re.DOTALL)
    compile(code, "card", "exec")
    assert {"siglip-b16-256": "203,202,050", "siglip2-g-opt16-384": "1,871,885,426"}[name] in text


def test_names_stay_within_their_cells(tmp_path):
    c = presets.get("siglip-b16-256")
    run = card.Run(cfg.Config(c, data=cfg.Data("a|b`c\x1b\nd")), 1, {})
    text = card.text("big_vision", "e`f\n# g", c, cfg.Image(), cfg.Text(), None, run=run)
    assert "| data | `a\\|b'c\\x1b\\nd` |" in text and "from `e'f\\n# g`." in text
