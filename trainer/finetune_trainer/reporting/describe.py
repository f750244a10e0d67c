"""Beside an adapter, for people: its loss curve, in numbers and drawn, and a model card."""

from dataclasses import replace
from pathlib import Path

from finetune_trainer.reporting import model_card, plot
from finetune_trainer.reporting.model_card import Story
from finetune_trainer.runtime.volume_errors import is_full_volume


def write(folder: Path, story: Story) -> list[str]:
    """Write the files; return warnings. A picture that cannot be drawn must not cost a training."""
    warnings = []
    story.curves.save(folder)
    try:
        plot.draw(story.curves, folder / plot.FILE, title=f"{story.job.name}, {story.job.revision}")
        story = replace(story, plotted=plot.FILE)
    except Exception as error:
        if is_full_volume(error):
            raise
        (folder / plot.FILE).unlink(missing_ok=True)
        warnings.append(f"the loss curve could not be drawn ({type(error).__name__}: {error})")
    (folder / model_card.FILE).write_text(model_card.render(story), encoding="utf-8")
    return warnings
