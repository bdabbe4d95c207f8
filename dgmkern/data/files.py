"""Files of data sets, checksummed: in the folder of DGMKERN_DATA, or downloaded once into the user's cache."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from .errors import DataError


def local_file(name: str, file: str, sha256: str) -> Path | None:
    """Path of one checked file in $DGMKERN_DATA/<name>/; None if it is not there."""
    folder = os.environ.get("DGMKERN_DATA")
    if not folder or not (path := Path(folder, name, file)).exists():
        return None
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    if found != sha256:
        raise DataError(f"{path}: wrong checksum, the file is corrupt: sha256 {found}, want {sha256}")
    return path


def fetch(name: str, file: str, sha256: str, mirrors: Sequence[str]) -> Path:
    """Path of one checked file: that of `local_file`, else downloaded from the first of `mirrors` that has it."""
    return local_file(name, file, sha256) or _download(name, file, sha256, mirrors)


def _download(name: str, file: str, sha256: str, mirrors: Sequence[str]) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the CLI prints its own lines
    tried = []
    for mirror in mirrors:
        url = mirror + file
        try:
            # pooch downloads beside, checks the hash, then renames: nothing half-written is ever found here.
            path = pooch.retrieve(
                url,
                known_hash="sha256:" + sha256,
                fname=file,
                path=Path(pooch.os_cache("dgmkern"), name),
                downloader=pooch.HTTPDownloader(timeout=30),
            )
            return Path(path)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors; a wrong hash is a ValueError
            tried.append(f"{url} ({_reason(error)})")
    folder = os.environ.get("DGMKERN_DATA")
    where = f"is not in DGMKERN_DATA={folder}" if folder else "is not here (DGMKERN_DATA is not set)"
    raise DataError(
        f"{name}/{file} {where} and could not be downloaded from {' or '.join(tried)}; "
        f"set DGMKERN_DATA to a folder that holds {name}/{file}"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ValueError) and "hash" in str(error):
        return "wrong checksum"
    return type(error).__name__
