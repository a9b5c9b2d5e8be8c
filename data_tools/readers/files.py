"""Which files a source has: paths, globs, folders, URLs and lists, in an order that is always the same."""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from data_tools.readers.parts import InputPart
from data_tools.readers.raw import file_system, is_remote, local_path, open_raw, persist, reason
from data_tools.readers.source import (
    COLUMNS,
    KNOWN_IN_FOLDERS,
    Source,
    compression_of,
    kind_in_folder,
    named_format,
    require_kind,
)
from data_tools.readers.streams import Damaged, decompressed, require_decompressor
from data_tools.readers.unchanged import version_of
from megatrain.errors import FailedWork, UserError, require

_LOOKS_AT_ONCE = 32  # Of remote files; Common Crawl lists 90,000 a crawl.


@dataclass(frozen=True)
class FoundFiles:
    """The files of a source, and how many in its folders were left out, by why."""

    parts: Sequence[InputPart]
    left_out: Mapping[str, int]


def find_files(name: str, source: Source) -> list[InputPart]:
    """The files of a source. Raises what look_for_files raises."""
    return list(look_for_files(name, source).parts)


def look_for_files(name: str, source: Source) -> FoundFiles:
    """The files of a source: pattern by pattern, those of each in the order of their names, none twice.

    In folders, and below them, those of an unknown kind are left out, and those whose names begin with `.`
    or `_`. Raises UserError where a pattern finds none, a file is of an unknown kind or may not be read, or
    all are empty.
    """
    looks = [_Look(pattern, source, f"sources.{name}.files") for pattern in _patterns(name, source)]
    if any(is_remote(look.pattern) for look in looks):
        with ThreadPoolExecutor(_LOOKS_AT_ONCE) as pool:
            matches = list(pool.map(_Look.found, looks))
    else:
        matches = [look.found() for look in looks]
    found: dict[str, InputPart] = {}
    for part in (part for match in matches for part in match):
        found.setdefault(part.url, part)
    kinds = {url: require_kind(url, source, name) for url in found}
    for url, kind in kinds.items():
        require_decompressor(kind.compression, url)
    _require_read_options(name, source, {kind.format for kind in kinds.values()})
    require(
        any(part.bytes for part in found.values()),
        f"sources.{name}.files: every file is empty ({next(iter(found))} ...); give it text",
    )
    left_out = sum((look.left_out for look in looks), Counter[str]())
    return FoundFiles(list(found.values()), dict(sorted(left_out.items())))


def told_left_out(left_out: Mapping[str, int]) -> str:
    """What was left out, as text."""
    return ", ".join(f"{count:,} {what}" for what, count in sorted(left_out.items()) if count)


def _patterns(name: str, source: Source) -> list[str]:
    """What `files` names, lists read and the root before what is relative."""
    patterns = list[str]()
    for entry in source.files:
        patterns += _listed(name, entry[1:]) if entry.startswith("@") else [entry]
    absolute = (is_remote(pattern) or pattern.startswith(("/", "~", "file:")) for pattern in patterns)
    return [
        pattern if alone or not source.root else f"{source.root.rstrip('/')}/{pattern}"
        for pattern, alone in zip(patterns, absolute, strict=True)
    ]


def _listed(name: str, url: str) -> Sequence[str]:
    """The lines of a list of files, without blank ones."""
    try:
        with open_raw(url) as raw, decompressed(raw, compression_of(url)) as stream:
            lines = [line.strip() for line in stream.read().decode("utf-8").splitlines()]
    except (FailedWork, Damaged, UnicodeDecodeError) as error:
        raise UserError(f"sources.{name}.files: @{url}: no list of files: {error}") from None
    require(any(lines), f"sources.{name}.files: @{url}: the list is empty")
    return [line for line in lines if line]


def _require_read_options(name: str, source: Source, formats: set[Any]) -> None:
    """Raise UserError where an option would be read for none of the files."""
    require(
        source.document_separator is None or "txt" in formats,
        f"sources.{name}.document_separator: is for txt alone, and no file is one; leave it out",
    )
    require(
        (source.delimiter is None and source.quote is None) or formats & {"csv", "tsv"},
        f"sources.{name}.{'quote' if source.delimiter is None else 'delimiter'}: is for csv and tsv alone, "
        "and no file is one; leave it out",
    )
    require(
        not source.metadata or formats & {*COLUMNS, "warc", "wet"},
        f"sources.{name}.metadata: {' and '.join(sorted(formats))} files have no columns; leave it out",
    )


_ODD_NAME = "the name is no UTF-8 or holds control characters; rename the file"


def is_plain_name(path: str) -> bool:
    """Whether a path can stand in records and lines: valid UTF-8 without control characters."""
    return not re.search("[\x00-\x1f\x7f\ud800-\udfff]", path)


