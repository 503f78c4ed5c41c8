"""Tokenised samples."""

from leader_jobs.teacher_steps import Row


def row(index: int, num_tokens: int, labels: tuple[int, ...] = ()) -> Row:
    """A sample of so many tokens below 20, others for each index."""
    ids = [(index * 7 + position) % 20 for position in range(num_tokens)]
    return {"sample_id": f"{index:03d}", "token_ids": ids, "label_indices": list(labels), "previous_indices": []}
