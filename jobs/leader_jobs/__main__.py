"""A stage as a Ray job: `python -m leader_jobs REQUEST`, where REQUEST is a JSON `Request`, or a file that holds one.

A failure's last line is `LEADER-ERROR <exit code> <sentence>`, which the command that follows the log turns back into
its own error.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from leader_jobs.requests import Request, run_request
from leader_platform import surroundings
from leader_platform.progress import job_progress
from leader_platform.ray_jobs import tell_failure


def main() -> None:
    # Ray's C++ part writes warnings about Ray Data's own actors into what is the user's progress; what goes wrong is
    # raised, and the cluster's logs have the rest.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    with tell_failure():
        # Ray reads a job's output as UTF-8.
        progress = job_progress()
        surroundings.set_up(progress.log, encoding="utf-8")
        given = sys.argv[1]
        request = Request.model_validate_json(given if given.startswith("{") else Path(given).read_bytes())
        run_request(request, progress)


if __name__ == "__main__":
    main()
