"""The teacher's steps: how they are cut, ordered, taken, judged and resumed."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest
import torch
from support.rows import row
from torch import Tensor, nn

from leader_jobs.teacher_checkpoint import Tuning
from leader_jobs.teacher_head import Read, fit_head
from leader_jobs.teacher_steps import (
    Place,
    Row,
    gradient_scaler,
    label_weights,
    micro_batches,
    optimizer_and_schedule,
    steps,
    train_step,
    validation_prauc,
)
from leader_jobs.training import begin_renewal
from leader_platform.config import TeacherConfig
from leader_platform.errors import UserError
from leader_platform.models.renewal import Renewal
from leader_platform.models.teacher import MedicationHead, Teacher


class Embedding(nn.Module):
    """A backbone whose states are its trained embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(20, 6)

    def forward(self, input_ids: Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table(input_ids))


def small_teacher(seed: int = 0) -> Teacher:
    torch.manual_seed(seed)
    backbone: Any = Embedding()
    return Teacher(backbone, MedicationHead(6, 3), "mean")


class Shard:
    """Rows in windows, as Ray Data's iterator gives them."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows = rows

    def iter_batches(self, batch_size: int, **_: Any) -> Iterator[pa.Table]:
        for start in range(0, len(self.rows), batch_size):
            yield pa.Table.from_pylist(self.rows[start : start + batch_size])


# --- order -----------------------------------------------------------------------------------------------------------


def test_prompts_go_together_as_far_as_the_tokens_allow() -> None:
    rows = [row(0, 30), row(1, 10), row(2, 120), row(3, 10), row(4, 40)]
    cut = micro_batches(rows, max_tokens=60)
    assert [[len(one["token_ids"]) for one in batch] for batch in cut] == [[10, 10], [30], [40], [120]]


def test_an_epoch_shows_every_row_once_and_a_resumed_one_the_rest() -> None:
    config = TeacherConfig(batch_size=2, gradient_accumulation=2, bucket_batches=2, seed=3)
    shard = Shard([row(index, 1 + index % 4) for index in range(11)])
    whole = [[one["sample_id"] for one in rows] for rows in steps(shard, config, Place(), 6)]
    assert len(whole) == 6
    for epoch in (whole[:3], whole[3:]):
        assert sorted(chain.from_iterable(epoch)) == [f"{index:03d}" for index in range(11)]
    assert whole[:3] != whole[3:], "epochs are shuffled apart"
    for done in (2, 3, 4):
        place = Place()
        before = steps(shard, config, place, 6)
        for _ in range(done):
            next(before)
        rest = [[one["sample_id"] for one in rows] for rows in steps(shard, config, Place(**vars(place)), 6)]
        assert whole[done:] == rest


def test_training_ends_when_patience_does_and_does_not_go_on_when_resumed() -> None:
    config = TeacherConfig(batch_size=1, gradient_accumulation=1, evaluate_steps=2, patience=2)
    shard, place = Shard([row(index, 2) for index in range(30)]), Place()
    place.judge(0.5)
    for _ in steps(shard, config, place, 30):
        if place.step % 2 == 0:
            place.judge({2: 0.4, 4: 0.6}.get(place.step, 0.55))
    assert (place.step, place.best_step, place.best_prauc) == (8, 4, 0.6)
    assert list(steps(shard, config, place, 30)) == []


def test_without_validations_training_goes_to_its_end() -> None:
    config = TeacherConfig(batch_size=1, gradient_accumulation=1, evaluate_steps=None)
    place = Place()
    assert len(list(steps(Shard([row(0, 2)]), config, place, 7))) == 7
    assert place.epoch == 6


# --- a step ----------------------------------------------------------------------------------------------------------

ROWS = [row(0, 9, (0,)), row(1, 3, (0, 2)), row(2, 5), row(3, 4, (1,))]


def test_the_step_is_the_same_however_its_rows_are_cut() -> None:
    after, losses = [], []
    for max_tokens in (64, 1_000_000):
        model = small_teacher()
        config = TeacherConfig(micro_batch_tokens=max_tokens)
        rows = [{**one, "token_ids": one["token_ids"] * 5} for one in ROWS]
        assert len(micro_batches(rows, max_tokens)) == (3 if max_tokens == 64 else 1)
        optimizer, _ = optimizer_and_schedule(model, config, 10)
        loss, num_tokens = train_step(model, rows, 0, optimizer, None, config)
        assert num_tokens == 5 * (9 + 3 + 5 + 4)
        losses.append(loss)
        after.append(torch.cat([weight.flatten() for weight in model.parameters()]).detach())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(after[0], after[1])


def test_one_sample_is_enough_to_train_on() -> None:
    model, config = small_teacher(), TeacherConfig(head_learning_rate=0.1, warmup_fraction=0.0)
    optimizer, _ = optimizer_and_schedule(model, config, 100)
    losses = [train_step(model, ROWS[:1], 0, optimizer, None, config)[0] for _ in range(20)]
    assert losses[-1] < losses[0] / 2


def test_small_gradients_of_float16_are_scaled_and_an_overflow_leaves_a_step_out() -> None:
    model, config = small_teacher(), TeacherConfig(head_learning_rate=0.1, warmup_fraction=0.0)
    model.backbone.half()
    for weight in model.backbone.parameters():
        weight.requires_grad_(False)  # as the frozen weights of a real one
    optimizer, _ = optimizer_and_schedule(model, config, 100)
    scaler = gradient_scaler("float16", torch.device("cpu"))
    losses = [train_step(model, ROWS, 0, optimizer, None, config, scaler)[0] for _ in range(20)]
    assert losses[-1] < losses[0] / 2
    before = model.head.weight.detach().clone()
    too_large = torch.amp.GradScaler("cpu", init_scale=1e38)
    train_step(model, ROWS, 0, optimizer, torch.full((3,), 1e3), config, too_large)
    torch.testing.assert_close(model.head.weight.detach(), before)
    assert too_large.get_scale() < 1e38


def test_long_gradients_are_cut() -> None:
    config = TeacherConfig(max_gradient_norm=1e-3)
    model = small_teacher()
    trained = list(model.parameters())
    before = [weight.detach().clone() for weight in trained]
    train_step(model, ROWS, 0, torch.optim.SGD(trained, lr=1.0), None, config)
    moved = torch.cat([(now - then).flatten() for now, then in zip(trained, before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-3)


def test_rare_labels_weigh_more_up_to_the_cap_even_a_class_without_one() -> None:
    frequency = torch.tensor([0.9, 0.25, 0.01, 0.0])
    weights = label_weights(frequency, TeacherConfig(class_weighting="balanced", class_weight_cap=20), "cpu")
    assert weights is not None
    assert weights.tolist() == pytest.approx([1, 3, 20, 20])
    assert label_weights(frequency, TeacherConfig(), "cpu") is None


def test_validation_ranks_the_medications_of_each_sample() -> None:
    model = small_teacher()
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([3.0, 2.0, 1.0]))
    # Average precision: 1 for the first label, 1/2 for the second, and a sample without a label says nothing.
    rows = [row(0, 4, (0,)), row(1, 2, (1,)), row(2, 9)]
    assert validation_prauc(model.train(), rows, 0, max_tokens=64) == pytest.approx(0.75)
    assert model.training


# --- checkpoints -----------------------------------------------------------------------------------------------------


def tuning(seed: int) -> Tuning:
    model = small_teacher(seed)
    return Tuning(
        model, *optimizer_and_schedule(model, TeacherConfig(), 10), gradient_scaler("float32", torch.device("cpu"))
    )


def take_step(of: Tuning) -> None:
    train_step(of.model, ROWS, 0, of.optimizer, None, TeacherConfig())
    of.scheduler.step()
    of.place.step += 1


def test_a_resumed_tuning_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    undisturbed = tuning(0)
    undisturbed.judge(0.3)
    take_step(undisturbed)
    undisturbed.save(tmp_path)
    resumed = tuning(1)
    resumed.restore(tmp_path)
    assert resumed.place == undisturbed.place == Place(step=1, best_step=0, best_prauc=0.3)
    for one in (undisturbed, resumed):
        take_step(one)
    for name, weight in undisturbed.model.named_parameters():
        torch.testing.assert_close(dict(resumed.model.named_parameters())[name], weight)
    assert resumed.best is not None
    torch.testing.assert_close(resumed.best["head.weight"], small_teacher(0).head.weight.detach())


def test_the_best_weights_are_kept_while_training_goes_on() -> None:
    one = tuning(0)
    take_step(one)
    one.judge(0.6)
    kept = one.model.head.weight.detach().clone()
    take_step(one)
    one.judge(0.5)
    assert one.best is not None
    torch.testing.assert_close(one.best["head.weight"], kept)
    assert not torch.equal(one.model.head.weight, kept)


# --- the head's warm start -------------------------------------------------------------------------------------------


def examples(num_samples: int, seed: int) -> Read:
    """States whose first number decides the first class, and a second class that nothing decides."""
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(num_samples, 5, generator=generator) * torch.tensor([40.0, 1, 0.1, 1, 1]) + 7
    labels = torch.stack([states[:, 0] > 7, torch.rand(num_samples, generator=generator) < 0.3], dim=1)
    return Read(states, labels.float(), torch.zeros_like(labels))


@pytest.mark.parametrize("bias", [True, False])
def test_the_head_learns_what_the_states_say(bias: bool) -> None:
    train, validation = examples(300, 0), examples(200, 1)
    head, told = fit_head(train, validation, train.labels.mean(dim=0), None, bias)
    assert (head.bias is not None) == bias
    correct = (head(validation.states)[:, 0] > 0).float() == validation.labels[:, 0]
    assert correct.float().mean() > (0.95 if bias else 0.8)
    assert told["samples"] == 300
    assert 0.5 < told["prauc"] <= 1


def test_the_head_fits_on_one_sample_and_on_a_class_without_one() -> None:
    one = examples(1, 0)
    one.labels[:, 1] = 0
    head, _ = fit_head(one, examples(20, 1), torch.tensor([1.0, 0.0]), None, bias=True)
    assert torch.isfinite(head(one.states)).all()


def test_a_validation_without_labels_is_told_in_a_sentence() -> None:
    train = examples(10, 0)
    with pytest.raises(UserError, match=r"No validation sample has a medication"):
        fit_head(train, train._replace(labels=train.labels * 0), torch.tensor([0.5, 0.3]), None, bias=True)


def test_the_head_begins_with_what_the_visit_before_tells_and_learns_the_rest() -> None:
    """The second class is what it was the last time, which states know nothing of."""

    def renewed(num_samples: int, seed: int) -> Read:
        read = examples(num_samples, seed)
        return read._replace(given=read.labels > 0)

    train, validation = renewed(300, 0), renewed(200, 1)
    frequency = train.labels.mean(dim=0)
    renewal = Renewal(2)
    begin_renewal(renewal, train.given.numpy(), train.given.numpy(), frequency)
    head, told = fit_head(train, validation, frequency, None, bias=True, renewal=renewal)
    assert head.renewal is not None
    torch.testing.assert_close(head.renewal.again, renewal.again)
    logits = head(validation.states, validation.given)
    assert ((logits > 0).float() == validation.labels)[validation.given.any(dim=1)].float().mean() > 0.95
    assert told["prauc"] > fit_head(train, validation, frequency, None, bias=True)[1]["prauc"]
