"""What a number hangs on, as facts for a result: protocol, preprocessing, versions, command."""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import os
import platform
import shlex
import sys
from typing import Any

import siglip
from siglip import config as cfg
from siglip.evaluation.protocols import Protocol
from siglip.evaluation.results import Facts

_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "scipy", "sentencepiece", "tokenizers")


def protocol_facts(protocol: Protocol, dataset: str, class_names: str = "") -> Facts:
    """How classes are asked for.

    Args:
      protocol: of the evaluation.
      dataset: its name in `facts.datasets`; "" for data of the user's own.
      class_names: where these come from, if not from the protocol.
    """
    facts = {
        "name": protocol.name,
        "description": protocol.description,
        "prompts": len(protocol.prompts(dataset)),
        "prompts_sha256": digest(protocol.prompts(dataset)),
        "class_names": class_names or protocol.stack,
        "canonical": protocol.canonical,
    }
    return {**facts, "published": dataset in protocol.published} if dataset else facts


def preprocessing_facts(
    image: cfg.Image, text: cfg.Text, *, image_size: int, text_length: int, tokenizer: str
) -> Facts:
    """How pictures and texts reach the model.

    Args:
      image: the profile of pictures.
      text: that of texts.
      image_size: pixels of a side.
      text_length: tokens.
      tokenizer: its fingerprint, a hash of the vocabulary.
    """
    return {
        **dataclasses.asdict(image),
        "image_size": image_size,
        **dataclasses.asdict(text),
        # Where it lies says nothing about it, and differs between machines.
        "tokenizer": os.path.basename(text.tokenizer),
        "tokenizer_sha256": tokenizer,
        "text_length": text_length,
    }


def digest(facts: Any) -> str:
    """Of what can be written as text, to see whether it is the same."""
    return hashlib.sha256(repr(facts).encode(errors="backslashreplace")).hexdigest()[:16]


def versions() -> Facts:
    """Of what the numbers may depend on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"siglip": siglip.__version__, "python": platform.python_version(), **found}


def now() -> str:
    """The date."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def command() -> str:
    """What was typed."""
    return shlex.join([os.path.basename(sys.argv[0]), *sys.argv[1:]])