def _is_special(path: str) -> bool:
    """Whether it is a FIFO, a socket or a device."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return False  # whoever looks at it tells
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


@dataclass(frozen=True)
class _Look:
    """One pattern, looked up."""

    pattern: str
    source: Source
    key: str
    left_out: Counter[str] = field(default_factory=Counter)
    """Of the folders that were looked through: how many files and folders were not taken, by why."""

    @property
    def _where(self) -> str:
        return f"{self.key}: {self.pattern}"

    def _at(self, path: str) -> str:
        """Where a file was found, for an error."""
        return self._where if path in (self.pattern, self.pattern.rstrip("/")) else f"{self._where}: {path}"

    def found(self) -> list[InputPart]:
        looked = self._remote() if is_remote(self.pattern) else self._local()
        parts = sorted(looked, key=lambda part: part.url)
        left = told_left_out(self.left_out)
        require(
            parts,
            f"{self._where}: "
            + (
                f"no file of this folder is taken (left out: {left}); name the files, or set `format`"
                if left
                else f"no such file, or a folder without {KNOWN_IN_FOLDERS} "
                "(or of the kind that `format` says)"
            ),
        )
        return parts

    def _wanted(self, path: str) -> bool:
        """Whether a file that was found in a folder is taken; if not it is counted."""
        name = PurePosixPath(path).name
        why = None
        if name.startswith((".", "_")):
            why = "whose names begin with . or _"
        elif not is_plain_name(path):
            why = "with names that are no UTF-8 or hold control characters"
        elif kind_in_folder(path, self.source) is None:
            suffix = PurePosixPath(name).suffix.lower()
            why = f"of unknown kind ({suffix})" if suffix and len(suffix) <= 10 else "of unknown kind"
        if why is not None:
            self.left_out[why] += 1
        return why is None

    def _by_content(self, path: str) -> bool:
        return self.source.format is not None and named_format(path) != self.source.format

    def _local(self) -> Iterator[InputPart]:
        path = os.path.expanduser(local_path(self.pattern))
        for match in [path] if os.path.lexists(path) else glob.iglob(path, recursive=True):
            if not os.path.isdir(match):
                require(is_plain_name(match), f"{self._at(match)!r}: {_ODD_NAME}")
                yield self._local_part(match)
                continue
            for file in self._walk(match):
                if not self._wanted(file):
                    continue
                if _is_special(file):
                    self.left_out["that are no regular files"] += 1
                else:
                    yield replace(self._local_part(file), by_content=self._by_content(file))

    def _walk(self, folder: str) -> Iterator[str]:
        def refuse(error: OSError) -> None:
            raise UserError(f"{self._at(error.filename)}: cannot be listed: {reason(error)}")

        for below, folders, files in os.walk(folder, onerror=refuse):
            hidden = [one for one in folders if one.startswith((".", "_"))]
            links = [one for one in folders if one not in hidden and os.path.islink(os.path.join(below, one))]
            self.left_out["folders whose names begin with . or _"] += len(hidden)
            self.left_out["links to folders"] += len(links)
            folders[:] = [one for one in folders if one not in hidden]
            yield from (os.path.join(below, file) for file in files)

    def _local_part(self, path: str) -> InputPart:
        where = self._at(path)
        try:
            status = os.stat(path)
        except OSError as error:
            raise UserError(f"{where}: cannot be looked at: {reason(error)}") from None
        require(stat.S_ISREG(status.st_mode), f"{where}: no regular file; leave it out")
        may = os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)
        require(may, f"{where}: no right to read it; change its mode or owner")
        return InputPart(os.path.normpath(path), status.st_size, str(status.st_mtime_ns))

    def _remote(self) -> Iterator[InputPart]:
        require("::" not in self.pattern, f"{self._where}: chained URLs are not read; name the file itself")
        fs, path = file_system(self.pattern)
        try:
            for match, info in self._matches(fs, path).items():
                if info["type"] != "directory":
                    yield self._remote_part(fs, match, info)
                    continue
                below = persist(lambda match=match: fs.find(match, detail=True))  # type: ignore[misc]
                for name, entry in below.items():
                    if self._wanted(name):
                        yield replace(self._remote_part(fs, name, entry), by_content=self._by_content(name))
        except FileNotFoundError:
            raise UserError(f"{self._where}: no such file or folder there") from None
        except OSError as error:
            raise UserError(f"{self._where}: cannot be looked at: {reason(error)}") from None

    def _matches(self, fs: Any, path: str) -> Mapping[str, Mapping[str, Any]]:
        http = self.pattern.startswith(("http://", "https://"))
        # In a web address `?` begins the query, which holds anything.
        if set(path.partition("?")[0] if http else path) & set("*[?"):
            return dict(persist(lambda: fs.glob(path, detail=True)))
        if http and path.endswith("/"):
            return {path: {"type": "directory"}}
        return {path: persist(lambda: fs.info(path))}

    def _remote_part(self, fs: Any, path: str, info: Mapping[str, Any]) -> InputPart:
        size = info.get("size")
        if size is None:
            raise UserError(
                f"{self._at(path)}: the server does not tell its size, or sends it with a "
                "Content-Encoding; download it first"
            )
        return InputPart(str(fs.unstrip_protocol(path)), int(size), version_of(info))
