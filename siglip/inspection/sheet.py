"""Some pictures of a source with their captions, on one picture."""

import os
import textwrap

from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image, ImageOps

from siglip.data import images
from siglip.data.sources import BadSample, Source
from siglip.inspection.survey import spread_over

_COLUMNS, _ROWS = 8, 6
_LINES, _WIDTH = 3, 24  # of a caption, in lines and characters
_PIXELS = 192  # of a picture's longer side, larger or smaller than it was
# Beside the font that is always there: what systems have for other scripts.
_FONTS = (
    "DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans Devanagari", "Noto Sans Thai",
    "WenQuanYi Zen Hei", "Droid Sans Fallback", "Hiragino Sans", "PingFang SC", "Arial Unicode MS",
    "Microsoft YaHei", "Malgun Gothic",
)  # fmt: skip


def contact_sheet(path: str | os.PathLike, source: Source) -> None:
    """Write a PNG with 48 pictures spread over the source, each with its key and first caption.

    What cannot be used is named in its place. Letters that no installed font has become boxes.
    """
    fonts = _Fonts()
    figure = Figure(figsize=(2.0 * _COLUMNS, 2.45 * _ROWS))
    axes = figure.subplots(_ROWS, _COLUMNS)
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, spread_over(len(source), _ROWS * _COLUMNS), strict=False):
        try:
            sample = source[i]
            picture = images.decode(sample.image, sample.where)
            key, text, color = sample.key, sample.captions[0], "black"
        except BadSample as error:
            picture = Image.new("RGB", (_PIXELS, _PIXELS), "lightgrey")
            key, text, color = f"sample {i}", f"unusable: {error.kind}", "red"
        axis.imshow(ImageOps.pad(picture, (_PIXELS, _PIXELS), color="white"))
        lines = [textwrap.shorten(key, _WIDTH, placeholder="…"), *_wrapped(text)]
        axis.text(
            0.5, -0.02, fonts.shown("\n".join(lines)), fontsize=8, color=color, ha="center",
            va="top", transform=axis.transAxes, fontfamily=fonts.families,
            parse_math=False,  # captions may hold dollars
        )  # fmt: skip
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, max_lines=_LINES, placeholder=" …")


class _Fonts:
    """The installed ones, and what letters they have: matplotlib warns of others."""

    def __init__(self):
        installed = {font.name: font.fname for font in font_manager.fontManager.ttflist}
        self.families = [name for name in _FONTS if name in installed]
        self._letters: set[int] = {ord("\n")}
        for name in self.families:
            self._letters.update(font_manager.get_font(installed[name]).get_charmap())

    def shown(self, text: str) -> str:
        return "".join(letter if ord(letter) in self._letters else "□" for letter in text)
