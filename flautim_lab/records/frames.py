"""The records as tables: metrics, resources and faults of a run. Loads pandas when called."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from flautim_lab.records.event import ALL_CLIENTS
from flautim_lab.records.faults import Fault

if TYPE_CHECKING:
    import pandas as pd


def metrics_frame(rows: Sequence[Any]) -> pd.DataFrame:
    """Return rows of (round, split, metric, client, value) as a tidy table."""
    import numpy as np
    import pandas as pd

    # Column by column: 100 000 lines take a fraction of a second.
    rounds, splits, metrics, clients, values = zip(*rows, strict=True) if rows else ((),) * 5
    return pd.DataFrame(
        {
            "round": np.array(rounds, dtype=np.int64),
            "client": _clients(clients),
            "split": pd.Series(splits, dtype="str"),
            "metric": pd.Series(metrics, dtype="str"),
            "value": np.array(values, dtype=np.float64),  # what has no value becomes NaN
        }
    )


def resources_frame(rows: Sequence[Any]) -> pd.DataFrame:
    """Return rows of (round, process, client, resource, value) as a tidy table.

    Of those that are there twice, from a round that was done again, the first is kept.
    """
    import numpy as np
    import pandas as pd

    rounds, processes, clients, names, values = zip(*rows, strict=True) if rows else ((),) * 5
    frame = pd.DataFrame(
        {
            "round": np.array(rounds, dtype=np.int64),
            "process": pd.Series(processes, dtype="str"),
            "client": _clients(clients),
            "resource": pd.Series(names, dtype="str"),
            "value": np.array(values, dtype=np.float64),
        }
    )
    keys = ["round", "process", "client", "resource"]
    return frame.drop_duplicates(keys).sort_values(keys, ignore_index=True, na_position="first")


def faults_frame(faults: Iterable[Fault], started: float) -> pd.DataFrame:
    """Return faults as a table, their times in seconds since the run started."""
    import numpy as np
    import pandas as pd

    known = list(faults)
    return pd.DataFrame(
        {
            "time": np.array([fault.time - started for fault in known], dtype=np.float64),
            "round": np.array([fault.round for fault in known], dtype=np.int64),
            "target": pd.Series([fault.target for fault in known], dtype="str"),
            "what": pd.Series([fault.what for fault in known], dtype="str"),
            "recovery_seconds": np.array(
                [fault.recovery_seconds for fault in known], dtype=np.float64
            ),  # None becomes NaN: not back yet
        }
    )


def _clients(numbers: Sequence[int]) -> Any:
    import numpy as np
    import pandas as pd

    array = np.array(numbers, dtype=np.int64)
    return pd.arrays.IntegerArray(array, array == ALL_CLIENTS)
