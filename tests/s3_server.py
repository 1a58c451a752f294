"""`python -m tests.s3_server --host HOST --port PORT`: moto's S3 with atomic conditional writes.

moto itself first checks whether an object exists, and then writes it, so two concurrent writers may
both succeed. Buckets whose names begin with IGNORING or with a key of ANSWERS treat conditions as
other servers do.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.s3.exceptions import S3ClientError
from moto.s3.responses import S3Response
from moto.server import main

IGNORING = "ignoring"
"""A conditional put is an ordinary put, as in `rclone serve s3` and MinIO before 2024."""
REFUSING = "refusing"
"""A conditional put is an error, as in some gateways."""
CONFLICTING = "conflicting"
"""A conditional put always conflicts with the put of another process."""
OCCUPIED = "occupied"
"""A conditional put always finds an object, although there is none."""
ANSWERS = {
    REFUSING: S3ClientError(
        "NotImplemented", "A header you provided implies functionality that is not implemented"
    ),
    CONFLICTING: S3ClientError(
        "ConditionalRequestConflict", "A conflicting operation is in progress"
    ),
    OCCUPIED: S3ClientError("PreconditionFailed", "A precondition did not hold"),
}
"""The error of a conditional put, by kind of bucket."""

_one_write = threading.Lock()
_put_object = S3Response.put_object


def put_object(response: S3Response) -> Any:
    is_conditional = "If-None-Match" in response.headers
    kind = response.bucket_name.partition("-")[0]
    if is_conditional and kind in ANSWERS:
        raise ANSWERS[kind]
    if is_conditional and response.bucket_name.startswith(IGNORING):
        response.headers = {
            name: value for name, value in response.headers.items() if name != "If-None-Match"
        }
    with _one_write:
        return _put_object(response)


if __name__ == "__main__":
    S3Response.put_object = put_object  # type: ignore[assignment, method-assign]
    main(sys.argv[1:])
