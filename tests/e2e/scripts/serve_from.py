"""Inside a pod that may write the volume: puts a planted folder where a build is served from.

Arguments: the build, the planted folder's name. What lay there before goes.
"""

import json
import shutil
import sys
from pathlib import Path

build, planted = sys.argv[1:]
target = Path(f"/work/merged-{build}")
shutil.rmtree(target, ignore_errors=True)
Path(f"/work/planted/{planted}").rename(target)
print("RESULT " + json.dumps(planted))
