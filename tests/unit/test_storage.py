"""What URIs stand for, and what is said of storage that cannot be used."""

import socket
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.fs import FileType

from gam_kg import storage
from gam_kg.config import Config, load_config
from gam_kg.errors import ConfigError, DataError, StorageError
from gam_kg.ingest.input_files import find_files
from gam_kg.remote_run import RemoteRun
from gam_kg.storage import local_folder, meaning, open_uri, reaching

HANGS = 120  # far more than the tries and waits that are set below


def write_facts(uri):
    filesystem, path = open_uri(uri)
    with filesystem.open_output_stream(path) as file:
        pq.write_table(pa.table({"subject": ["a"]}), file)


def refused(call, *arguments):
    started = time.monotonic()
    with pytest.raises((DataError, StorageError)) as error:
        call(*arguments)
    assert time.monotonic() - started < HANGS
    return str(error.value)


def test_files_of_a_bucket_are_found_as_those_of_a_folder_are(bucket):
    for name in ("x/a.parquet", "x/deep/b.parquet", "y/c.parquet"):
        write_facts(f"s3://{bucket}/{name}")
    for place, names in {"x": ["x/a", "x/deep/b"], "*/*.parquet": ["x/a", "y/c"], "y/c.parquet": ["y/c"]}.items():
        _, files, _ = find_files(f"s3://{bucket}/{place}", "data.facts")
        assert [file.name for file in files] == [f"s3://{bucket}/{name}.parquet" for name in names]


def test_a_bucket_that_is_not_there_is_named(bucket):
    for message in (
        refused(find_files, "s3://no-such-bucket/facts", "data.facts"),
        refused(RemoteRun("s3://no-such-bucket/run").fetch),
    ):
        assert "there is no bucket no-such-bucket; correct the URI, or create the bucket" in message
    assert "no Parquet" in refused(find_files, f"s3://{bucket}/facts", "data.facts")


def test_refused_credentials_are_told_apart_from_what_is_missing(bucket, object_store):
    with object_store.refusing():
        for message in (
            refused(find_files, f"s3://{bucket}/facts", "predict.queries"),
            refused(RemoteRun(f"s3://{bucket}/run").fetch),
        ):
            assert "the credentials are refused" in message
            assert "AWS_ACCESS_KEY_ID" in message
    RemoteRun(f"s3://{bucket}/run").fetch()


def test_storage_that_does_not_answer_is_given_up(bucket, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        assert "does not answer" in refused(RemoteRun(f"s3://{bucket}/run").fetch)
    monkeypatch.setattr(storage, "_ANSWER_SECONDS", 1.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "does not answer" in refused(find_files, f"s3://{bucket}/facts", "data.facts")


def test_the_endpoint_may_be_in_the_uri(bucket, object_store, monkeypatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    address = object_store.address.removeprefix("http://")
    filesystem, path = open_uri(f"s3://{bucket}/a%20b?endpoint_override={address}&scheme=http&region=eu-west-1")
    assert path == f"{bucket}/a b"
    assert filesystem.region == "eu-west-1"
    assert filesystem.get_file_info(bucket).type == FileType.Directory
    with pytest.raises(ValueError, match="unknown option acl; allowed are region, scheme"):
        open_uri(f"s3://{bucket}/x?acl=public")
    with pytest.raises(ValueError, match="names no bucket"):
        open_uri("s3://")


def test_other_schemes_are_those_of_fsspec():
    with fsspec.open("memory://facts/a.parquet", "wb") as file:
        pq.write_table(pa.table({"subject": ["a"]}), file)
    filesystem, (file,), _ = find_files("memory://facts", "data.facts")
    assert pq.read_table(file.path, filesystem=filesystem).to_pydict() == {"subject": ["a"]}
    assert "Protocol not known: nope" in refused(RemoteRun, "nope://x/y")


@pytest.mark.parametrize("key", ["run_dir", "data.facts", "predict.queries"])
def test_credentials_in_a_uri_are_refused(key):
    with pytest.raises(ConfigError, match="credentials"):
        load_config(None, [f"{key}=s3://name:secret@bucket/x"])
    load_config(None, [f"{key}=abfs://container@account.dfs.core.windows.net/x"])


def test_a_run_at_a_uri_has_a_working_copy_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path))
    first, slash, other = (Config(run_dir=uri).run_path for uri in ("s3://b/x/run", "s3://b/x/run/", "s3://b/y/run"))
    assert first == slash != other
    assert first.parent == other.parent == tmp_path
    assert first.name.startswith("run-")
    assert Config(run_dir=f"file://{tmp_path}/a%20b").run_path == tmp_path / "a b"
    monkeypatch.delenv("GAM_KG_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert local_folder("gs://b/run", "run_dir").parent == tmp_path / ".cache" / "gam-kg"


def test_errors_say_what_to_do():
    assert meaning(OSError("AWS Error NO_SUCH_BUCKET during PutObject")).startswith("there is no such bucket")
    assert meaning(OSError("in bucket 'x': AWS Error ACCESS_DENIED")).startswith("the credentials are refused")
    assert meaning(OSError("google::cloud::Status(UNAVAILABLE: retry")).startswith("the storage does not answer")
    assert meaning(OSError("odd\nmore")) == "cannot be used (odd)"
    with pytest.raises(FileNotFoundError), reaching("s3://b/x"):
        raise FileNotFoundError
