"""Write the adapter's files for people: loss history, loss plot and model card."""

from dataclasses import replace
from pathlib import Path

from finetune_trainer.reporting import markdown, model_card, plot
from finetune_trainer.reporting.model_card import TrainingReport
from finetune_trainer.volume.volume_errors import is_full_volume


def write(folder: Path, story: TrainingReport) -> list[str]:
    """Write the files and return warnings.

    A plot that cannot be drawn is a warning, because it must not fail a completed training.
    """
    warnings = []
    story.history.save(folder)
    try:
        plot.draw(
            story.history, folder / plot.FILE, title=f"{story.job.name}, {story.job.revision}"
        )
        story = replace(story, plotted=plot.FILE)
    except Exception as error:
        if is_full_volume(error):
            raise
        (folder / plot.FILE).unlink(missing_ok=True)
        warnings.append(f"the loss curve could not be plotted ({type(error).__name__}: {error})")
    (folder / markdown.FILE).write_text(model_card.render(story), encoding="utf-8")
    return warnings
