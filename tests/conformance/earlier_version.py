"""An earlier commit of this repository, and its images, built by its own tools.

The serving image is that of the checkout: it contains no code of this repository.
"""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.local_cluster.target import REPOSITORY, dev_cluster

from cluster import install
from cluster.artifacts import buildah, images, registry
from cluster.install import Images

BUILD_SECONDS = 2700
MODES = ("-c", "tar.umask=0022")
"""The modes of files in a checkout, which the build cache compares, too."""


@dataclass(frozen=True, kw_only=True)
class EarlierVersion:
    """The files of a commit, and its images in the registry of the local cluster."""

    folder: Path
    images: Images

    @property
    def chart(self) -> Path:
        """The chart of the commit."""
        return self.folder / install.CHART.relative_to(REPOSITORY)

    @property
    def values(self) -> Path:
        """The chart values of its local cluster."""
        return self.folder / install.VALUES.relative_to(REPOSITORY)


@contextmanager
def built(commit: str, folder: Path) -> Iterator[EarlierVersion]:
    """Build the images of a commit in this repository; remove them after the block."""
    archive = subprocess.run(
        ["git", *MODES, "archive", commit],
        cwd=REPOSITORY,
        check=True,
        stdout=subprocess.PIPE,
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], check=True, input=archive)
    names = (images.OPERATOR.name, images.TRAINER.name)
    operator, trainer = subprocess.run(
        [sys.executable, str(folder / "dev" / "cluster"), "images", *names],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        timeout=BUILD_SECONDS,
    ).stdout.splitlines()[-2:]
    serving = dev_cluster("images", images.VLLM_CPU.name).splitlines()[-1]
    try:
        yield EarlierVersion(
            folder=folder, images=Images(operator=operator, trainer=trainer, serving=serving)
        )
    finally:
        # The layers of its packages stay, because the next run needs them.
        buildah.remove([operator, trainer])
        for image in (operator, trainer):
            registry.remove(image)
