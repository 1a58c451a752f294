"""A Store in a bucket of S3 or of a compatible server. Credentials come only from boto3's standard
chain."""

from __future__ import annotations

import os
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

from botocore.exceptions import ClientError

from orchestrator.digests import Digests, digest_file
from orchestrator.errors import IntegrityError, StoreError, StoreRefusedError
from orchestrator.s3 import client, failures, transfer
from orchestrator.s3.bucket import Bucket
from orchestrator.s3.failures import MISSING, Failure, code_of
from orchestrator.s3.transfer import Checks
from orchestrator.store.pool import delete_each
from orchestrator.store.protocol import Entry, Limits

THREADS = 16
"""Threads per transfer."""
PART_BYTES = 2**23
"""Bytes of a download that one request reads."""
PARTS_AHEAD = 16
"""Parts that a process reads before they are needed: 128 MiB of memory. Its downloads share
them."""
LEAST_PARTS_AHEAD = 4
"""Parts that each download may read ahead, however many there are."""
DELETES = 1000
"""Objects that one request deletes at most."""
UPLOADS = 2
"""Uploads of a file of which the server reports another checksum, or which it does not know at the
end: a transfer may go wrong once."""
ASK_FROM_BYTES = 2**18
"""A smaller file is uploaded without asking whether it exists: the question takes as long."""
SKIP_YOUNGER_S = 24 * 3600
"""An older object is uploaded again, which makes it young. `artifacts gc` deletes only objects that
are at least twice as old, so none that a stage is about to name in its manifest."""
CONFIRMED_S = 3600
"""How long this process relies on a checksum that the server has reported."""
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
_NO_DATE = (
    "the answer has no Date header, without which the age of what is stored is unknown; check the "
    "server and the proxies between here and it"
)
_RENEWED = "use a profile or a role, whose credentials are renewed automatically"
_BAD_RANGE = frozenset({"416", "InvalidRange"})

_confirmed: dict[tuple[str, str], float] = {}
"""When the server last reported the checksum of an object to this process, by store and name, in
seconds of the monotonic clock."""
_downloads: set[ThreadPoolExecutor] = set()
"""The downloads in parts of this process."""
_T = TypeVar("_T")


class MultipartUpload(NamedTuple):
    """An upload in parts that is not finished."""

    name: str
    upload_id: str
    size: int
    """Bytes of the parts that the server has."""
    age_s: float
    """Seconds since it began, by the clock of the server."""


