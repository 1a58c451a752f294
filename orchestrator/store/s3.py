"""A Store in a bucket of S3, or of a server that speaks its protocol. Credentials: boto3's standard
chain only."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path

from botocore.exceptions import ClientError

from orchestrator.errors import StoreError, StoreRefusedError
from orchestrator.s3.bucket import Bucket
from orchestrator.s3.failures import MISSING, Failure, code_of

THREADS = 16
"""Threads of one transfer."""
CONFLICT_TRIES = 5
"""Tries at a create that meets another one; S3 asks to try again."""
CONFLICT_WAIT_S = 0.2

CONDITIONS_UNKNOWN = frozenset({"NotImplemented", "501", "MethodNotAllowed", "405"})
"""Codes of a server that refuses a conditional put as such."""
LEAST_LEFT_MIN = 10
"""Credentials that expire sooner are refused before the run begins."""

_NO_CONDITIONS = (
    "the server does not honour conditional puts (If-None-Match), so have only one run at a time "
    "use this store: "
    "of two that finish the same stage together, the later one overwrites the other's manifest"
)
_RENEWED = "use a profile or a role, whose credentials are renewed"


class S3Store(Bucket):
    """Whole objects are put at once; create-only by a conditional put, which the server should
    honour as S3 does.

    Where it does not, a store is safe for one run at a time only; `probe` warns of that.
    """

    no_bucket = "create the bucket, or give another one by `store:` in the job or --store"

    def __init__(self, uri: str) -> None:
        super().__init__(uri, num_threads=THREADS, max_connections=THREADS)

    def as_error(self, failure: Failure, verb: str, name: str) -> StoreError:
        kind = StoreRefusedError if failure.is_lasting else StoreError
        return kind(
            f"store {self.uri}: cannot {'read' if verb == 'list' else verb} {name}: {failure}"
        )

    def create(self, name: str, content: bytes) -> bool:
        is_created = self._put_if_absent(name, content)
        # The server knows no conditions; right for one writer at a time, see `probe`
        if is_created is None:
            is_created = self.read(name) is None
            if is_created:
                self.write(name, content)
        return is_created

    def _put_if_absent(self, name: str, content: bytes) -> bool | None:
        """Whether `name` is new and has `content` now; None where the server refuses a
        condition."""
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
            f"store {self.uri}: cannot write {name}: others went on writing it; run again"
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

    def probe(self) -> tuple[str, ...]:
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
                "the server takes a new object for one that exists: give another store by --store"
            )
            raise StoreRefusedError(f"store {self.uri}: {what}")
        return warnings if second is False else (f"store {self.uri}: {_NO_CONDITIONS}", *warnings)

    def check_access(self) -> None:
        self._check_credentials()
        name = f"probe-{uuid.uuid4().hex}"
        self.write(name, b"")
        self.delete(name)

    def _check_credentials(self) -> tuple[str, ...]:
        """A warning where the environment's credentials expire; others are renewed, or their end is
        unknown."""
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
        what = f"the credentials in the environment expire at {stated} and cannot renew themselves"
        if left_min < LEAST_LEFT_MIN:
            raise StoreRefusedError(f"store {self.uri}: {what}; get new ones, or {_RENEWED}")
        return (
            (
                f"store {self.uri}: {what}, so a run that takes more than {left_min:.0f} minutes "
                f"fails; {_RENEWED}"
            ),
        )


def _time_of(text: str) -> datetime | None:
    """The time that ISO 8601 text names, in UTC where it has no zone."""
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
