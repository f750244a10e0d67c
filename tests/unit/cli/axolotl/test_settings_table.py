"""Every setting of Axolotl that the importer knows, with its severity.

``UPDATE_GOLDEN=1 pytest tests/unit/cli/axolotl`` writes golden/settings.json: a review of its
differences shows which settings were added, removed or judged differently.
"""

import json
import os
from pathlib import Path

from finetune_cli.axolotl import keys

GOLDEN = Path(__file__).parent / "golden" / "settings.json"


def test_settings_and_severities_are_those_of_the_golden_file() -> None:
    tables = {"exact": keys.EXACT, "prefixes": keys.PREFIXES, "plugins": keys.PLUGINS}
    tables["dataset"] = keys.DATASET
    found = {
        name: {key: severity.name for key, (severity, _) in sorted(table.items())}
        for name, table in tables.items()
    }
    known = {**found, "meaningless": sorted(keys.MEANINGLESS)}
    if os.environ.get("UPDATE_GOLDEN") == "1":
        GOLDEN.write_text(json.dumps(known, indent=1) + "\n")
    assert known == json.loads(GOLDEN.read_text())
