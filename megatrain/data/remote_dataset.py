"""A dataset on object storage: its manifest and tokenizer are read at once, its shards when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import xxhash

from megatrain.data.cache import Cache, CachedFolder
from megatrain.data.dataset import TokenDataset, require_its_tokenizer, require_layout, require_size
from megatrain.data.manifest import MANIFEST, Manifest, parse_manifest
from megatrain.data.tokenizer import FOLDER, INFO_FILE
from megatrain.durable import write_durably
from megatrain.errors import FailedWork, UserError, require
from megatrain.remote import RemoteFolder


def open_remote(
    url: str,
    split: str,
    cache: Cache,
    *,
    most_open: int | None,
    retry_s: float,
    check: Callable[[int], Iterable[int]],
) -> TokenDataset:
    """Open one split of the dataset at a URL; see TokenDataset.open.

    Raises UserError where it is no dataset or access is refused, FailedWork where it cannot be reached.
    """
    home, folder = RemoteFolder(url), RemoteFolder(f"{url.rstrip('/')}/{split}")
    with _told(folder):
        content = folder.read(MANIFEST)
        manifest = parse_manifest(content, f"{folder}/{MANIFEST}")
        require(
            manifest.shards, f"{folder}: the split has no shards; its share of the documents came out empty"
        )
        key = xxhash.xxh3_128_hexdigest(content)
        local = cache.datasets / key
        _copy_tokenizer(home, local / FOLDER)
        _check_sizes(folder, manifest, list(check(len(manifest.shards))))
    require_its_tokenizer(local, manifest)
    files = CachedFolder(cache, folder, key)
    for number, shard in enumerate(manifest.shards):
        files.know(shard.name, shard.bytes, shard.hash, partial(_check_layout, manifest, number))
    return TokenDataset(local, manifest, remote=files, most_open=most_open, retry_s=retry_s)


def tokenizer_home(url: str, cache: Cache) -> Path:
    """A local copy of the tokenizer's folder of the dataset at a URL. Raises what open_remote raises."""
    home = RemoteFolder(url)
    with _told(home):
        key = xxhash.xxh3_128_hexdigest(home.read(f"{FOLDER}/{INFO_FILE}"))
        _copy_tokenizer(home, cache.datasets / key / FOLDER)
    return cache.datasets / key / FOLDER


@contextmanager
def _told(folder: RemoteFolder) -> Iterator[None]:
    """Errors of reading in the words of a user."""
    try:
        yield
    except FileNotFoundError as error:
        raise UserError(
            f"{folder}: not a dataset, or one whose preparation did not end ({error.strerror}: "
            f"{error.filename}); copy a folder made by `megatrain prepare` there"
        ) from None
    except PermissionError as error:
        raise UserError(f"{folder} is refused: {error.strerror}; see to URL and credentials") from None
    except OSError as error:
        raise FailedWork(f"{folder} cannot be reached: {error.strerror or error}") from None


def _copy_tokenizer(home: RemoteFolder, local: Path) -> None:
    """Copy the tokenizer beside the splits; its description last, for it says that the rest is there."""
    if (local / INFO_FILE).is_file():
        return
    for name in sorted(home.sizes(FOLDER), key=lambda name: (name == INFO_FILE, name)):
        content = home.read(f"{FOLDER}/{name}")
        local.mkdir(parents=True, exist_ok=True)
        write_durably(local / name, content)


def _check_sizes(folder: RemoteFolder, manifest: Manifest, numbers: list[int]) -> None:
    if not numbers:
        return
    found = folder.sizes()
    for number in numbers:
        shard = manifest.shards[number]
        where = f"{folder}/{shard.name}"
        if shard.name not in found:
            raise FailedWork(f"{where}: shard missing; prepare the dataset again or restore this file")
        require_size(where, found[shard.name], shard)


def _check_layout(manifest: Manifest, number: int, path: Path) -> None:
    require_layout(path, manifest, number)
