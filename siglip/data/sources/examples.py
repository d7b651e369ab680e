"""Samples from `tf.train.Example` records, the form of TFDS and of most ArrayRecord files.

A record maps names to lists of bytes, integers or floats. What a name means is told by the
features of a TFDS dataset, or else by the name itself.
"""

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import Any

from siglip.config import UserError
from siglip.data.sources import table
from siglip.data.sources.address import Options
from siglip.data.sources.base import BadSample, Sample, check_picture, usable_captions
from siglip.data.sources.parquet import IMAGE_COLUMNS

# The features of what `siglip.data.pack` writes; `meta` is a JSON object.
PACKED = {"image", "captions", "key", "meta"}
# What other programs call the bytes of a picture and its captions.
_IMAGES = (*IMAGE_COLUMNS, "image/encoded", "jpeg", "image_raw")
_CAPTIONS = (*table.CAPTION_COLUMNS, "image/caption", "sentence", "sentences")


@dataclasses.dataclass(frozen=True)
class Layout:
    """What the names in a record are.

    Attributes:
      image: the bytes of a picture.
      texts: captions.
      key: names a sample; empty where its place in the files does.
      meta: what else is kept; True stands for a list also where it has one value.
      classes: the names of the classes that numbers stand for.
      packed: `meta` is JSON.
    """

    image: str
    texts: tuple[str, ...]
    key: str
    meta: dict[str, bool]
    classes: dict[str, tuple[str, ...]]
    packed: bool = False


def layout_of_features(features: Any, options: Options, captions: bool, place: str) -> Layout:
    """Of the records of a TFDS dataset, from its features."""
    from tensorflow_datasets import features as kinds

    leaves = dict(sorted(_leaves(features, "", 0)))  # protobuf keeps no order
    images = [name for name, (kind, _) in leaves.items() if isinstance(kind, kinds.Image)]
    texts = [name for name, (kind, _) in leaves.items() if isinstance(kind, kinds.Text)]
    meta = {
        name: depth > 0 or len(kind.shape) > 0
        for name, (kind, depth) in leaves.items()
        if isinstance(kind, kinds.Tensor) and not isinstance(kind, kinds.Audio)
    }
    classes = {
        name: tuple(kind.names)
        for name, (kind, _) in leaves.items()
        if isinstance(kind, kinds.ClassLabel) and kind.num_classes
    }
    if set(leaves) == PACKED:
        options.refuse_others(place, ("label", "split"))
        return Layout("image", ("captions",), "key", {"meta": False}, {}, packed=True)
    layout = _layout(images, texts, meta, options, captions, place)
    return dataclasses.replace(layout, classes=classes)


def _leaves(feature: Any, name: str, depth: int) -> Iterator[tuple[str, tuple[Any, int]]]:
    """Names in a record, each with its feature and the number of lists that it is in."""
    from tensorflow_datasets import features as kinds

    if isinstance(feature, kinds.FeaturesDict):
        for part, inner in feature.items():
            yield from _leaves(inner, f"{name}/{part}" if name else part, depth)
    elif isinstance(feature, kinds.Sequence):
        yield from _leaves(feature.feature, name, depth + 1)
    else:
        # A list of lists is stored as one list, beside the lengths of its parts.
        yield f"{name}/ragged_flat_values" if depth > 1 else name, (feature, depth)


def layout_of_record(raw: bytes, options: Options, captions: bool, place: str) -> Layout:
    """Of records without features beside them, from the names in one of them."""
    values = dict(sorted(decode(raw, place).items()))  # protobuf keeps no order
    binary = [name for name, value in values.items() if value and isinstance(value[0], bytes)]
    return _layout(binary, binary, dict.fromkeys(values, False), options, captions, place)


def _layout(
    images: Sequence[str], texts: Sequence[str], meta: dict[str, bool], options: Options,
    captions: bool, place: str,
) -> Layout:  # fmt: skip
    if not images:
        raise UserError(f"{place}: no pictures, only {', '.join(meta)}; give another dataset")
    usual = _IMAGES if len(images) > 1 else images
    image = table.choose("image", (options.image,), usual, images, place)[0]
    if options.key:
        table.choose("key", (options.key,), (), list(meta), place)
    chosen: list[str] = []
    if captions:
        texts = [name for name in texts if name != image]
        if not texts:
            raise UserError(
                f"{place}: no texts; make captions with ?label=NAME&template=a photo of a {{}} "
                f"from one of {', '.join(sorted({*meta} - {image}))}"
            )
        # The captions of a record may be records: `captions` stands for `captions/text`.
        names = list(dict.fromkeys([*texts, *(name.partition("/")[0] for name in texts)]))
        for name in table.choose("caption", options.caption, _CAPTIONS, names, place):
            chosen += [text for text in texts if text == name or text.startswith(f"{name}/")]
    asked = {options.label, options.key}
    kept = {n: many for n, many in meta.items() if n in asked or n not in {image, *chosen}}
    return Layout(image, tuple(chosen), options.key, kept, {})


def decode(raw: bytes, where: str) -> dict[str, Sequence[Any]]:
    """The values in a record."""
    from google.protobuf.message import DecodeError
    from tensorflow_datasets.proto import tf_example_pb2

    try:
        features = tf_example_pb2.Example.FromString(raw).features.feature
    except DecodeError as error:
        reason = f"not a tf.train.Example ({error})"
        raise BadSample("broken record", where, reason, "fetch the file again") from None
    kinds = {name: feature.WhichOneof("kind") for name, feature in features.items()}
    return {name: getattr(features[name], kind).value for name, kind in kinds.items() if kind}


def sample(raw: bytes, layout: Layout, captions: bool, key: str, where: str) -> Sample:
    """What a record holds; `key` names it where the record does not."""
    values = decode(raw, where)
    picture = values.get(layout.image, ())
    if not picture:
        raise BadSample("no picture", where, f"feature {layout.image!r} is empty")
    check_picture(picture[0], where)
    texts: tuple[str, ...] = ()
    if captions:
        texts = usable_captions([list(values.get(name, ())) for name in layout.texts], where)
    if layout.packed:
        try:
            key = values["key"][0].decode(errors="surrogateescape")  # it may be a file's name
            meta = json.loads(values["meta"][0])
            if not isinstance(meta, dict):
                raise ValueError("not an object")
        except (
            ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError,
        ) as error:  # fmt: skip
            reason = f"key or meta cannot be read ({error})"
            raise BadSample("broken record", where, reason, "pack it again") from None
        return Sample(key, where, picture[0], texts, meta)
    meta = {}
    for name, many in layout.meta.items():
        value = _readable(values.get(name, ()), layout.classes.get(name, ()))
        if value is not None:
            meta[name] = value if many or len(value) != 1 else value[0]
    return Sample(str(meta.get(layout.key, key)), where, picture[0], texts, meta)


def _readable(values: Sequence[Any], classes: Sequence[str]) -> list[Any] | None:
    """Texts and numbers; None where they are neither."""
    if values and isinstance(values[0], bytes):
        try:
            return [value.decode() for value in values]
        except UnicodeDecodeError:
            return None
    return [classes[v] if classes and 0 <= v < len(classes) else v for v in values]
