"""``make docs``: build the documentation site with MkDocs, in a separate environment.

The environment is in the cache, because nothing else needs its packages. In strict mode, every dead
link is an error.
"""

from __future__ import annotations

from checks import environment
from cluster import paths
from cluster.phases import phase, say
from cluster.shell import logged

CONSTRAINTS = paths.REPO / "constraints" / "docs.txt"
FOLDER = paths.CACHE / "docs"
SITE = paths.REPO / "build" / "site"
LOG = paths.CACHE / "tests" / "docs.log"


def build() -> int:
    """Build the site below ``build/site``. Raises ClusterError if a link is dead."""
    environment.create(FOLDER, [CONSTRAINTS], LOG, title="install the documentation tools")
    mkdocs = FOLDER / "bin" / "mkdocs"
    with phase("build the documentation site"):
        words = [str(mkdocs), "build", "--strict", "--config-file", str(paths.REPO / "mkdocs.yml")]
        logged([*words, "--site-dir", str(SITE)], LOG)
    say(f"    {SITE.relative_to(paths.REPO)}/index.html")
    return 0