class S3Store(Bucket):
    """A store in S3. Objects are written as a whole, create-only writes by a conditional put.

    If the server does not support conditional puts, the store is safe for only one run at a time,
    and `probe` returns a warning.
    """

    no_bucket = "create the bucket, or choose another one with `store:` in the job or --store"

    def __init__(self, uri: str) -> None:
        super().__init__(uri, num_threads=THREADS, max_connections=THREADS)
        self._checks = Checks.WHOLE
        """Until the server refuses them."""
        self._deletes_many = True
        """Until the server refuses it."""

    def as_error(self, failure: Failure, verb: str, name: str) -> StoreError:
        kind = StoreRefusedError if failure.is_lasting else StoreError
        return kind(
            f"store {self.uri}: cannot {'read' if verb == 'list' else verb} {name}: {failure}"
        )

    def create(self, name: str, content: bytes) -> bool:
        # A server that ignores the condition would replace the object, so ask first. There, this is
        # safe for one writer at a time, see `probe`.
        if self.read(name) is not None:
            return False
        is_created = self._put_if_absent(name, content)
        if is_created is None:
            self.write(name, content)
        return is_created is not False

    def _put_if_absent(self, name: str, content: bytes) -> bool | None:
        """Write `content` if `name` does not exist. Returns whether it did, or None if the server
        does not support conditions."""
        with self.errors("write", name):
            for _ in range(CONFLICT_TRIES):
                try:
                    self.connection.put_object(**self.request(name), Body=content, IfNoneMatch="*")
                except ClientError as err:
                    if code_of(err) == "PreconditionFailed":
                        return _was_repeated(err) and self.read(name) == content
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

    # Without a checksum of its own, `Bucket.upload` cannot know what the server has received.
    def upload(self, name: str, path: Path) -> Digests:  # type: ignore[override]
        digests = digest_file(path)
        self._upload(name, path, digests)
        return digests

    def upload_as(
        self, name_of: Callable[[str], str], path: Path, *, always: bool = False
    ) -> Digests:
        digests = digest_file(path, again=always)
        name = name_of(digests.sha256)
        if always or not self._is_stored(name, digests):
            self._upload(name, path, digests)
        return digests

    def _is_stored(self, name: str, digests: Digests) -> bool:
        """Whether the server reports a checksum of `name` that matches, and it is not too old."""
        known_s = _confirmed.get((self.uri, name))
        if known_s is not None and time.monotonic() - known_s < CONFIRMED_S:
            return True
        if digests.size < ASK_FROM_BYTES:
            return False
        stored = self._look_up(name)
        if stored is None or not stored.matches(digests):
            return False
        if stored.age_s is None or stored.age_s > SKIP_YOUNGER_S:
            return False
        _confirmed[self.uri, name] = time.monotonic()
        return True

    def _upload(self, name: str, path: Path, digests: Digests) -> None:
        def upload(checks: Checks) -> bool | None:
            return transfer.upload(
                self._client_of_this_process(client.UPLOAD_READ_TIMEOUT_S),
                path,
                digests,
                self.request(name),
                config=self.transfers,
                checks=checks,
            )

        _confirmed.pop((self.uri, name), None)
        for uploads_left in reversed(range(UPLOADS)):
            with self.errors("write", name):
                try:
                    is_right = self._with_checksums(upload)
                except transfer.ChangedError as err:
                    raise StoreError(
                        f"store {self.uri}: cannot write {name}: {path.name} changed while it was "
                        "published; find out which process writes to it, and run again"
                    ) from err
                except failures.errors() as err:
                    if not (uploads_left and failures.has_dropped_upload(err)):
                        raise
                    is_right = False
            if is_right:
                _confirmed[self.uri, name] = time.monotonic()
            if is_right is not False:
                return
        raise StoreError(
            f"store {self.uri}: {name} differs from what was uploaded, {UPLOADS} times; check the "
            "server and the proxies between here and it, and run again"
        )

    def _look_up(self, name: str) -> transfer.Stored | None:
        """Ask the server about an object. None if it does not exist."""
        with self.errors("read", name):
            try:
                return self._with_checksums(
                    lambda checks: transfer.look_up(
                        self.connection, self.request(name), checks=checks
                    )
                )
            except ClientError as err:
                if code_of(err) in MISSING:
                    return None
                raise

    def _with_checksums(self, ask: Callable[[Checks], _T]) -> _T:
        """Return `ask` with all the checksums that the server takes."""
        checks = self._checks
        while True:
            try:
                answer = ask(checks)
            except failures.errors() as err:
                fewer = checks.after(err)
                if fewer is None:
                    raise
                checks = fewer
            else:
                self._checks = checks
                return answer

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

    def stream(self, name: str, *, size: int) -> Iterator[bytes] | None:
        if size <= PART_BYTES:
            # A byte more than expected, so that one request also notices a longer object.
            content = self._read_part(name, 0, size + 1)
            if content is None or len(content) == size:
                return None if content is None else iter((content,))
        stored = self._look_up(name)
        if stored is None:
            return None
        if size <= PART_BYTES or stored.size != size:
            raise IntegrityError(
                f"store {self.uri}: {name} has {stored.size} bytes instead of {size}"
            )
        return self._parts(name, size)

    def _parts(self, name: str, size: int) -> Iterator[bytes]:
        """Yield the parts of an object in order, and read the next ones meanwhile."""

        def read(start: int) -> bytes:
            num_bytes = min(PART_BYTES, size - start)
            content = self._read_part(name, start, num_bytes)
            if content is None or len(content) != num_bytes:
                raise IntegrityError(f"store {self.uri}: {name} was replaced during the download")
            return content

        starts = iter(range(0, size, PART_BYTES))
        pool = ThreadPoolExecutor(PARTS_AHEAD, thread_name_prefix="download")
        ahead: deque[Future[bytes]] = deque()
        _downloads.add(pool)
        try:
            ahead.extend(pool.submit(read, start) for start in islice(starts, _num_more(ahead)))
            while ahead:
                content = ahead.popleft().result()
                ahead.extend(pool.submit(read, start) for start in islice(starts, _num_more(ahead)))
                yield content
        finally:
            _downloads.discard(pool)
            pool.shutdown(cancel_futures=True)

    def _read_part(self, name: str, start: int, num_bytes: int) -> bytes | None:
        """Return up to `num_bytes` from `start` on, or None if the object does not exist."""
        part = f"bytes={start}-{start + num_bytes - 1}"
        with self.errors("read", name):
            try:
                return client.read_object(self.connection, **self.request(name), Range=part)
            except failures.errors() as err:
                if code_of(err) in MISSING:
                    return None
                if code_of(err) in _BAD_RANGE:  # the object ends before the part
                    return b""
                raise

    def delete_many(self, names: Sequence[str], *, goes_on: Callable[[], bool]) -> list[str]:
        gone: list[str] = []
        for start in range(0, len(names), DELETES):
            batch = names[start : start + DELETES]
            if not goes_on():
                break
            if self._delete_batch(batch):
                gone += batch
            else:
                gone += delete_each(self.delete, batch, goes_on)
        return gone

    def _delete_batch(self, names: Sequence[str]) -> bool:
        """Delete with one request. Returns False if the server refuses such a request, as JuiceFS
        does without a Content-MD5, which boto3 no longer sends."""
        if not self._deletes_many:
            return False
        keys = [{"Key": self.request(name)["Key"]} for name in names]
        with self.errors("delete", names[0]):
            try:
                answer = self.connection.delete_objects(
                    Bucket=self.request("")["Bucket"], Delete={"Objects": keys, "Quiet": True}
                )
            except failures.errors() as err:
                if not failures.may_refuse_header(err):
                    raise
                self._deletes_many = False
                return False
        for failed in answer.get("Errors", ()):  # alone, for its error message
            self.delete(self.name_of(failed["Key"]))
        return True

    def clear(self, prefix: str) -> None:
        names = self.names(prefix)
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(self.delete, names):
                pass

    def names(self, prefix: str) -> list[str]:
        entries = self._list(f"{prefix}/", "Contents", deep=True)
        return sorted(self.name_of(entry["Key"]) for entry in entries)

    def entries(self, prefix: str) -> Iterator[Entry]:
        with self.errors("list", prefix):
            for page in self.pages(f"{prefix}/", deep=True):
                for found in page.get("Contents", ()):
                    age_s = transfer.age_s(page, found["LastModified"])
                    if age_s is None:  # a guess could end a lease, or let gc delete what is new
                        raise StoreError(f"store {self.uri}: cannot list {prefix}: {_NO_DATE}")
                    yield Entry(self.name_of(found["Key"]), found["Size"], age_s)

    def multipart_uploads(self) -> Iterator[MultipartUpload]:
        """Yield the uploads in parts that are not finished, also those in progress."""
        with self.errors("list", "unfinished uploads"):
            request = self.request("")
            pages = self.connection.get_paginator("list_multipart_uploads").paginate(
                Bucket=request["Bucket"], Prefix=request["Key"]
            )
            for page in pages:
                for found in page.get("Uploads", ()):
                    name, upload_id = self.name_of(found["Key"]), found["UploadId"]
                    age_s = transfer.age_s(page, found["Initiated"])
                    if age_s is not None:  # else it may be in progress
                        size = self._size_of_parts(name, upload_id)
                        yield MultipartUpload(name, upload_id, size, age_s)

    def _size_of_parts(self, name: str, upload_id: str) -> int:
        pages = self.connection.get_paginator("list_parts").paginate(
            **self.request(name), UploadId=upload_id
        )
        return sum(part["Size"] for page in pages for part in page.get("Parts", ()))

    def abort(self, upload: MultipartUpload) -> None:
        """Delete the parts of an unfinished upload."""
        with self.errors("delete", upload.name):
            self.connection.abort_multipart_upload(
                **self.request(upload.name), UploadId=upload.upload_id
            )

    def folders(self, prefix: str) -> list[str]:
        return self.folders_below(f"{prefix}/")

    def probe(self) -> Limits:
        warnings = self._check_credentials()
        name = f"probe-{uuid.uuid4().hex}"
        first = self._put_if_absent(name, b"first")
        try:
            second = first and self._put_if_absent(name, b"second")
            skew_s = self._clock_skew_s(name)
        finally:
            self.delete(name)
        if first is False:
            what = (
                "the server reports that a new object already exists; choose another store with "
                "--store"
            )
            raise StoreRefusedError(f"store {self.uri}: {what}")
        if second is False:
            return Limits(warnings, clock_skew_s=skew_s)
        warnings = (f"store {self.uri}: {_NO_CONDITIONS}", *warnings)
        return Limits(warnings, is_for_one_run=True, clock_skew_s=skew_s)

    def _clock_skew_s(self, prefix: str) -> float | None:
        """How far this machine's clock is ahead of the server's, from a listing. Raises StoreError
        if the store cannot be listed."""
        with self.errors("list", prefix):
            pages = list(self.pages(f"{prefix}/", deep=True))
        now_s = transfer.server_time_s(pages[-1])
        return None if now_s is None else time.time() - now_s

    def reports_checksum(self, name: str) -> bool:
        """Whether the server reports a checksum of an object that exists. Raises StoreError."""
        stored = self._look_up(name)
        return stored is not None and bool(stored.checksums)

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


def _num_more(ahead: Sized) -> int:
    """Return how many more parts a download may read ahead. If others began meanwhile, it may have
    too many."""
    most = max(LEAST_PARTS_AHEAD, PARTS_AHEAD // max(1, len(_downloads)))
    return max(0, most - len(ahead))


def _was_repeated(err: ClientError) -> bool:
    """Whether this answer is not to the client's first request: the first one may have succeeded,
    although its answer was lost."""
    return bool(err.response.get("ResponseMetadata", {}).get("RetryAttempts", 0))


def _time_of(text: str) -> datetime | None:
    """Parse ISO 8601 text; without a zone it is UTC. Returns None if it is not a time."""
    try:
        time_ = datetime.fromisoformat(text)
    except ValueError:
        return None
    return time_ if time_.tzinfo else time_.replace(tzinfo=UTC)
