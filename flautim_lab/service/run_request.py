"""What a user may ask of runs, as the service takes it in: everything else is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from flautim_lab.runners import faults
from flautim_lab.runners.cluster import Cluster

MOST_CLIENTS = 100_000
MOST_ROUNDS = 10**9
MOST_FAULTS = 100  # that are planned before the start: each is a file, and part of a ConfigMap


class Wishes(BaseModel):
    """What a user may choose of where a run goes, as in :class:`Cluster`."""

    model_config = ConfigDict(extra="forbid")

    institution: str | None = None
    workers: int | Mapping[str, int] = Cluster.workers
    cpu: str = Cluster.cpu
    memory: str = Cluster.memory
    gpu: int = Cluster.gpu
    server_cpu: str = Cluster.server_cpu
    server_memory: str = Cluster.server_memory
    storage: str = Cluster.storage
    hours: float = Cluster.hours
    project: str | None = Cluster.project


class Strike(BaseModel):
    """A fault that is asked for, see ``runners/faults.py``; one with a time is struck now."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(pattern="^[0-9a-f]{32}$")
    action: Literal["kill"]
    targets: list[Annotated[str, Field(max_length=20)]] = Field(min_length=1, max_length=1000)
    seconds: float = Field(default=0.0, allow_inf_nan=False)
    round: int = Field(ge=0, le=MOST_ROUNDS)
    moment: str = Field(default="training", max_length=20)
    time: float = Field(default=0.0, allow_inf_nan=False)

    def fault(self) -> faults.Fault:
        """Return it as the runners have it."""
        return faults.from_dict(self.model_dump())


class Request(BaseModel):
    """One run that is asked for.

    ``archive`` is the experiment in base64 (``runners/pod_files.py``). The service reads what is in
    it and hands it to the pods; code of users runs in their pods alone.
    """

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=200)
    rounds: int = Field(ge=1, le=MOST_ROUNDS)
    clients: int = Field(ge=1, le=MOST_CLIENTS)
    settings: dict[str, Any]
    plan: dict[str, Any]
    cluster: Wishes
    archive: str
    faults: list[Strike] = Field(default=[], max_length=MOST_FAULTS)


class Scaling(BaseModel):
    """How many workers a run is to have: in all, or of each institution that is named."""

    model_config = ConfigDict(extra="forbid")

    workers: StrictInt | dict[str, StrictInt]
