"""From a place where a model lies to a model that can be used."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
from jax.sharding import Mesh

from siglip import config as cfg
from siglip import inference
from siglip.data.text import Tokenizer
from siglip.model import siglip
from siglip.parallel import mesh as meshes
from siglip.parallel import sharding
from siglip.pretrained import adapters as lora
from siglip.pretrained import describe, names, places, read, vocabulary
from siglip.pretrained.preprocessing import SIDECAR
from siglip.pretrained.tensors import PICKLES, open_tensors, shards

_WEIGHTS = ("open_clip_model.safetensors", "model.safetensors")


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint that has been found and understood, but not read.

    Attributes:
      model, image, text: its architecture and preprocessing.
      family: 1 or 2, for SigLIP or SigLIP 2.
      read: parameters of the given architecture, laid out over a mesh.
      tokenizer: finds the vocabulary, in the given place first.
    """

    model: cfg.Model
    image: cfg.Image
    text: cfg.Text
    family: int
    read: Callable[[cfg.Model, Mesh], siglip.Params]
    tokenizer: Callable[[cfg.Text, pathlib.Path | None], Tokenizer]


def load(
    name: str | os.PathLike,
    *,
    profile: str | None = None,
    dtype: str | None = None,
    image_size: int | None = None,
    tokenizer: str | os.PathLike | None = None,
    gelu: str = "tanh",
    devices: Sequence[jax.Device] | None = None,
    fsdp: int = 1,
    batch_size: int = 64,
    adapters: str | os.PathLike | None = None,
) -> inference.Model:
    """A model to classify and embed with.

    Args:
      name: a workdir that `train.py` wrote (`@best` behind it: the best checkpoint by `train.best`
        instead of the latest; `@1000`: of that step); a released model under any name (`siglip
        models` lists them); `org/name` or `hf-hub:org/name` on the hub; a folder or file of
        transformers, OpenCLIP, timm or big_vision; `gs://...`. `:img` or `:txt` behind it loads one
        tower.
      profile: how pictures and texts are prepared: "huggingface", "open_clip", "big_vision", or
        "native" as models trained here. By default as the checkpoint's origin does.
      dtype: of matrix products, "float32" or "bfloat16".
      image_size: pixels; another one than the checkpoint's resizes its position embeddings.
      tokenizer: a vocabulary file, or a folder to look in.
      gelu: "open_clip" computes erf GELU where OpenCLIP does; the models were trained with tanh.
      devices: one by default. Pictures and texts are spread over several.
      fsdp: over how many of them the weights are spread.
      batch_size: the largest number of pictures or texts encoded at once.
      adapters: a file of low-rank adapters that were trained beside this model.

    Raises:
      UserError: no such model, damaged or contradictory files, unknown options.
    """
    cfg.check_word("profile", profile, (None, *names.PROFILES))
    cfg.check_word("dtype", dtype, (None, "float32", "bfloat16"))
    cfg.check_word("gelu", gelu, ("tanh", "open_clip"))
    for option, value in (("batch_size", batch_size), ("fsdp", fsdp)):
        if value < 1:
            raise cfg.UserError(f"{option}={value}: must be at least 1")
    mesh = meshes.make_mesh(cfg.Mesh(fsdp=fsdp), list(devices or jax.local_devices()[:1]), "fsdp")
    source = find(name, adapters)
    config = dataclasses.replace(source.model, dtype=dtype or source.model.dtype)
    if gelu == "open_clip":
        config = open_clip_gelu(config, source.family)
    image, text = source.image, source.text
    if profile:
        image, clean = names.profile(profile, source.family)
        text = dataclasses.replace(text, clean=clean)
    given = pathlib.Path(tokenizer) if tokenizer else None
    params = source.read(config, mesh)
    if image_size is not None and config.image:
        config, params = read.resize_positions(config, params, image_size, mesh)
    make_tokenizer = functools.partial(source.tokenizer, text, given)
    model = inference.Model(params, config, image, make_tokenizer, batch_size, mesh)
    if given and config.text:
        model.tokenizer  # noqa: B018 (what the user gave is checked at once)
    return model


def find(name: str | os.PathLike, adapters: str | os.PathLike | None = None) -> Source:
    """What `load` would read, without reading the weights."""
    place = places.resolve(name)
    found = _workdir(place) if places.is_run(place.path) else _foreign(place)
    if adapters is None:
        return found

    def read(c: cfg.Model, mesh: Mesh) -> siglip.Params:
        # In float32, to be rounded once: with the adapters.
        params = found.read(dataclasses.replace(c, dtype="float32"), mesh)
        return lora.add(params, c, adapters, mesh)

    return dataclasses.replace(found, read=read)


