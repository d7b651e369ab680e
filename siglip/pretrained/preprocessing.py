"""How a foreign checkpoint wants pictures and texts prepared, from the files beside its arrays."""

import dataclasses
from typing import Any

from siglip import config as cfg
from siglip.pretrained import names

Json = dict[str, Any]
SIDECAR = "siglip.json"  # what this project writes beside the weights it gives back


def preprocessing(
    form: str, files: dict[str, Json], model: cfg.Model, family: int, where: str
) -> tuple[cfg.Image, cfg.Text]:
    """Our own record if there is one; otherwise the profile of the format and what the files say.

    `files` holds the contents of the configuration files by name.
    """
    if own := files[SIDECAR]:
        image = cfg.from_dict(own.get("image", {}), cfg.Image, f"{where}: {SIDECAR} image")
        cfg.check_word(f"{where}: {SIDECAR} image.shape", image.shape, cfg.SHAPES)
        return image, cfg.from_dict(own.get("text", {}), cfg.Text, f"{where}: {SIDECAR} text")
    image, clean = names.profile(form, family)
    if form == "huggingface":
        image = _huggingface_image(image, files, model, where)
    if form == "open_clip":
        image = _open_clip_image(image, files, where)
    vocabulary = names.vocabulary_of(model.text.vocab_size) if model.text else None
    if vocabulary:
        pad_id = vocabulary.pad_id
    else:  # a vocabulary of the checkpoint's own, in SentencePiece's order
        pad_id = {"<pad>": 0}.get(files["tokenizer_config.json"].get("pad_token"), 1)
    return image, cfg.Text(pad_id=pad_id, clean=clean)


def _huggingface_image(
    image: cfg.Image, files: dict[str, Json], model: cfg.Model, where: str
) -> cfg.Image:
    processor = files["preprocessor_config.json"]
    processor = processor or files["processor_config.json"].get("image_processor", {})
    if "resample" in processor:
        filters = {2: "torch_bilinear", 3: "torch_bicubic"}
        if processor["resample"] not in filters:
            raise cfg.UserError(
                f"{where}: its preprocessing asks for resample={processor['resample']}; write 2 "
                "(bilinear) or 3 (bicubic), SigLIP's"
            )
        image = dataclasses.replace(image, resize=filters[processor["resample"]])
    _refuse_crops(processor, where)
    size = processor.get("size", {}).get("height")
    if size and model.image and size != model.image.image_size:
        raise cfg.UserError(
            f"{where}: its preprocessing makes {size} pixels, its positions are for "
            f"{model.image.image_size}; use the files of one checkpoint"
        )
    return _normalisation(image, processor.get("image_mean"), processor.get("image_std"), where)


def _refuse_crops(processor: Json, where: str) -> None:
    """A processor that does not squash; transformers crops elsewhere than we, by up to a pixel."""
    size = processor.get("size", {})
    squashes = isinstance(size, dict) and "shortest_edge" not in size
    # To cut out what is all there is changes nothing.
    crop = processor.get("crop_size") if processor.get("do_center_crop") else size
    if not squashes or crop not in (size, size.get("height")):
        raise cfg.UserError(
            f"{where}: its preprocessing asks for size={size}, "
            f"do_center_crop={processor.get('do_center_crop', False)}; SigLIP's squashes to a "
            "square: write a height and a width into its size, and do_center_crop=false"
        )


def _open_clip_image(image: cfg.Image, files: dict[str, Json], where: str) -> cfg.Image:
    preprocess = files["open_clip_config.json"].get("preprocess_cfg", {})
    pretrained = files["config.json"].get("pretrained_cfg", {})  # timm alone
    resize = preprocess.get("interpolation", pretrained.get("interpolation", "bicubic"))
    mode = preprocess.get("resize_mode", "squash")
    shapes = {"squash": "squash", "shortest": "crop"}
    if mode not in shapes or resize not in ("bicubic", "bilinear"):
        raise cfg.UserError(
            f"{where}: its preprocessing asks for resize_mode={mode!r}, interpolation={resize!r}; "
            "write 'squash' or 'shortest', and 'bicubic' or 'bilinear'"
        )
    mean = preprocess.get("mean", pretrained.get("mean"))
    std = preprocess.get("std", pretrained.get("std"))
    image = dataclasses.replace(image, resize=resize, shape=shapes[mode])
    return _normalisation(image, mean, std, where)


def _normalisation(image: cfg.Image, mean: Any, std: Any, where: str) -> cfg.Image:
    values = {}
    for name, value in (("mean", mean), ("std", std)):
        if value is None:
            continue
        channels = set(value) if isinstance(value, list) else {value}
        if len(channels) != 1:
            raise cfg.UserError(
                f"{where}: its preprocessing has {name}={value}, one value for each channel; "
                "write the same for all, SigLIP's is 0.5"
            )
        values[name] = float(channels.pop())
    return dataclasses.replace(image, **values)
