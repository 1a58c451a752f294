"""`python -m tests.s3_server --host HOST --port PORT`: moto's S3, in which a conditional write is one step, as in S3's.

moto looks whether an object is there, and then writes it: of writers that come at the same time two may win.
"""

from __future__ import annotations

import sys
import threading
from typing import Any

from moto.s3.responses import S3Response
from moto.server import main

_one_write = threading.Lock()
_put_object = S3Response.put_object


def put_object(response: S3Response) -> Any:
    with _one_write:
        return _put_object(response)


if __name__ == "__main__":
    S3Response.put_object = put_object  # type: ignore[assignment, method-assign]
    main(sys.argv[1:])
