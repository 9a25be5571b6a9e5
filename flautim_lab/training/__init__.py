"""HOW a run learns: the sole importer of Flower."""

import os

# Flower reports its usage to its makers unless told not to, and reads this when it is imported.
# An institution's workbench reports nothing by default; set it to 1 to allow it.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
