"""``python -m tests.service.serve ROOT``: the service, with folders in place of a cluster."""

import json
import sys
from pathlib import Path

from flautim_lab.service.__main__ import main
from tests.folders import Folders

if __name__ == "__main__":
    import flautim_lab.pods.api

    made = Folders(Path(sys.argv[1]))
    volumes = made.root.with_name("volumes.json")
    if volumes.exists():
        made.data = json.loads(volumes.read_text())
    flautim_lab.pods.api.Api = lambda context=None: made
    sys.exit(main())
