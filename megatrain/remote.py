"""A folder on object storage, read through fsspec: errors of a while are tried again, lasting ones told at
once."""

from __future__ import annotations

import errno
import logging
import os
import random
import re
import time
from collections.abc import Callable
from typing import Any, TypeVar

from megatrain.errors import UserError, install, require

TRIES = 5
FIRST_WAIT_S = 0.5
NO_BUCKET = "No such bucket"
ABSENT, DENIED = (404, 410), (401, 403)
"""Status of an HTTP response."""
# Errors of botocore and google-auth by name, and codes of S3: a mistake in a setting, or in the keys.
PERMANENT = {
    *("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"),
    *("ParamValidationError", "InvalidRegionError", "NoRegionError", "DefaultCredentialsError"),
    *("AuthorizationHeaderMalformed", "InvalidBucketName", "InvalidToken", "KeyTooLongError"),
    *("MethodNotAllowed", "NotImplemented", "PermanentRedirect", "301"),
}
T = TypeVar("T")
logger = logging.getLogger(__name__)


def is_remote(where: str) -> bool:
    """Whether a path is a URL that fsspec reads, not a folder of a file system."""
    return "://" in where and not where.startswith("file://")


class RemoteFolder:
    """A folder that a URL names. What fails is repeated with growing waits.

    What repeating cannot mend (denied, no keys, a bucket that does not exist) is raised at once, as
    PermissionError or FileNotFoundError. Every error is an OSError that names the URL, and none shows
    credentials.
    """

    def __init__(self, url: str) -> None:
        """Raises UserError where the URL names no bucket, or its protocol's package is not installed."""
        protocol = url.partition("://")[0]
        # The URL is printed and stored with the run.
        require(
            not re.search("://[^/]*:[^/]*@", url),
            f"{protocol}://...: credentials do not belong into a URL; put them into the environment",
        )
        try:
            import fsspec

            kind = fsspec.get_filesystem_class(protocol)
        except ValueError:
            raise UserError(
                f"{url}: there is no protocol {protocol}; name a folder, s3://, gs:// or another of fsspec's"
            ) from None
        except ImportError as error:
            raise UserError(f"{url}: {error}; for s3:// and gs://: {install('remote')}") from None
        self._root = str(kind._strip_protocol(url)).rstrip("/")
        require(self._root, f"{url} names no bucket; write {protocol}://bucket/path")
        self._url = url.rstrip("/")
        self._opened: tuple[int, Any] | None = None

    def __str__(self) -> str:
        return self._url

    def exists(self, name: str) -> bool:
        try:
            return bool(self._persist(lambda: self._fs.info(self._at(name))["type"], name) == "file")
        except FileNotFoundError:
            return False

    def read(self, name: str) -> bytes:
        return bytes(self._persist(lambda: self._fs.cat_file(self._at(name)), name))

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return int(self._persist(lambda: self._fs.info(self._at(name))["size"], name))

    def sizes(self, folder: str = "") -> dict[str, int]:
        """Bytes of each file that lies directly in a folder; none where it does not exist."""
        return {name: int(one["size"]) for name, one in self._entries(folder, "file").items()}

    def range(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file."""
        return bytes(self._persist(lambda: self._fs.cat_file(self._at(name), start=start, end=stop), name))

    @property
    def _fs(self) -> Any:
        """The file system, opened anew in a process that was forked: its event loop runs in a thread, which a
        fork leaves behind."""
        if self._opened is None or self._opened[0] != os.getpid():
            import fsspec

            # Listings are not cached: another rank, or another run, may have written in between.
            options: dict[str, Any] = {"use_listings_cache": False}
            amazon = self._url.startswith(("s3://", "s3a://"))
            if amazon:
                # Three layers repeat what fails, botocore, s3fs and this class: 5 * 5 * 5 times by default.
                # The innermost stays, for it repeats one part of a large upload, not the whole.
                asked = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
                retries = {"mode": "standard", "total_max_attempts": 3}
                options["config_kwargs"] = {"retries": retries, **asked}
            fs, _ = fsspec.core.url_to_fs(self._url, **options)
            if amazon:
                fs.retries = 1
            self._opened = os.getpid(), fs
        return self._opened[1]

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _entries(self, folder: str, kind: str) -> dict[str, Any]:
        """What lies directly in a folder, by name, in order."""
        path = f"{self._root}/{folder}".rstrip("/")
        try:
            found = self._persist(lambda: self._fs.ls(path, detail=True, refresh=True), folder)
        except FileNotFoundError as error:
            if error.strerror == NO_BUCKET:
                raise
            return {}
        named = {str(one["name"]).rstrip("/"): one for one in found if one["type"] == kind}
        # Some tools put an empty object named like the folder into it.
        return {
            name.rpartition("/")[2]: one
            for name, one in sorted(named.items())
            if name.strip("/") != path.strip("/")
        }

    def _persist(self, work: Callable[[], T], name: str) -> T:
        """Try again with growing waits: networks and object stores fail for a while. Raises OSError."""
        where = f"{self._url}/{name}".rstrip("/")
        for turn in range(1, TRIES + 1):
            try:
                return work()
            except FileNotFoundError as error:
                failure = behind_absence(error)
                if failure is None:
                    # So say Amazon, Google and MinIO; any other absence is one of an object.
                    what = NO_BUCKET if "bucket does not exist" in str(error) else "No such object"
                    raise FileNotFoundError(errno.ENOENT, what, where) from error
            except Exception as error:  # each store's package raises its own kinds
                failure = error
            reason = _reason(failure)
            if _permanent(failure):
                raise PermissionError(errno.EACCES, reason, where) from failure
            if turn == TRIES:
                raise OSError(errno.EIO, f"{reason} (tried {TRIES} times)", where) from failure
            # Many ranks that failed at once do not come back at once.
            wait_s = FIRST_WAIT_S * 2 ** (turn - 1) * random.uniform(0.75, 1.25)
            logger.warning("%s: %s; again in %.1f s", where, reason, wait_s)
            time.sleep(wait_s)
        raise AssertionError


def behind_absence(error: FileNotFoundError) -> Exception | None:
    """Return what really failed where a package says of every failure that the file is absent, as fsspec does
    over HTTP for a refused connection or a server's error; None where the file is absent."""
    cause: BaseException | None = error.__cause__
    while cause is not None:
        status = getattr(cause, "status", None)
        ours = isinstance(cause, OSError) or type(cause).__module__.partition(".")[0] == "aiohttp"
        if ours and not isinstance(cause, FileNotFoundError) and status not in ABSENT:
            assert isinstance(cause, Exception)
            return cause
        cause = cause.__cause__
    return None


def is_unconnected(error: Exception) -> bool:
    """Return whether there was no connection to the server at all."""
    unreachable = (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ETIMEDOUT)
    return getattr(error, "errno", None) in unreachable or type(error).__name__.startswith("ClientConnector")


def _permanent(error: Exception) -> bool:
    """Whether trying again is useless."""
    response = getattr(error.__cause__ or error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    denied = isinstance(error, PermissionError) or getattr(error, "status", None) in DENIED
    return denied or type(error).__name__ in PERMANENT or code in PERMANENT


def _reason(error: Exception) -> str:
    """One line, without what may be secret in an endpoint's URL."""
    text = " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
    text = f"cannot connect: {text}" if is_unconnected(error) else text
    return re.sub(r"(://[^\s?\"']*)\?[^\s\"']*", r"\1", re.sub(r"://[^/\s]*@", "://", text))
