"""Fetches a published file over HTTP, checked, going on where an earlier start stopped.

Layer 1, of the standard library alone, and the only module that opens a connection. Addresses and
checksums are given to it; which data sets there are is `published`'s business.

How a fetch ends when it fails:
  75  what may pass by itself: no network, a name that is not found, a timeout, a connection that is
      refused or cut, a server that is broken or busy (5xx, 408, 429). What came is kept and the
      same command goes on from there, which is what 75 promises; it is tried a few times before.
  2   what will not pass: an address that is none, that has nothing (404) or gives nothing (403),
      a certificate that is not trusted, another file than the published one.
  5   the disk: full, read-only, not to be written.
"""

import contextlib
import dataclasses
import fcntl
import hashlib
import http.client
import os
import pathlib
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable

from darts_dist.errors import DataError, InputError, Interrupted, StorageError

AGENT = "darts-dist"  # the host of WikiText-2 refuses (403) the name that urllib has by default
TRIES = 4
TIMEOUT_S = 30.0
LONGEST_PAUSE_S = 30.0
BLOCK = 2**18  # bytes read at a time
PROGRESS = 2**20  # bytes after which a try was worth it and the count of tries starts again
LIMIT = 2**30  # bytes that are taken when the size is not known
PASSING = {408, 425, 429}  # answers that may be others a little later, beside 5xx


@dataclasses.dataclass(frozen=True)
class Remote:
    """A published file: name on disk, address, SHA-256 in hex, bytes (0: not known)."""

    name: str
    url: str
    sha256: str
    size: int = 0


class _Cut(Exception):
    """The network failed in a way that may pass; no OSError, which here means the disk."""


