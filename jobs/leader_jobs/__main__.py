"""A stage as a Ray job: `python -m leader_jobs REQUEST`, where REQUEST is a JSON `Request`.

A failure's last line is `LEADER-ERROR <exit code> <sentence>`, which the command that follows the log turns back into
its own error.
"""

from __future__ import annotations

import json
import os
import sys

from leader_jobs.requests import Request, run_request
from leader_platform.errors import RunError, UserError, find_cause
from leader_platform.ray_jobs import ERROR_PREFIX


def main() -> None:
    # Ray's C++ part writes warnings about Ray Data's own actors into what is the user's progress; what goes wrong is
    # raised, and the cluster's logs have the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        request = Request.model_validate(json.loads(sys.argv[1]))
        run_request(request, lambda line: print(line, flush=True))
    except Exception as error:
        cause = find_cause(error, (UserError, RunError))
        if cause is None:
            raise
        code = 2 if isinstance(cause, UserError) else 1
        print(f"{ERROR_PREFIX}{code} {cause}", flush=True)
        sys.exit(code)


if __name__ == "__main__":
    main()
