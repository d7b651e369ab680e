"""docs/data.md tells of every option and of every kind of unusable sample."""

import re

from siglip.data.sources import address
from tests.conftest import ROOT

TEXT = (ROOT / "docs/data.md").read_text()


def test_all_options_and_kinds_are_told():
    for name in address._NAMES:
        assert f"`{name}=" in TEXT, name
    code = "".join(path.read_text() for path in (ROOT / "siglip/data").rglob("*.py"))
    kinds = set(re.findall(r'BadSample\(\s*"([^"]+)"', code)) - {"not embedded"}  # of a cache
    kinds |= {"not an image", "too many pixels", "truncated image", "broken image"}
    assert len(kinds) > 12
    for kind in kinds:
        assert f"`{kind}`" in TEXT, kind
