"""From a name to files on this machine: a path, a released model, the hub, a bucket."""

import contextlib
import dataclasses
import os
import pathlib
import re
import tempfile
from collections.abc import Iterator

from etils import epath

from siglip import config as cfg
from siglip.data.sources import files
from siglip.pretrained import names
from siglip.workdir import locate

# A folder of weights and vocabularies that are looked up by name before the network is.
WEIGHTS = "SIGLIP_WEIGHTS"
_WANTED = ("*.json", "*.safetensors", "*.model", "*.npz")
_FILES = (".npz", ".safetensors", ".json")


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a checkpoint lies.

    Attributes:
      path: a file or a folder; of a run also one in a bucket.
      name: as the user wrote it, for messages.
      release: which released model it is, where the name says so.
      tower: "img" or "txt" if only that one is asked for (`file.npz:img`).
      step: which checkpoint of a run, "" for the latest (`runs/x@best`, `runs/x@1000`).
    """

    path: pathlib.Path | epath.Path
    name: str
    release: names.Release | None = None
    tower: str | None = None
    step: str = ""


def resolve(name: str | os.PathLike) -> Place:
    """Find what `name` means, downloading it if it is nowhere on this machine.

    In this order: a path (also as `local-dir:PATH`), a file or folder of that name below
    $SIGLIP_WEIGHTS, an address (`gs://...`, `hf-hub:org/name`, `hf://org/name@revision`), a
    released model under any of its names, a repository `org/name` of the hub. The hub's own cache
    is looked up before its server; HF_HUB_OFFLINE=1 keeps to the cache.
    """
    name, _, tower = _split_tower(os.fspath(name))
    if not name:
        raise cfg.UserError("the checkpoint's name is empty; `siglip models` lists names")
    if name.startswith("local-dir:"):
        name = name.removeprefix("local-dir:")
        if not os.path.isdir(name):
            raise cfg.UserError(f"{name}: no such folder; check the path after local-dir:")
    path = pathlib.Path(os.path.expanduser(name))
    if os.path.exists(path):  # of pathlib's own a name that is too long is an error
        found = names.find(path.name)
        return Place(path, name, found and found[0], tower)
    run, _, step = name.rpartition("@")
    folder = pathlib.Path(os.path.expanduser(run))
    if run and os.path.exists(folder) and is_run(folder):
        return Place(folder, name, None, tower, step)
    repository = re.sub(r"^(hf-hub:|hf://|https://huggingface\.co/)", "", name).rstrip("/")
    release, form = names.find(repository) or (None, None)
    if release and release.naflex:
        names.refuse_naflex(name)
    url = name if "://" in name else None
    if release and form == names.BIG_VISION:
        url = release.url
    elif release:
        repository = _repository(repository, release, form)
    if path := _in_weights_folder(url.rpartition("/")[2] if url else repository):
        return Place(path, name, release, tower)
    if url and not name.startswith(("hf://", "https://huggingface.co/")):
        if not release and (place := _run_in_bucket(name, tower)):
            return place
        return Place(_fetch(url), name, release, tower)
    if re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", repository):
        return Place(_snapshot(repository, name), name, release, tower)
    raise cfg.UserError(f"{name}: no such file or folder, and no released model{names.near(name)}")


def is_run(folder: pathlib.Path | epath.Path) -> bool:
    """Whether `train.py` wrote it."""
    return (folder / "checkpoints").is_dir()


def _run_in_bucket(name: str, tower: str | None) -> Place | None:
    """Of `gs://bucket/run` and `gs://bucket/run@step`, which is read where it is."""
    run, _, step = name.partition("@")
    other = not name.startswith("gs://") or run.endswith(_FILES)
    if other or _cached(name).exists():  # what was fetched before needs no network
        return None
    if not files.is_dir(f"{run}/checkpoints"):
        return None
    return Place(locate(run), name, None, tower, step)


def _split_tower(name: str) -> tuple[str, str, str | None]:
    head, colon, tower = name.rpartition(":")
    return (head, colon, tower) if tower in ("img", "txt") else (name, "", None)


def _repository(name: str, release: names.Release, form: str) -> str:
    if form == names.HUGGINGFACE:
        return release.hub
    lowered = {n.lower(): n for n in release.open_clip}
    return f"timm/{lowered[name.lower().removeprefix('timm/').removesuffix('/webli')]}"


def weights_folder() -> pathlib.Path | None:
    folder = os.environ.get(WEIGHTS)
    if not folder:
        return None
    if not os.path.isdir(folder):
        raise cfg.UserError(f"${WEIGHTS}={folder}: no such folder; set it to one or unset it")
    return pathlib.Path(folder)


def _in_weights_folder(name: str) -> pathlib.Path | None:
    """`<folder>/org/name`, `<folder>/name` or `<folder>/file.npz`."""
    if (folder := weights_folder()) is None or not name:
        return None
    places = (folder / name, folder / name.rpartition("/")[2])
    return next((path for path in places if path.exists()), None)


def _snapshot(repository: str, name: str) -> pathlib.Path:
    import huggingface_hub

    repo_id, _, revision = repository.partition("@")
    with hub_errors(name, f"hf download {repo_id}"):
        return pathlib.Path(
            huggingface_hub.snapshot_download(
                repo_id, revision=revision or None, allow_patterns=_WANTED
            )
        )


@contextlib.contextmanager
def hub_errors(name: str, command: str) -> Iterator[None]:
    """The hub's failures as one line each; `command` is what fetches the files by hand."""
    from huggingface_hub import errors

    try:
        yield
    except errors.LocalEntryNotFoundError:
        raise cfg.UserError(
            f"{name}: not in the hub's cache on this machine, and the hub is out of reach or "
            f"HF_HUB_OFFLINE is set; run `{command}` with a network, or give a folder"
        ) from None
    except errors.GatedRepoError:
        raise cfg.UserError(
            f"{name}: needs permission; accept its terms, `hf auth login`"
        ) from None
    except errors.RepositoryNotFoundError:
        raise cfg.UserError(
            f"{name}: no such file, folder, or repository on the hub{names.near(name)}"
        ) from None
    except errors.RevisionNotFoundError:
        raise cfg.UserError(f"{name}: the repository has no such revision; check it") from None
    except errors.HFValidationError as error:
        raise cfg.UserError(f"{name}: not a repository's name ({error}); give another") from None
    except (errors.HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise cfg.UserError(
            f"{name}: could not be fetched from the hub ({reason[:200]}); try again, or run "
            f"`{command}`"
        ) from None


def cache_folder() -> pathlib.Path:
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "siglip"


def _cached(url: str) -> pathlib.Path:
    protocol, _, key = url.partition("://")
    if ".." in key.split("/"):
        raise cfg.UserError(f"{url}: an address with `..` in it; write where it leads")
    return cache_folder() / protocol / key.rstrip("/")


def _fetch(url: str) -> pathlib.Path:
    """A file or flat folder at `gs://...` (or another address fsspec knows), kept in the cache."""
    import fsspec

    target, protocol = _cached(url), url.partition("://")[0]
    if target.exists():
        return target
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
        print(f"fetching {url} to {target}", flush=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        # Of this process alone: into the same file another's bytes would come between.
        with tempfile.TemporaryDirectory(dir=target.parent, suffix=".partial") as folder:
            temporary = pathlib.Path(folder, target.name)
            if filesystem.isdir(path):
                temporary.mkdir()
                for file in filter(_is_wanted, filesystem.ls(path, detail=False)):
                    filesystem.get_file(file, str(temporary / file.rpartition("/")[2]))
            else:
                filesystem.get_file(path, str(temporary))
            if not target.exists():
                os.replace(temporary, target)
    except ImportError:
        package = {"gs": "gcsfs", "s3": "s3fs"}.get(protocol, "aiohttp")
        raise cfg.UserError(f"{url}: reading {protocol}:// needs `pip install {package}`") from None
    except Exception as error:  # each store raises its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise cfg.UserError(
            f"{url}: could not be fetched ({reason[:200]}); check the address, or fetch the file "
            f"by hand and give its path"
        ) from None
    return target


def _is_wanted(file: str) -> bool:
    return any(pathlib.PurePath(file).match(pattern) for pattern in _WANTED)
