"""The synthetic cohort: patients drawn from a model, written as the raw tables of MIMIC-III or MIMIC-IV."""

from leader_platform.data.synthetic.write import SyntheticCounts, write_raw

__all__ = ["SyntheticCounts", "write_raw"]
