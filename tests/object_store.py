"""An S3-compatible server on loopback, and the environment in which it is used."""

import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from uuid import uuid4

import boto3
import pytest

_SECONDS_TO_START = 120
KEY = "secret-of-the-test"


class ObjectStore:
    """A running server; `uri` names a folder in a bucket of its own."""

    def __init__(self, address):
        self.address = address
        credentials = {"aws_access_key_id": KEY, "aws_secret_access_key": KEY, "region_name": "us-east-1"}
        self._client = boto3.client("s3", endpoint_url=address, **credentials)

    def new_bucket(self):
        name = f"bucket-{uuid4().hex}"
        self._client.create_bucket(Bucket=name)
        return name

    def names(self, bucket):
        """The objects in a bucket, without the empty ones that stand for folders."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
        return {one["Key"] for page in pages for one in page.get("Contents", ()) if not one["Key"].endswith("/")}

    def read(self, bucket, name):
        return self._client.get_object(Bucket=bucket, Key=name)["Body"].read()

    def write(self, bucket, name, content):
        self._client.put_object(Bucket=bucket, Key=name, Body=content)

    def remove(self, bucket, name):
        self._client.delete_object(Bucket=bucket, Key=name)

    @contextmanager
    def refusing(self):
        """While the block runs, the server knows no credentials."""
        self._control("reset-auth", b"0")
        try:
            yield
        finally:
            self._control("reset-auth", b"inf")

    def _control(self, name, content):
        request = urllib.request.Request(
            f"{self.address}/moto-api/{name}", data=content, headers={"Content-Type": "text/plain"}, method="POST"
        )
        urllib.request.urlopen(request, timeout=30).close()


@contextmanager
def running_store():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + _SECONDS_TO_START
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, "the server has ended"
                assert time.monotonic() < end, "the server has not started"
                time.sleep(0.1)
        yield ObjectStore(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(timeout=30)


@pytest.fixture(scope="session")
def object_store():
    with running_store() as store:
        yield store


@pytest.fixture
def bucket(object_store, monkeypatch, tmp_path):
    """A new bucket, which the environment of the test leads to, and a folder of its own for working copies."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, KEY)
    monkeypatch.setenv("AWS_ENDPOINT_URL", object_store.address)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GAM_KG_CACHE", str(tmp_path / "cache"))
    return object_store.new_bucket()
