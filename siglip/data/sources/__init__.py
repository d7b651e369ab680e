"""Where samples come from: image-text pairs of any format, opened by one string."""

from siglip.data.sources.base import BadSample, Sample, Source
from siglip.data.sources.tar import TarSource


def open_source(address: str, *, captions: bool = True) -> Source:
    """The source that `address` names; see docs/data.md.

    `captions=False` takes pictures without a text as well, and reads no texts.
    """
    return TarSource(address, captions=captions)
