"""An S3 server (moto) on loopback that checks credentials, records requests, and fails when it is told to."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

BUCKET = "ads-bucket"
REGION = "us-east-1"
_ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>Told to fail</Message></Error>"
_CODES = {"403": "AccessDenied", "503": "SlowDown"}

_METHODS = ("GET", "HEAD", "PUT", "POST", "DELETE")
_STATUS = "500 Internal Server Error"

Start = Callable[..., Any]


@dataclass
class Request:
    """What a client asked for."""

    method: str
    path: str
    bytes: int | None
    """Length of the range; None for all."""
    copies: bool = False
    """Whether the store is to copy another object."""

    @property
    def uploads(self) -> bool:
        """Return whether content comes with the request, or is announced by it."""
        return self.method in ("PUT", "POST") and not self.copies


@dataclass
class ObjectStore:
    """A running server.

    Attributes:
        url: its endpoint.
        key: access key that may do everything.
        secret: its secret.
        requests: what was asked for, in order.
        failures: path endings and how many more requests for each fail.
        failing: methods of the requests that fail.
        status: what they get; empty cuts the connection.
        before: called with each request before it is answered.
    """

    url: str = ""
    key: str = ""
    secret: str = ""
    requests: list[Request] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    failing: tuple[str, ...] = _METHODS
    status: str = _STATUS
    before: Callable[[Request], None] = lambda _: None
    _server: BaseWSGIServer | None = None

    def start(self) -> None:
        """Listen, at the address of an earlier start if there was one."""
        app = DomainDispatcherApplication(create_backend_app)
        port = int(self.url.rpartition(":")[2] or 0)
        self._server = make_server(
            "127.0.0.1", port, lambda e, s: self(e, s, app), threaded=True, request_handler=_Silent
        )
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.port}"

    def stop(self) -> None:
        """Be unreachable; what was stored stays."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def use(self, patch: pytest.MonkeyPatch, **changes: str) -> None:
        """Set the AWS_* variables for this server; `changes` come last."""
        values = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        for name, value in (values | changes).items():
            patch.setenv(name, value)
        patch.delenv("AWS_SESSION_TOKEN", raising=False)

    def renew(self, patch: pytest.MonkeyPatch) -> None:
        """Begin anew for one test: variables set, an empty bucket, nothing to fail, nothing asked for."""
        self.use(patch)
        patch.setattr("trainer.storage._FIRST_WAIT_SECONDS", 0.01)
        self.heal()
        client = self.client()
        for item in client.list_objects_v2(Bucket=BUCKET).get("Contents", []):
            client.delete_object(Bucket=BUCKET, Key=item["Key"])
        self.requests.clear()

    def heal(self) -> None:
        """Let no further request fail or wait."""
        self.failures.clear()
        self.failing, self.status = _METHODS, _STATUS
        self.before = lambda _: None

    def client(self, service: str = "s3") -> Any:
        """Return a boto3 client."""
        return boto3.client(
            service,
            endpoint_url=self.url,
            region_name=REGION,
            aws_access_key_id=self.key or "first",
            aws_secret_access_key=self.secret or "first",
        )

    def upload(self, folder: Path, prefix: str) -> str:
        """Upload a folder; return its URL."""
        client = self.client()
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                client.put_object(
                    Bucket=BUCKET,
                    Key=f"{prefix}/{path.relative_to(folder).as_posix()}",
                    Body=path.read_bytes(),
                )
        return f"s3://{BUCKET}/{prefix}"

    def files(self, prefix: str = "") -> dict[str, int]:
        """Return the bytes of the objects below a prefix, by key."""
        found = self.client().list_objects_v2(Bucket=BUCKET, Prefix=prefix).get("Contents", [])
        return {item["Key"]: item["Size"] for item in found if not item["Key"].endswith("/")}

    def fetched(self, ending: str) -> list[int | None]:
        """Return the lengths of the ranges that were got of a file."""
        return [r.bytes for r in self.requests if r.method == "GET" and r.path.endswith(ending)]

    def __call__(
        self, environ: dict[str, Any], start: Start, app: Callable[..., Iterable[bytes]]
    ) -> Iterable[bytes]:
        """Answer one request."""
        path = environ["PATH_INFO"]
        first, _, last = environ.get("HTTP_RANGE", "").removeprefix("bytes=").partition("-")
        size = int(last) - int(first) + 1 if first and last else None
        request = Request(environ["REQUEST_METHOD"], path, size, "HTTP_X_AMZ_COPY_SOURCE" in environ)
        self.requests.append(request)
        self.before(request)
        for ending, left in self.failures.items():
            if path.endswith(ending) and left > 0 and request.method in self.failing:
                self.failures[ending] = left - 1
                return self._fail(environ, start)
        return app(environ, start)

    def _fail(self, environ: dict[str, Any], start: Start) -> list[bytes]:
        if not self.status:
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            start(_STATUS, [])
            return []
        start(self.status, [("Content-Type", "application/xml")])
        return [_ERROR.format(_CODES.get(self.status[:3], "InternalError")).encode()]


class _Silent(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        pass


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """Start a server with an empty bucket, and stop it."""
    store = ObjectStore()
    store.start()
    try:
        _allow_one_user(store)
        store.client().create_bucket(Bucket=BUCKET)
        yield store
    finally:
        store.stop()


def _allow_one_user(store: ObjectStore) -> None:
    # moto keeps contents and whether it checks keys in the process, where an earlier server left them.
    _ask(store, "reset-auth", b"inf")
    _ask(store, "reset", b"")
    iam = store.client("iam")
    iam.create_user(UserName="trainer")
    rule = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [rule]})
    iam.put_user_policy(UserName="trainer", PolicyName="all", PolicyDocument=policy)
    made = iam.create_access_key(UserName="trainer")["AccessKey"]
    store.key, store.secret = made["AccessKeyId"], made["SecretAccessKey"]
    # From now on moto checks keys and signatures.
    _ask(store, "reset-auth", b"0")


def _ask(store: ObjectStore, what: str, content: bytes) -> None:
    header = {"Content-Type": "text/plain"}
    urllib.request.urlopen(urllib.request.Request(f"{store.url}/moto-api/{what}", content, header)).close()
