"""A Store in a bucket of S3 or of a compatible server. Credentials come only from boto3's standard
chain."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from botocore.exceptions import ClientError

from orchestrator.errors import StoreError, StoreRefusedError
from orchestrator.s3.bucket import Bucket
from orchestrator.s3.failures import MISSING, Failure, code_of
from orchestrator.store.protocol import Entry, Limits

THREADS = 16
"""Threads per transfer."""
CONFLICT_TRIES = 5
"""Attempts at a create that conflicts with another one. S3 asks the client to try again."""
CONFLICT_WAIT_S = 0.2

CONDITIONS_UNKNOWN = frozenset({"NotImplemented", "501", "MethodNotAllowed", "405"})
"""Codes of a server that does not support conditional puts."""
LEAST_LEFT_MIN = 10
"""Minutes that credentials must still be valid when a run begins."""

_NO_CONDITIONS = (
    "the server does not support conditional puts (If-None-Match), so only one run at a time may "
    "use this store: two runs could not agree who works on a stage"
)
_RENEWED = "use a profile or a role, whose credentials are renewed automatically"


class S3Store(Bucket):
    """A store in S3. Objects are written as a whole, create-only writes by a conditional put.

    If the server does not support conditional puts, the store is safe for only one run at a time,
    and `probe` returns a warning.
    """

    no_bucket = "create the bucket, or choose another one with `store:` in the job or --store"

    def __init__(self, uri: str) -> None:
        super().__init__(uri, num_threads=THREADS, max_connections=THREADS)

    def as_error(self, failure: Failure, verb: str, name: str) -> StoreError:
        kind = StoreRefusedError if failure.is_lasting else StoreError
        return kind(
            f"store {self.uri}: cannot {'read' if verb == 'list' else verb} {name}: {failure}"
        )

    def create(self, name: str, content: bytes) -> bool:
        is_created = self._put_if_absent(name, content)
        # The server supports no conditions: this is safe for one writer at a time, see `probe`.
        if is_created is None:
            is_created = self.read(name) is None
            if is_created:
                self.write(name, content)
        return is_created

    def _put_if_absent(self, name: str, content: bytes) -> bool | None:
        """Write `content` if `name` does not exist. Returns whether it did, or None if the server
        does not support conditions."""
        with self.errors("write", name):
            for _ in range(CONFLICT_TRIES):
                try:
                    self.connection.put_object(**self.request(name), Body=content, IfNoneMatch="*")
                except ClientError as err:
                    if code_of(err) == "PreconditionFailed":
                        return False
                    if code_of(err) in CONDITIONS_UNKNOWN:
                        return None
                    if code_of(err) != "ConditionalRequestConflict":
                        raise
                    time.sleep(CONFLICT_WAIT_S)
                else:
                    return True
        raise StoreError(
            f"store {self.uri}: cannot write {name}: another process kept writing it; run again"
        )

    def download(self, name: str, path: Path) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        with self.errors("read", name):
            try:
                self.connection.download_file(
                    **self.request(name), Filename=str(path), Config=self.transfers
                )
            except ClientError as err:
                if code_of(err) in MISSING:
                    return False
                raise
            return True

    def names(self, prefix: str) -> list[str]:
        return sorted(one.name for one in self.objects(f"{prefix}/", deep=True))

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self.errors("list", prefix):
            for page in self.pages(f"{prefix}/", deep=True):
                now = parsedate_to_datetime(page["ResponseMetadata"]["HTTPHeaders"]["date"])
                for found in page.get("Contents", ()):
                    age_s = (now - found["LastModified"]).total_seconds()
                    yield Entry(self.name_of(found["Key"]), found["Size"], max(0.0, age_s))

    def folders(self, prefix: str) -> list[str]:
        return self.folders_below(f"{prefix}/")

    def probe(self) -> Limits:
        warnings = self._check_credentials()
        name = f"probe-{uuid.uuid4().hex}"
        first = self._put_if_absent(name, b"first")
        try:
            second = first and self._put_if_absent(name, b"second")
            self.names(name)
        finally:
            self.delete(name)
        if first is False:
            what = (
                "the server reports that a new object already exists; choose another store with "
                "--store"
            )
            raise StoreRefusedError(f"store {self.uri}: {what}")
        if second is False:
            return Limits(warnings)
        return Limits((f"store {self.uri}: {_NO_CONDITIONS}", *warnings), is_for_one_run=True)

    def check_access(self) -> None:
        self._check_credentials()
        name = f"probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        self.delete(name)

    def _check_credentials(self) -> tuple[str, ...]:
        """Return a warning if the credentials in the environment expire.

        Other credentials are renewed, or their expiry is unknown.
        """
        stated = os.environ.get("AWS_CREDENTIAL_EXPIRATION")
        if not stated or not os.environ.get("AWS_ACCESS_KEY_ID"):
            return ()
        end = _time_of(stated)
        if end is None:
            what = (
                f"AWS_CREDENTIAL_EXPIRATION is {stated!r}, not a time such as "
                "2030-01-31T12:00:00Z; correct or unset it"
            )
            raise StoreRefusedError(f"store {self.uri}: {what}")
        left_min = (end - datetime.now(UTC)).total_seconds() / 60
        what = f"the credentials in the environment expire at {stated} and are not renewed"
        if left_min < LEAST_LEFT_MIN:
            raise StoreRefusedError(f"store {self.uri}: {what}; get new ones, or {_RENEWED}")
        return (
            (
                f"store {self.uri}: {what}, so a run that takes more than {left_min:.0f} minutes "
                f"fails; {_RENEWED}"
            ),
        )


def _time_of(text: str) -> datetime | None:
    """Parse ISO 8601 text; without a zone it is UTC. Returns None if it is not a time."""
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
