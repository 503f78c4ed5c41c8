"""One function over a few large pieces of work, as a Ray Data pipeline that the dashboard shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from leader_platform import storage
from leader_platform.errors import UserError


def on_each(function: Callable[[Any], dict[str, Any]], pieces: Sequence[str | int], out: str) -> list[dict[str, Any]]:
    """`function(piece)`, of what is to lie at `out`, on the cluster for every piece.

    Returns the answers, JSON-able and small, in no particular order. Raises the `UserError` of a piece.
    """
    import ray

    def answer(row: dict[str, Any]) -> dict[str, str]:
        # An error that leaves a task comes within Ray Data's own, without its cause, and while other tasks still write.
        try:
            with storage.room_for(out):
                return {"answer": json.dumps(function(row["piece"])), "error": ""}
        except UserError as error:
            return {"answer": "", "error": str(error)}

    dataset = ray.data.from_items([{"piece": piece} for piece in pieces], override_num_blocks=len(pieces))
    # Ray Data reserves half of the cores for operators that might follow. None does, and on two cores one piece at a
    # time would be worked on.
    dataset.context.op_resource_reservation_enabled = False
    rows = dataset.map(answer).take_all()
    for row in rows:
        if row["error"]:
            raise UserError(row["error"])
    return [json.loads(row["answer"]) for row in rows]
