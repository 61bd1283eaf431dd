"""A cache and an S3 server of our own, usual signals, properties without a deadline."""

import logging
import secrets
import signal
import urllib.request

import pytest
from hypothesis import settings

BUCKET = "bucket"

# How long an example takes says how busy the machine is.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    """Keep the digests of tests' files out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def interruptible():
    """Let an interrupt have its usual effect, here and in what the tests start.

    A shell has what it runs in the background ignore it, and children inherit that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def s3_url():
    """Return the endpoint of an S3 server of our own, with one empty bucket."""
    # It takes a second, which only the tests of S3 should pay.
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    make = urllib.request.Request(f"{url}/{BUCKET}", method="PUT")
    urllib.request.urlopen(make).close()
    yield url
    server.stop()


@pytest.fixture
def s3(s3_url, monkeypatch):
    """Set the environment for that server, and return the URL of a new prefix."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_url)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "never-shown")
    return f"s3://{BUCKET}/{secrets.token_hex(4)}"


@pytest.fixture
def s3_strict(s3_url):
    """Let that server refuse whoever it does not know, which is everybody."""

    def refuse_after(requests):
        request = urllib.request.Request(
            f"{s3_url}/moto-api/reset-auth",
            data=str(requests).encode(),
            headers={"Content-Type": "text/plain"},
        )
        urllib.request.urlopen(request).close()

    refuse_after(0)
    yield
    refuse_after("inf")