def _workdir(place: places.Place) -> Source:
    from siglip.checkpoint import Checkpoints  # Orbax takes a second that others need not wait

    def read(c: cfg.Model, mesh: Mesh) -> siglip.Params:
        params = lora.merge(read_run(place, mesh))
        return {place.tower: params[place.tower]} if place.tower else params

    with contextlib.closing(Checkpoints(place.path, step=place.step, items=())) as checkpoints:
        config = checkpoints.config()
    model = lora.plain(config.model)
    if place.tower:
        model = dataclasses.replace(model, **{{"img": "text", "txt": "image"}[place.tower]: None})
    make = functools.partial(_tokenizer, model.text, None, place.path, False)
    return Source(model, config.image, config.text, describe.family(model), read, make)


def read_run(place: places.Place, mesh: Mesh) -> siglip.Params:
    """The parameters of a run as it trains them: with adapters beside kernels if it has any."""
    from siglip.checkpoint import MODEL_ITEMS, Checkpoints

    opened = Checkpoints(place.path, step=place.step, items=MODEL_ITEMS)
    with contextlib.closing(opened) as checkpoints:
        c = checkpoints.config()
        shapes = jax.eval_shape(lambda: siglip.init(c.model))
        abstract = jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
            shapes,
            sharding.tree_shardings(shapes, mesh),
        )
        item = checkpoints.model_item
        return checkpoints.restore({item: abstract})[item]


def _foreign(place: places.Place) -> Source:
    files, folder = weight_files(place)
    tensors = open_tensors(files)
    try:
        description = describe.describe(tensors, folder, place.release, place.tower)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # Of what JSON files can say and shapes can be, most makes no sense.
        raise cfg.UserError(
            f"{place.name}: its arrays or the configuration files beside the weights make no sense "
            f"({error}); fetch them again"
        ) from None
    c, release = description.model, place.release

    wanted = release.vocabulary if release else c.text and names.vocabulary_of(c.text.vocab_size)
    make = functools.partial(_tokenizer, c.text, wanted, folder, release is not None)
    family = describe.family(c, release)
    reader = functools.partial(read.read_params, description)
    return Source(c, description.image, description.text, family, reader, make)


def weight_files(place: places.Place) -> tuple[list[pathlib.Path], pathlib.Path | None]:
    """The files with the arrays, and the folder with the configuration that belongs to them."""
    path = place.path
    if path.is_file():
        if path.name.endswith(".safetensors.index.json"):
            return shards(path), path.parent
        # What lies beside a file belongs to it where the file has a checkpoint's usual name, or
        # where this project wrote both; an .npz of others lies among others.
        ours = (path.parent / SIDECAR).is_file()
        return [path], path.parent if path.name in _WEIGHTS or ours else None
    for name in _WEIGHTS:
        if (path / name).is_file():
            return [path / name], path
        if (path / f"{name}.index.json").is_file():
            return shards(path / f"{name}.index.json"), path
    candidates = sorted(p for p in path.iterdir() if p.suffix in (".npz", ".safetensors"))
    if len(candidates) == 1:
        return candidates, path
    if candidates:
        raise cfg.UserError(
            f"{place.name}: holds {len(candidates)} weight files ({candidates[0].name}, "
            f"{candidates[1].name}, ...); give the path of one"
        )
    pickles = sorted(p for p in path.iterdir() if p.suffix in PICKLES)
    if pickles:
        return [pickles[0]], path  # refused with the remedy when it is opened
    raise cfg.UserError(
        f"{place.name}: no model in this folder (no checkpoints/ of a run, no *.safetensors, no "
        "*.npz); check the path"
    )


def _tokenizer(
    tower: cfg.TextTower, wanted: names.Vocabulary | None, folder: pathlib.Path | None,
    released: bool, text: cfg.Text, given: pathlib.Path | None,
) -> Tokenizer:  # fmt: skip
    path = vocabulary.find(wanted, given=given, folder=folder, released=released)
    tokenizer = Tokenizer(dataclasses.replace(text, tokenizer=str(path)), tower.length)
    if tokenizer.vocab_size > tower.vocab_size:
        raise cfg.UserError(
            f"{path}: has {tokenizer.vocab_size} pieces, the embedding table {tower.vocab_size} "
            "rows; use the vocabulary that the checkpoint was trained with"
        )
    return tokenizer


def open_clip_gelu(c: cfg.Model, family: int) -> cfg.Model:
    """erf where OpenCLIP's model configurations and timm's trunks have it."""
    image, text = c.image, c.text
    if image:
        tanh = image.patch_size == 32 or (image.width, image.image_size) == (1024, 512)
        tanh |= (image.width, image.patch_size) == (1152, 16) or image.width == 1536
        image = dataclasses.replace(image, gelu="tanh" if tanh else "erf")
    if text:
        text = dataclasses.replace(text, gelu="tanh" if family == 2 else "erf")
    return dataclasses.replace(c, image=image, text=text)
