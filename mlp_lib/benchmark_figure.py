"""The benchmark's table as a figure."""

import pandas as pd
from matplotlib.figure import Figure

from mlp_lib.figures import BLUE, GREY


def speeds(table: pd.DataFrame) -> Figure:
    """Time of a member's epoch by method, a panel a case; rows as in benchmark.csv."""
    cases = list(table.groupby(["architecture", "members", "batch_size", "workers"], sort=False))
    figure = Figure(figsize=(8, 0.6 + 1.9 * len(cases)), layout="constrained")
    for axes, ((architecture, members, batch_size, workers), rows) in zip(
        figure.subplots(len(cases), squeeze=False)[:, 0], cases, strict=True
    ):
        colors = [BLUE if method == "population" else GREY for method in rows["method"]]
        seconds = rows["seconds_per_member_epoch"]
        bars = axes.barh(rows["method"], seconds, color=colors, height=0.7)
        axes.bar_label(bars, [_seconds(value) for value in seconds], padding=4)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.15 * seconds.max())
        axes.set_title(
            f"{architecture}, {members} members, batch {batch_size}, workers {workers}", loc="left", fontsize=10
        )
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel("seconds a member and epoch", fontsize=10)
    return figure


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 0.1 else f"{1000 * value:.3g} ms"
