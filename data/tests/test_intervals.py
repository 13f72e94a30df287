"""Intervals: of means, of shares, of differences clip by clip; and the tables that hold them."""
import json

import torch

from data.evaluation import intervals, tables
from data.tests.conftest import near


def test_interval_holds_the_mean():
    values = torch.randn(400) + 3
    mean, low, high = intervals.interval(values)
    assert low < 3 < high, f"expected 3 in the interval, got [{low:.3f}, {high:.3f}]"
    near(high - low, 2 * 1.96 / 20, 0.03, "the interval of a mean is as wide as 3.92 s / sqrt(n)")
    with_gap = torch.cat([values, torch.tensor([float("nan")])])
    assert intervals.interval(with_gap)[0] == mean, "expected clips that do not count (nan) to be left out"


def test_shares_have_wilson_intervals():
    """Wilson 1927: 8 of 10 is 0.490 to 0.943. All right is never certain. Frames are more than one trial,
    but not as many as there are frames, if the frames of a clip are right or wrong together."""
    value, low, high = intervals.share(torch.tensor([1.0] * 8 + [0.0] * 2))
    near(value, 0.8, 1e-6, "the share itself")
    near(low, 0.490, 1e-3, "is it Wilson's formula, and n the number of clips?")
    near(high, 0.943, 1e-3, "is it Wilson's formula?")
    value, low, high = intervals.share(torch.ones(256))
    near(low, 1 / (1 + 1.96 ** 2 / 256), 1e-4,
         "256 clips that are all right: does variance 0 make the interval 0?")
    assert value == high == 1, f"expected 1.000 up to 1, got {value}, {high}"
    almost = torch.ones(256)
    almost[0] = 15 / 16
    near(intervals.share(almost)[1], low, 0.003,
         "one wrong frame more must not make the interval much smaller")
    together = torch.rand(200).round()[:, None].expand(-1, 16).mean(1)          # 200 trials
    alone = torch.rand(200, 16).round().mean(1)                                 # 3,200 trials
    wide, narrow = (high - low for _, low, high in (intervals.share(together), intervals.share(alone)))
    near(wide / narrow, 4, 0.8, "16 independent frames narrow the interval 4 times: is their variance used?")


def test_jackknife_of_a_mean_is_the_standard_error():
    values = torch.randn(60, dtype=torch.float64)

    def mean_of(kept):
        return values[kept].mean()

    value, low, high = intervals.jackknife(60, mean_of)
    near(high - low, 2 * 1.96 * values.std().item() / 60 ** 0.5, 1e-3, "is the factor (groups - 1) there?")
    near(value, values.mean().item(), 1e-6, "the value is that of all clips")


def test_a_paired_difference_sees_what_two_intervals_hide():
    """Two models whose clips vary by 1 and differ by 0.1 each time."""
    shared, a = torch.randn(100), torch.zeros(100)
    a, b = shared + 0.1 + 0.01 * torch.randn(100), shared
    value, low, high = intervals.difference(a, b)
    near(value, 0.1, 0.01, "a - b: is the sign turned?")
    assert 0 < low < high < 0.12, f"expected an interval of about 0.1 +- 0.002, got [{low:.3f}, {high:.3f}]"
    assert intervals.interval(a)[1] < intervals.interval(b)[2], "this test needs intervals that overlap"


def test_tables_are_read_back(tmp_path):
    table = {"n": 2, "clips": {"a": {"x": (1.0, float("nan"), 2.123456789)}},
             "values": {"a": {"x": torch.ones(2)}}}
    tables.write_table(tmp_path / "t.json", table)
    got = json.loads((tmp_path / "t.json").read_text())
    expected = {"n": 2, "clips": {"a": {"x": [1.0, None, 2.1235]}}, "values": {"a": {"x": [1.0, 1.0]}}}
    assert got == expected, f"expected {expected}, got {got}"
