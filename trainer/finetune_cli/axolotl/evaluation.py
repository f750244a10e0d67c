"""Converts when Axolotl evaluates, saves and stops, and which checkpoint it keeps."""

from typing import Any

from finetune_cli.axolotl.reader import Settings

STOPS = ", once per epoch, at which training can also stop"
"""Addition to the notes about the interval of evaluations, with early stopping."""


def intervals(settings: Settings, *, epochs: float, held_out: bool) -> dict[str, Any]:
    """Return the fields of ``training.advanced``. held_out: whether rows are held out."""
    patience = settings.integer("early_stopping_patience")
    if patience and not held_out:
        settings.dropped("early_stopping_patience", "needs held-out rows: set val_set_size")
    stops = bool(patience) and held_out
    fields = {"saveSteps": _every(settings, "save_steps", "saves_per_epoch")}
    if held_out:
        fields["evalSteps"] = _every(settings, "eval_steps", "evals_per_epoch", stops=stops)
    if stops:
        fields["earlyStoppingPatience"] = patience
    elif held_out and _keeps_best(settings, epochs):
        settings.changed(
            "load_best_model_at_end",
            "Axolotl keeps the checkpoint with the lowest held-out loss unless this is false, but "
            "the job keeps the adapter of the last step. To keep the adapter with the lowest "
            "held-out loss, set training.advanced.earlyStoppingPatience in the job",
        )
    settings.take("eval_steps", "evals_per_epoch", "eval_strategy", "evaluation_strategy")
    settings.take("save_strategy", "save_total_limit", "load_best_model_at_end")
    return {name: value for name, value in fields.items() if value is not None}


def _keeps_best(settings: Settings, epochs: float) -> bool:
    """Report whether Axolotl ends with the best checkpoint: there are several, all evaluated."""
    if settings.flag("load_best_model_at_end") is False:
        return False
    evaluated = _interval(settings, "eval_steps", "evals_per_epoch", epochs)
    saved = _interval(settings, "save_steps", "saves_per_epoch", epochs)
    return bool(evaluated and saved) and saved % evaluated == 0


def _interval(settings: Settings, steps: str, times: str, epochs: float) -> float:
    """Return an interval as Axolotl has it: in steps, or as a fraction of the run; 0 for none."""
    if interval := settings.number(steps):
        return interval
    runs = (settings.number(times) or 0) * epochs
    return 1.0 / runs if runs > 1 else 0.0


def _every(settings: Settings, steps: str, times: str, *, stops: bool = False) -> int | None:
    """Return an interval in steps, None for the default. stops: whether it decides the end."""
    value, number = settings.number(steps), settings.number(times)
    note = settings.changed if stops else settings.equivalent
    if number and value is None and not (stops and number == 1):
        note(
            times,
            "depends on the number of rows, so the job uses the default interval"
            f"{STOPS if stops else ''}: to choose the interval, set {steps}",
        )
    if value is not None and 0 < value < 1:
        note(
            steps,
            "is a fraction of the run, so the job uses the default interval"
            f"{STOPS if stops else ''}: to choose the interval, set a number of steps",
        )
        return None
    return int(value) if value else None
