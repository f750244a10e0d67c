"""The loss curve as a PNG. Equal histories give equal bytes."""

from pathlib import Path

from finetune_trainer.reporting.loss_history import LossHistory, Points

FILE = "loss.png"
SMOOTHING = 0.9
GRID = {
    "height_ratios": [4, 1, 1],
    "left": 0.1,
    "right": 0.98,
    "bottom": 0.09,
    "top": 0.94,
    "hspace": 0.2,
}
"""Fixed margins: a layout that matplotlib computes would double the time of the plot."""
INK, PALE, ACCENT = "#1f3a5f", "#b9c7d9", "#d1495b"


def draw(history: LossHistory, path: Path, *, title: str) -> None:
    """Plot training and held-out loss over the steps; learning rate and gradient norm below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8, 5.4), dpi=120)
    FigureCanvasAgg(figure)
    above, middle, below = figure.subplots(3, 1, sharex=True, gridspec_kw=GRID)
    losses = history["loss"]
    many = len(losses) > 20
    if losses:
        style = {"color": PALE if many else INK, "linewidth": 1.0 if many else 1.5}
        above.plot(*zip(*losses, strict=True), label="training", **style)
    if many:
        smooth = _smoothed(losses)
        above.plot(*zip(*smooth, strict=True), color=INK, linewidth=1.8, label="training, smoothed")
    if history["evalLoss"]:
        points = zip(*history["evalLoss"], strict=True)
        above.plot(*points, "o-", color=ACCENT, markersize=4, linewidth=1.2, label="held-out rows")
    above.set_ylabel("loss")
    above.set_title(title, loc="left", fontsize=11)
    if losses:
        above.legend(frameon=False, fontsize=9)
    for axis, name, label in (
        (middle, "learningRate", "learning\nrate"),
        (below, "gradNorm", "gradient\nnorm"),
    ):
        if history[name]:
            axis.plot(*zip(*history[name], strict=True), color=INK, linewidth=1.0)
        axis.set_ylabel(label, fontsize=9)
        axis.ticklabel_format(axis="y", style="sci", scilimits=(-3, 3))
    below.set_xlabel("step")
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axis in (above, middle, below):
        axis.grid(visible=True, color="#e6e6e6", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    # matplotlib's version would make the file differ between versions.
    figure.savefig(path, metadata={"Software": None})


def _smoothed(points: Points) -> Points:
    """Return the exponential moving average with bias correction."""
    mean, weight, smoothed = 0.0, 0.0, []
    for step, value in points:
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        weight = SMOOTHING * weight + (1 - SMOOTHING)
        smoothed.append((step, mean / weight))
    return smoothed