def fetch(
    remote: Remote,
    folder: str | os.PathLike,
    *,
    force: bool = False,
    tries: int = TRIES,
    timeout_s: float = TIMEOUT_S,
    pause_s: float = 1.0,
    say: Callable[[str], None] = print,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> pathlib.Path:
    """Returns the path of the whole, verified file in `folder`, which is made if need be.

    A file that is there and verified is taken as it is. What has come lies in NAME.part until it is
    whole and verified.  force: forget both.  tries: in a row, without progress; pause_s: after the
    first, doubled each time.  say: gets lines for people.  report: gets bytes done and in all (0:
    not known).  Raises InputError, DataError, Interrupted, StorageError.
    """
    folder = pathlib.Path(folder)
    _check_address(remote.url)
    target, part = folder / remote.name, folder / f"{remote.name}.part"
    with _storage(part):
        if folder.exists() and not folder.is_dir():
            raise InputError(f"{folder} is a file; wanted a folder to put {remote.name} in")
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and not force:
            _check_present(target, remote)
            say(f"{target} is there and whole; nothing to fetch")
            return target
        with _explained(remote, target, part), open(part, "ab", buffering=0) as file:
            _lock(file, part)
            if force:
                _empty(file)
            if file.tell():
                say(f"{part} has {_size(file.tell())}; going on from there")
            try:
                _fill(file, remote, tries, timeout_s, pause_s, say, report)
            finally:
                if not file.tell():
                    part.unlink(missing_ok=True)
            os.fsync(file.fileno())
            _verify(part, remote)
            os.replace(part, target)
    return target


def digest_of(path: pathlib.Path) -> str:
    """Returns the SHA-256 of a file in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_address(url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not re.fullmatch("[!-~]+", url):
        raise InputError(f"{url!r} is no address; wanted http://... or https://..., percent-coded")


def _check_present(target: pathlib.Path, remote: Remote) -> None:
    size = target.stat().st_size
    if (remote.size and size != remote.size) or digest_of(target) != remote.sha256:
        raise DataError(
            f"{target} is there, {size} bytes, and is not the published file (SHA-256 "
            f"{remote.sha256}); move it away, or --force replaces it"
        )


def _lock(file, part: pathlib.Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise InputError(
            f"another process is fetching into {part}; wait for it, or choose another folder"
        ) from None
    except OSError:  # a file system without locks: the checksum still tells
        return


def _fill(file, remote, tries, timeout_s, pause_s, say, report) -> None:
    """Makes the file whole, in as many requests as it takes; _Cut after `tries` in vain."""
    failed = 0
    while True:
        before = file.tell()
        try:
            _receive(file, remote, timeout_s, say, report)
            return
        except _Cut as cut:
            failed = 1 if file.tell() - before >= PROGRESS else failed + 1
            if failed >= tries:
                raise
            pause = min(pause_s * 2 ** (failed - 1), LONGEST_PAUSE_S)
            say(f"{cut}; trying again in {pause:g} s")
        time.sleep(pause)


def _receive(file, remote: Remote, timeout_s: float, say, report) -> None:
    """Adds to the file what one request gives, from where the file ends."""
    done = file.tell()
    if remote.size and done == remote.size:
        return
    with _ask(remote.url, done, timeout_s) as response:
        start, total = _extent(response, done)
        if response.status == 416:
            if total == done:
                return
            say(f"{remote.url} has no byte {done}; beginning anew")
            _empty(file)
            _receive(file, remote, timeout_s, say, report)
            return
        if remote.size and total and total != remote.size:
            raise DataError(
                f"{remote.url} has {total} bytes, wanted {remote.size}: not the published file"
            )
        if start != done:
            say(f"{remote.url} does not go on at byte {done}; beginning anew")
            _empty(file)
            if start:
                raise _Cut(f"{remote.url} sent another part than was asked for")
            done = 0
        total = total or remote.size
        report(done, total)
        while block := _read(response, remote.url):
            done += len(block)
            if done > (total or LIMIT):
                _empty(file)
                raise DataError(f"{remote.url} sends more than {total or LIMIT} bytes")
            while block:
                block = block[file.write(block) :]
            report(done, total)
    if done < total:
        raise _Cut(f"{remote.url}: the connection was cut after {_size(done)}")


def _ask(url: str, start: int, timeout_s: float) -> http.client.HTTPResponse:
    """Returns the answer to one request: 200, 206 or 416, whose body is still to be read."""
    headers = {"User-Agent": AGENT, "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    try:
        response = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout_s
        )
    except urllib.error.HTTPError as error:
        if error.code == 416 and start:
            return error  # pyright: ignore[reportReturnType]
        error.close()
        told = f"{url} answers {error.code} {' '.join(str(error.reason).split())}"
        if error.code in PASSING or error.code >= 500:
            raise _Cut(told) from None
        raise DataError(told) from None
    except (http.client.InvalidURL, ValueError) as error:
        raise InputError(f"{url!r} is no address: {error}") from None
    except (OSError, http.client.HTTPException) as error:
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = f"{reason.verify_message}; check this machine's clock and certificates"
            raise DataError(f"{url}: the certificate is not trusted here: {why}") from None
        raise _Cut(f"{url} cannot be reached: {_reason(reason)}") from None
    if response.status not in (200, 206):
        response.close()
        raise DataError(f"{url} answers {response.status}; wanted 200")
    return response


def _extent(response, asked: int) -> tuple[int, int]:
    """Returns where the body of an answer starts in the file, and the bytes of the file or 0."""
    if response.status == 200:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isdecimal() else 0
    given = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", given.strip())
    if not match:
        return asked, 0
    start, total = match.groups()
    return int(start or asked), 0 if total == "*" else int(total)


def _read(response, url: str) -> bytes:
    try:
        return response.read(BLOCK)
    except (OSError, http.client.HTTPException) as error:
        raise _Cut(f"{url}: the connection was cut: {_reason(error)}") from None


def _empty(file) -> None:
    file.seek(0)
    file.truncate()


def _verify(part: pathlib.Path, remote: Remote) -> None:
    found = digest_of(part)
    if found != remote.sha256:
        aside = part.with_suffix(".bad")
        os.replace(part, aside)
        raise DataError(
            f"what came from {remote.url} is not the published file: SHA-256 {found}, wanted "
            f"{remote.sha256}; it is kept as {aside}; start again, in case it changed meanwhile"
        )


def _kept(part: pathlib.Path) -> str:
    size = part.stat().st_size if part.exists() else 0
    return f"{_size(size)} are kept in {part}" if size else "nothing came"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB"


def _reason(error) -> str:
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())


@contextlib.contextmanager
def _explained(remote: Remote, target: pathlib.Path, part: pathlib.Path):
    """Adds to what ends a fetch what is kept and what to do."""
    by_hand = f"or fetch {remote.name} in a browser and put it at {target}"
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted; {_kept(part)}; start again to go on") from None
    except _Cut as cut:
        raise Interrupted(f"{cut}; {_kept(part)}; start again later to go on, {by_hand}") from None
    except DataError as error:
        raise DataError(f"{error}; give another address with --url, {by_hand}") from None


@contextlib.contextmanager
def _storage(path: pathlib.Path):
    """Turns an OSError inside into a StorageError; nothing inside lets one of the network out."""
    try:
        yield
    except OSError as error:
        where, reason = error.filename or path, error.strerror or str(error)
        raise StorageError(
            f"{where} cannot be written or read: {reason}; what came is kept; make room, or choose "
            f"another folder, and start again"
        ) from None
