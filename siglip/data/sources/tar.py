"""WebDataset tar shards with random access."""

import concurrent.futures
import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from siglip.config import UserError
from siglip.data.sources import files, tar_index
from siglip.data.sources.address import Options
from siglip.data.sources.base import (
    IMAGE_SUFFIXES,
    BadSample,
    Sample,
    check_picture,
    listed,
    usable_captions,
)
from siglip.data.sources.tar_index import BLOCK, IMAGE, JSON, TXT, Index

_REPAIR = "repair the shard"
_THREADS = 32  # that read indexes: they wait for disks and buckets


class TarSource:
    """WebDataset tar shards with random access.

    A sample is the members of a shard that share a key: a picture `<key>.jpg`, `.png` ..., and its
    captions in `<key>.json` (a list under "captions", or a string under "caption") or, where that
    has none, in `<key>.txt`. `caption=` chooses others: `txt`, or fields of the JSON, where
    `json:txt` is a field of that name. Where the members are is kept beside each shard, see
    `tar_index`.

    Of a shard that is cut short or damaged, the members before that are used; `damage` says so.

    `captions=False` takes pictures without a text as well. Texts are then only read for the label,
    if `options` name one.
    """

    def __init__(self, pattern: str, options: Options | None = None, *, captions: bool = True):
        options = options or Options()
        self.shards = files.expand(pattern)
        self._captions = captions
        self._wanted = (IMAGE, JSON, TXT) if captions or options.label else (IMAGE,)
        self._fields = options.caption
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            self._indexes = list(pool.map(tar_index.load, self.shards))
        self._rows = [np.flatnonzero(self._usable(i)).astype(np.uint32) for i in self._indexes]
        self._ends = np.cumsum([len(rows) for rows in self._rows])
        self.damage = [
            BadSample("truncated tar", shard, index.damage, "fetch it again")
            for shard, index in zip(self.shards, self._indexes, strict=True)
            if index.damage
        ]
        if not len(self):
            raise self.damage[0] if self.damage else UserError(f"{pattern}: {self._why_empty()}")
        self._check_fields()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def keys(self) -> list[str]:
        pairs = zip(self._indexes, self._rows, strict=True)
        return [index.key(row) for index, rows in pairs for row in rows.tolist()]

    def fingerprint(self) -> str:
        """Changes when shards are renamed, reordered, or hold other samples."""
        digest = hashlib.sha256()
        for shard, index, rows in zip(self.shards, self._indexes, self._rows, strict=True):
            digest.update(f"{os.path.basename(shard)}\n".encode())
            for array in (index.keys, index.ends, index.spans[rows]):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def column(self, field: str) -> list[Any]:
        """See `labels.column`."""

        def value(i: int) -> Any:
            try:
                return self._read(i, (JSON,))[3].get(field)
            except BadSample:
                return None

        with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
            return list(pool.map(value, range(len(self))))

    def __getitem__(self, i: int) -> Sample:
        key, where, image, meta, txt = self._read(i, self._wanted)
        check_picture(image, where)
        captions = self._captions_of(meta, txt, where) if self._captions else ()
        return Sample(key, where, image, captions, meta)

    def _read(
        self, i: int, wanted: Sequence[int]
    ) -> tuple[str, str, bytes, dict[str, Any], bytes | None]:
        """Key, where, picture, and what texts are there: the JSON and the .txt; of these members
        the `wanted` ones."""
        shard = int(np.searchsorted(self._ends, i, side="right"))
        index, path = self._indexes[shard], self.shards[shard]
        row = int(self._rows[shard][i - (self._ends[shard - 1] if shard else 0)])
        key = index.key(row)
        where = f"{path}: {key}"
        spans = index.spans[row].tolist()
        members = [m for m in wanted if spans[m][0]]
        try:
            found = files.read_spans(path, [(spans[m][0] * BLOCK, spans[m][1]) for m in members])
        except BadSample as error:
            remedy = _REPAIR if error.kind == files.TOO_LARGE else "fetch the shard again"
            raise BadSample(error.kind, where, error.reason, remedy) from None
        data = dict(zip(members, found, strict=True))
        meta = _json_object(data[JSON], where) if JSON in data else {}
        return key, where, data.get(IMAGE, b""), meta, data.get(TXT)

    def _captions_of(self, meta: dict[str, Any], txt: bytes | None, where: str) -> tuple[str, ...]:
        txt = txt and txt.strip()
        if self._fields:
            values = [txt if f == "txt" else meta.get(_field(f)) for f in self._fields]
            return usable_captions(values, where)
        try:
            return usable_captions([meta.get("captions") or meta.get("caption")], where)
        except BadSample:
            if not txt:
                raise
            return usable_captions([txt], where)

    def _usable(self, index: Index) -> np.ndarray:
        """(n,) bool: the samples that may have what is asked for."""
        has = index.spans[:, :, 0] > 0
        if not self._captions:
            return has[:, IMAGE]
        members = {TXT if f == "txt" else JSON for f in self._fields} or {JSON, TXT}
        return has[:, sorted(members)].any(axis=1)

    def _why_empty(self) -> str:
        if pictures := sum(len(index.ends) for index in self._indexes):
            fields = ", ".join(self._fields)
            lacking = f"for caption={fields}" if fields else "<key>.json or <key>.txt"
            return (
                f"no samples: the shards hold {pictures} pictures and no text {lacking}; add "
                "texts, or make captions from a label with ?label=FIELD"
            )
        return f"no samples: the shards hold no pictures ({', '.join(IMAGE_SUFFIXES)}); give others"

    def _check_fields(self) -> None:
        """Refuse fields that the first sample does not have."""
        if not (self._captions and self._fields):
            return
        with contextlib.suppress(BadSample):  # which is told when it is met
            _, where, _, meta, _ = self._read(0, (JSON,))
            if "txt" not in self._fields and not {_field(f) for f in self._fields} & set(meta):
                raise UserError(
                    f"{where}: its JSON has no field {', '.join(self._fields)}; set caption= to "
                    f"some of {listed(meta)}"
                )


def _field(name: str) -> str:
    return name.removeprefix("json:")


def _json_object(data: bytes, where: str) -> dict[str, Any]:
    try:
        meta = json.loads(data)
    except UnicodeDecodeError:
        raise BadSample("caption not UTF-8", where, "its JSON is not UTF-8", _REPAIR) from None
    except (ValueError, RecursionError) as error:
        raise BadSample("broken JSON", where, f"its JSON: {error}", _REPAIR) from None
    if not isinstance(meta, dict):
        raise BadSample("broken JSON", where, "its JSON is not an object with captions", _REPAIR)
    return meta
