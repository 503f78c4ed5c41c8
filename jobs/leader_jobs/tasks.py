"""One function over a few large pieces of work, as a Ray Data pipeline that the dashboard shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from leader_platform import storage
from leader_platform.errors import UserError
from leader_platform.progress import Task


def on_each(
    function: Callable[[Any], dict[str, Any]], pieces: Sequence[str | int], out: str, task: Task
) -> list[dict[str, Any]]:
    """`function(piece)`, of what is to lie at `out`, on the cluster for every piece, each counted in `task`.

    Returns the answers, JSON-able and small, in the pieces' order. Raises the `UserError` of a piece.
    """
    import ray

    def answer(row: dict[str, Any]) -> dict[str, Any]:
        # An error that leaves a task comes within Ray Data's own, without its cause, and while other tasks still write.
        try:
            with storage.room_for(out):
                return {"number": row["number"], "answer": json.dumps(function(row["piece"])), "error": ""}
        except UserError as error:
            return {"number": row["number"], "answer": "", "error": str(error)}

    numbered = [{"number": number, "piece": piece} for number, piece in enumerate(pieces)]
    dataset = ray.data.from_items(numbered, override_num_blocks=len(pieces))
    # Ray Data reserves half of the cores for operators that might follow. None does, and on two cores one piece at a
    # time would be worked on.
    dataset.context.op_resource_reservation_enabled = False
    # As they are done, so that a slow first one does not hide the others.
    dataset.context.execution_options.preserve_order = False
    answers: dict[int, dict[str, Any]] = {}
    error = ""
    for row in dataset.map(answer).iter_rows():
        task.advance()
        error = error or row["error"]
        if not row["error"]:
            answers[row["number"]] = json.loads(row["answer"])
    if error:
        raise UserError(error)
    return [answers[number] for number in range(len(pieces))]
