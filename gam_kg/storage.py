"""Storage that a URI names, as s3://bucket/folder: how it is reached, how long it is waited for, and what errors mean.

Credentials come from the environment, or from what the provider's own tools have stored on the machine.
"""

import hashlib
import os
import re
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import pyarrow as pa
from pyarrow.fs import AwsStandardS3RetryStrategy, FileSystem, FileType, S3FileSystem, resolve_s3_region

from gam_kg.errors import StorageError
from gam_kg.text import is_uri, user_path

CACHE = "GAM_KG_CACHE"
"""Environment variable: the folder of the working copies of runs at URIs."""

BUCKETS = ("s3", "gcs", "abfs")
"""Types of the filesystems whose first name is a bucket, or container, and which have no folders of their own."""

_ATTEMPTS = 3
_CONNECT_SECONDS = 10.0
_ANSWER_SECONDS = 30.0
_RETRY_LIMIT = timedelta(seconds=60)
_S3_OPTIONS = ("region", "scheme", "endpoint_override", "anonymous")
_MEANINGS = {
    "there is no such bucket; correct the URI, or create the bucket": r"NO_?SUCH_?BUCKET|bucket '[^']*' not "
    r"found|ContainerNotFound",
    "the credentials are refused, or there are none; they come from the environment, as AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, and must allow to list, read, write and delete there": r"ACCESS_?DENIED|SIGNATURE_DOES|"
    r"INVALID_ACCESS_KEY|EXPIRED_?TOKEN|INVALID_?TOKEN|MISSING_AUTH|PERMISSION.DENIED|UNAUTHENTICATED|"
    r"AUTHENTICATION_?FAILED|AUTHORIZATION_?FAIL|credential|HTTP status 40[13]",
    "the storage does not answer; check the network, and AWS_ENDPOINT_URL where it is not Amazon's": r"curlCode|"
    r"NETWORK_CONNECTION|resolve|UNAVAILABLE|could not connect|connection refused|timed? ?out",
}
"""What to do, for the words that are found in an error."""


def is_remote(place: str | None) -> bool:
    """Whether it is a URI of other storage than this machine's files, which file:// names too."""
    return place is not None and is_uri(place) and not place.lower().startswith("file:")


def local_folder(place: str, key: str) -> Path:
    """Absolute folder on this machine: of a path or a file:// URI itself, of another URI its working copy.

    Args:
        place: What the user gives.
        key: The configuration key or argument that gives it, for messages.

    Raises:
        ConfigError: It is no path, or ~ names no known home.
    """
    if is_remote(place):
        name, identity = place.rstrip("/").rpartition("/")[2].partition("?")[0], place.rstrip("/")
        cache = os.environ.get(CACHE) or "~/.cache/gam-kg"
        return user_path(cache, CACHE).absolute() / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:16]}"
    return user_path(unquote(urlsplit(place).path) if is_uri(place) else place, key).absolute()


def open_uri(uri: str) -> tuple[FileSystem, str]:
    """What the files at a URI are read from and written to, and their place in it; nothing is looked up.

    Waiting is bounded: each request is tried a few times, and given up where there is no answer.

    Raises:
        OSError: The region of a bucket cannot be found out.
        ValueError: There is no such scheme or option, or the URI has credentials in it.
        pyarrow.ArrowException: The same.
    """
    # What follows a ? are options of the filesystem.
    place, _, options = uri.partition("?")
    given, scheme = dict(parse_qsl(options)), place.partition(":")[0].lower()
    if scheme == "s3":
        return _open_s3(unquote(place.partition("://")[2]), given)
    if scheme in ("gs", "gcs"):
        given.setdefault("retry_limit_seconds", str(int(_RETRY_LIMIT.total_seconds())))
    query = "&".join(f"{name}={quote(value)}" for name, value in given.items())
    try:
        return FileSystem.from_uri(_escaped(place) + (f"?{query}" if query else ""))
    except pa.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise
    from fsspec.core import url_to_fs  # only where Arrow has no filesystem of its own
    from pyarrow.fs import FSSpecHandler, PyFileSystem

    filesystem, path = url_to_fs(uri)
    return PyFileSystem(FSSpecHandler(filesystem)), path


@contextmanager
def reaching(uri: str) -> Generator[None]:
    """Report that storage cannot be used, while the block uses it. That a file is missing is raised as it is.

    Raises:
        StorageError: It is not there, does not answer or refuses.
    """
    try:
        yield
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise StorageError(f"{uri}: {meaning(error)}") from None


def meaning(error: Exception) -> str:
    """What an error of storage comes from and what to do, with the storage's own words."""
    text = str(error).strip().partition("\n")[0]
    for advice, words in _MEANINGS.items():
        if re.search(words, text, re.IGNORECASE):
            return f"{advice} ({text})"
    return f"cannot be used ({text or type(error).__name__})"


def require_bucket(filesystem: FileSystem, path: str, uri: str) -> None:
    """Refuse a bucket that is not there; what is missing in one is not told apart from what is missing with it.

    Raises:
        StorageError: There is none, or it cannot be looked up.
    """
    bucket = path.partition("/")[0]
    with reaching(uri):
        if filesystem.type_name in BUCKETS and filesystem.get_file_info(bucket).type == FileType.NotFound:
            raise StorageError(f"{uri}: there is no bucket {bucket}; correct the URI, or create the bucket")


def write_object(filesystem: FileSystem, path: str, contents: bytes, uri: str) -> None:
    """Write a small file, as a whole where the storage has buckets.

    Raises:
        StorageError: It cannot be written.
    """
    with reaching(uri):
        make_parent(filesystem, path)
        with filesystem.open_output_stream(path) as file:
            file.write(contents)


def make_parent(filesystem: FileSystem, path: str) -> None:
    """Make the folder that a file is in, where there are folders apart from the files in them."""
    if filesystem.type_name not in BUCKETS:
        filesystem.create_dir(path.rpartition("/")[0], recursive=True)


def _open_s3(path: str, options: dict[str, str]) -> tuple[S3FileSystem, str]:
    if unknown := sorted(options.keys() - set(_S3_OPTIONS)):
        raise ValueError(f"unknown option {unknown[0]}; allowed are {', '.join(_S3_OPTIONS)}")
    if not path.partition("/")[0]:
        raise ValueError("it names no bucket; give s3://BUCKET/FOLDER")
    environment = os.environ.get
    endpoint = options.get("endpoint_override") or environment("AWS_ENDPOINT_URL_S3") or environment("AWS_ENDPOINT_URL")
    region = options.get("region") or environment("AWS_REGION") or environment("AWS_DEFAULT_REGION")
    if region is None:  # other storage than Amazon's takes any
        region = "us-east-1" if endpoint else resolve_s3_region(path.partition("/")[0])
    return S3FileSystem(
        anonymous=options.get("anonymous", "").lower() == "true",
        region=region,
        endpoint_override=endpoint,
        scheme=options.get("scheme"),
        connect_timeout=_CONNECT_SECONDS,
        request_timeout=_ANSWER_SECONDS,
        retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
    ), path.rstrip("/")


def _escaped(uri: str) -> str:
    return quote(uri, safe="%/:@!$&'()*+,;=~")
