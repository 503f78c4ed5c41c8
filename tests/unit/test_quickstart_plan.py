"""What `leader quickstart` chooses for a budget on machines of different speed."""

from __future__ import annotations

from typing import Any

import pytest

from leader_jobs.quickstart_plan import SERVE, SIZES, STEPS, Plan, expected, plan
from leader_jobs.speed import Speed
from leader_platform.config import LeaderConfig
from leader_platform.recipes import recipe
from leader_platform.settings import load_config, with_values


def speed(read: float, train: float, start_s: float = 2.0) -> Speed:
    """Of the whole backbone."""
    return Speed(
        read_dtype="float32",
        train_dtype="float32",
        depth=1.0,
        read_tokens_per_s=read,
        train_tokens_per_s=train,
        start_s=start_s,
    )


AVX2 = speed(378, 130, start_s=3.0)  # two cores, float32 (docs/LOG.md)
AMX = speed(2100, 800)
ZEN4 = speed(1336, 531)


def configured(changes: dict[str, Any], *overrides: str) -> LeaderConfig:
    return load_config(with_values(recipe("quickstart"), changes), None, overrides)


def chosen(minutes: float, machine: Speed, patients: int | None = None) -> Plan:
    return plan(minutes, machine, configured, patients)


@pytest.mark.parametrize("machine", [AVX2, ZEN4, AMX])
def test_larger_sizes_take_longer(machine: Speed) -> None:
    seconds = [sum(s.seconds for s in expected(z.patients, configured(z.settings()), machine)) for z in SIZES]
    assert seconds == sorted(seconds)


def test_every_machine_gets_what_fits_its_ten_minutes() -> None:
    slow, fast = chosen(10, AVX2), chosen(10, AMX)
    assert slow.seconds < 600
    assert fast.seconds < 600
    assert SIZES.index(slow.size) < SIZES.index(fast.size)


def test_without_a_budget_a_fast_machine_takes_no_more_than_is_enough() -> None:
    assert plan(None, AMX, configured).seconds < 360
    assert plan(None, AMX, configured).size.patients == 220
    assert plan(None, AVX2, configured).size == chosen(10, AVX2).size


def test_more_minutes_are_used() -> None:
    sizes = [SIZES.index(chosen(minutes, AVX2).size) for minutes in (8, 12, 30, 120)]
    assert sizes == sorted(set(sizes))


def test_where_nothing_fits_the_smallest_is_planned_and_says_what_it_takes() -> None:
    slowest = chosen(1, speed(20, 8))
    assert slowest.size == SIZES[0]
    assert slowest.seconds > 60


def test_a_machine_that_starts_processes_slowly_gets_less_time_for_the_rest() -> None:
    fixed = [chosen(10, speed(1e6, 1e6, start_s)).by_step()[SERVE] for start_s in (2.0, 4.0)]
    assert fixed[1] == pytest.approx(2 * fixed[0])


def test_a_cohort_that_was_asked_for_is_kept_and_the_rest_shrinks() -> None:
    free, asked = chosen(10, AVX2), chosen(10, AVX2, patients=300)
    assert asked.seconds < 600
    assert SIZES.index(asked.size) < SIZES.index(free.size)


def test_settings_of_the_user_stand_and_are_counted() -> None:
    def with_long_prompts(changes: dict[str, Any]) -> LeaderConfig:
        return configured(changes, "prompt.max_tokens=2048", "teacher.depth=1")

    free, asked = chosen(10, AVX2), plan(10, AVX2, with_long_prompts)
    assert with_long_prompts(asked.size.settings()).prompt.max_tokens == 2048
    assert SIZES.index(asked.size) < SIZES.index(free.size)


def test_the_plan_names_every_step_once() -> None:
    assert tuple(chosen(10, AMX).by_step()) == STEPS
