"""The picture of `validate`: emulated over measured against measured time, one panel a group. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from tools.validate import Validation


def plot(found: Validation, path: Path) -> None:
    """Write the picture; its format follows the name. Raises ValueError without matplotlib or for a foreign format."""
    try:
        import matplotlib
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install 'decodelab[plot]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(len(found.groups), 1, figsize=(8, 3.2 * len(found.groups)), squeeze=False)
    for axes, group in zip(panels[:, 0], found.groups):
        measured = [row.us for row in group.rows]
        axes.axhline(1.0, color="black", linewidth=0.8)
        axes.axhspan(0.9, 1.1, color="black", alpha=0.06)
        axes.plot(measured, [us / m for us, m in zip(group.emulated, measured)], "o", markersize=3)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_yticks([0.5, 0.7, 1.0, 1.4, 2.0], ["0.5", "0.7", "1", "1.4", "2"])
        axes.minorticks_off()
        axes.set_ylabel("emulated / measured")
        axes.set_xlabel("measured time, us")
        axes.set_title(f"{found.chip}: {group.name}", fontsize=9)
    figure.tight_layout()
    try:
        figure.savefig(path, dpi=150)
    except ValueError as error:
        raise ValueError(f"--plot {path}: {error}") from None
    finally:
        pyplot.close(figure)
