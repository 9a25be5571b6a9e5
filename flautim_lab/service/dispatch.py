"""From a request to pods: what the ``cluster`` runner does for one researcher, for all of a hub."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import threading
from collections.abc import Sequence

from flautim_lab.errors import ClusterError, ExperimentError, FlautimError, RunNotFoundError
from flautim_lab.names import RUN_ID, count, object_name
from flautim_lab.pods.api import Unreachable
from flautim_lab.records.event import RunStatus
from flautim_lab.records.removal import remove_run, sweep
from flautim_lab.records.store import Records, RunRecord
from flautim_lab.runners import faults
from flautim_lab.runners.cluster import Cluster, ClusterRun
from flautim_lab.runners.cluster_chaos import ClusterChaos
from flautim_lab.runners.cluster_watch import ClusterWatch
from flautim_lab.runners.pod_files import Packed, read_packed
from flautim_lab.runners.run import Run
from flautim_lab.runners.scale import scale
from flautim_lab.service.catalogs import Catalogs
from flautim_lab.service.hub import Caller
from flautim_lab.service.membership import check_member, home_of
from flautim_lab.service.owners import Owners
from flautim_lab.service.run_request import Request, Strike, Wishes
from flautim_lab.service.settings import Settings
from flautim_lab.service.tables import checked_tables
from flautim_lab.service.turns import Turns

AGAIN_SECONDS = 5.0  # until a watch that broke is begun again
MOST_DETAILS = 2**20  # characters of settings and plan as JSON, which every list of runs reads
MOST_UNDER_WAY = 20  # runs of one user
ARCHIVE_START = b"\x1f\x8b"  # gzip's


_log = logging.getLogger(__name__)


class Dispatch:
    """Starts runs, and follows each until it has ended, in a thread of its own.

    Parameters
    ----------
    records : Records
        Those of all runs of the hub.
    settings : Settings
    catalogs : Catalogs
        Which say who granted what to whom.
    """

    def __init__(self, records: Records, settings: Settings, catalogs: Catalogs) -> None:
        self._records = records
        self._settings = settings
        self._catalogs = catalogs
        self._following: dict[str, threading.Thread] = {}
        self._starting: set[str] = set()
        self._watches: dict[str, ClusterWatch] = {}
        self._turns = Turns()
        self._closed = threading.Event()

    def go_on(self) -> list[str]:
        """Follow all runs that had not ended when the last service did; returns their ids.

        Those too that had ended, but of which keys are still here: their pods may still be there.
        """
        sweep()
        unfinished = [
            record.id
            for record in self._records.runs()
            if not record.status.over or self.is_left(record.id)
        ]
        for run_id in unfinished:
            self._follow(run_id)
        owners = Owners(self._records, self._catalogs, self._settings.stop_seconds, self)
        obey = threading.Thread(
            target=owners.obey, args=(self._closed,), name="obey owners", daemon=True
        )
        obey.start()
        return unfinished

    def close(self) -> None:
        """Begin nothing any more; what is under way goes on in the pods."""
        self._closed.set()

    def following(self) -> list[str]:
        """Return the ids of the runs that are followed now, or soon."""
        return [*self._following, *self._starting]

    def end(self, run_id: str, message: str) -> None:
        """Remove the pods of a run that is followed, whatever its server does."""
        if (watch := self._watches.get(run_id)) is not None:
            watch.end(message)

    def start(self, run_id: str, caller: Caller, asked: Request, archive: bytes) -> RunRecord:
        """Make a run's pods, and follow it; asked again, it returns the run that is there.

        Raises
        ------
        ExperimentError
            For what cannot be run.
        ClusterError
            If the user is not of that institution, or the cluster refuses.
        """
        if not RUN_ID.fullmatch(run_id):
            raise ExperimentError(
                f"{run_id!r} is no run id, such as r20261125-202140-iris-7d1947b4"
            )
        if not archive.startswith(ARCHIVE_START):
            raise ExperimentError("the archive is no compressed experiment")
        if len(json.dumps([asked.settings, asked.plan])) > MOST_DETAILS:
            raise ExperimentError(
                f"the settings and plan are longer than {MOST_DETAILS} characters; use fewer "
                "clients, or shorter names"
            )
        packed = read_packed(archive)
        institution, cluster = self._cluster(caller, asked.cluster, list(packed.homes))
        with self._turns.of(f"user {caller.name}", f"run {object_name(run_id)}"):
            known = self._known(run_id, caller)
            if known is not None:
                return known
            self._check_under_way(caller)
            run = ClusterRun(self._records.folder(run_id))
            self._starting.add(run_id)
            try:
                self._note(run, run_id, caller, asked, packed, archive, institution, cluster)
            finally:
                self._starting.discard(run_id)
        try:
            run.make(run.api())
        except Unreachable:
            pass  # what is there of it is known to the watch alone, which makes the rest
        except ClusterError as error:
            self._records.set_status(run_id, RunStatus.FAILED, message=str(error))
            raise
        finally:
            self._follow(run_id)  # one that has failed too: it removes what was made
        return self._records.run(run_id)

    def _note(
        self,
        run: ClusterRun,
        run_id: str,
        caller: Caller,
        asked: Request,
        packed: Packed,
        archive: bytes,
        institution: str,
        cluster: Cluster,
    ) -> None:
        """Write down what is to be made: for data's owners first, then for the watch, then the run.

        Raises
        ------
        FlautimError
            If it may not be made, or not be written; nothing of it is left then but its id, where
            data's owners were told of it.
        """
        if packed.homes:
            self._admit(run_id, caller, asked.cluster.project, packed)
        spaces = self._settings.institutions
        try:
            tables = self._tables(run_id, packed)
            homes = {spaces[each]: (each, tables[each]) for each in packed.homes}
            run.prepare(run_id, archive, asked.clients, cluster, homes)
            for strike in asked.faults:
                faults.plan(run.folder, strike.fault())
            self._records.create_run(
                run_id,
                name=asked.name,
                runner="cluster",
                rounds=asked.rounds,
                clients=asked.clients,
                settings=asked.settings | {"owner": caller.name, "institution": institution},
                plan=asked.plan,
                detached=True,
            )
        except BaseException:  # keys are in it, and no record tells of them
            shutil.rmtree(run.folder.run_folder, ignore_errors=True)
            with contextlib.suppress(FlautimError):  # else it is noted later: owners.py
                self._catalogs.end_run(run_id, caller.name)
            raise

    def strike(self, run_id: str, asked: Strike) -> None:
        """Strike a run's pods, now or when a round comes.

        Raises
        ------
        ExperimentError
            For what cannot be struck.
        ClusterError
            If the run's server cannot be reached, or has ended.
        """
        run = Run(self._records, run_id)
        if run.status.ended:
            raise ClusterError(f"run {run_id} has {run.status}; there is nothing to strike")
        ClusterChaos(run).strike(asked.fault())

    def remove(self, run_id: str) -> None:
        """Remove a run that is over, its records and its artifacts.

        Raises
        ------
        ClusterError
            If it is under way, or its pods are being removed.
        """
        with self._turns.of(f"run {object_name(run_id)}"):
            status = self._records.run(run_id).status
            if not status.over:
                raise ClusterError(
                    f"run {run_id} is {status}; stop it first, and remove it when it has ended"
                )
            if run_id in self._following or self.is_left(run_id):
                raise ClusterError(
                    f"the pods of run {run_id} are being removed; try again in a moment"
                )
            remove_run(self._records, run_id)

    def is_left(self, run_id: str) -> bool:
        """Whether keys of a run are here, and so maybe pods there."""
        return ClusterRun(self._records.folder(run_id)).folder.has_leftovers()

    def _check_under_way(self, caller: Caller) -> None:
        """Refuse one run too many of a user: each takes threads here, and objects there.

        Raises
        ------
        ClusterError
        """
        mine = [
            record
            for record in self._records.runs()
            if record.settings.get("owner") == caller.name and not record.status.over
        ]
        if len(mine) >= MOST_UNDER_WAY:
            raise ClusterError(
                f"{caller.name} has {count(len(mine), 'run')} under way, and no more are let in; "
                "wait for one to end, or stop it"
            )

    def scale(self, record: RunRecord, caller: Caller, workers: int | dict[str, int]) -> str:
        """Change how many workers a run has; returns what was done.

        Raises
        ------
        ExperimentError
            For a number that cannot be, or a run that has ended.
        ClusterError
            If the user is not of an institution that is named, or the cluster refuses.
        """
        if isinstance(workers, dict):
            check_member(caller, workers)
            workers = {caller.institutions[each]: number for each, number in workers.items()}
        with self._turns.of(f"run {object_name(record.id)}"):
            return scale(record, self._records.folder(record.id), workers)

    def _known(self, run_id: str, caller: Caller) -> RunRecord | None:
        """Return the caller's own run of that id, if there is one.

        Raises
        ------
        ClusterError
            If the id, or the name of its objects, is somebody else's.
        """
        with contextlib.suppress(RunNotFoundError):
            record = self._records.run(run_id)
            if record.settings.get("owner") == caller.name:
                return record
            raise ClusterError(f"the run id {run_id} is taken; run the experiment again")
        if any(object_name(record.id) == object_name(run_id) for record in self._records.runs()):
            raise ClusterError(f"the run id {run_id} is taken; run the experiment again")
        return None

    def _admit(self, run_id: str, caller: Caller, project: str | None, packed: Packed) -> None:
        """Let a run read the tables that its experiment names, if all of them are granted.

        Raises
        ------
        ExperimentError
            If no project is named, or an institution has no volume with data.
        CatalogError
            If something is not granted.
        """
        if project is None:
            raise ExperimentError(
                "the experiment's rows stay with institutions, who grant them to a project; name it"
            )
        for home in packed.homes:
            if home not in self._settings.data:
                raise ExperimentError(
                    f"institution {home} has no volume with data; ask who runs the hub for one"
                )
        self._catalogs(caller).admit_run(
            run_id, project, packed.homes, packed.code.hash, packed.target
        )

    def _tables(self, run_id: str, packed: Packed) -> dict[str, dict[str, str]]:
        """Return the path of each home's table and its hash, if the sample is alike.

        Raises
        ------
        ExperimentError
        """
        if not packed.homes:
            return {}
        hashes = checked_tables(packed, self._catalogs.own().read_by(run_id))
        return {home: {path: hashes[home]} for home, path in packed.homes.items()}

    def _cluster(self, caller: Caller, wishes: Wishes, homes: Sequence[str]) -> tuple[str, Cluster]:
        """Return the institution of the server, and where the pods go.

        Parameters
        ----------
        caller : Caller
        wishes : Wishes
        homes : sequence of str
            Institutions with rows of the experiment: workers may be there, of others' too.

        Raises
        ------
        ClusterError
            If the user is not of an institution that is named, or of none.
        """
        workers = wishes.workers
        spaces = self._settings.institutions
        unknown = [home for home in homes if home not in spaces]
        if unknown:
            raise ClusterError(f"there is no institution {unknown[0]!r} in this hub")
        named = list(workers) if isinstance(workers, dict) else []
        own = [each for each in named if each not in homes]
        institution = home_of(caller, wishes.institution, own)
        if isinstance(workers, dict):
            workers = {spaces[each]: number for each, number in workers.items()}
        data = {spaces[home]: self._settings.data.get(home, "") for home in homes}
        fewest = self._settings.fewest_rows
        chosen = wishes.model_dump(exclude={"institution", "workers", "project"})
        return institution, Cluster(
            workers=workers,
            namespace=spaces[institution],
            image=self._settings.image,
            data={space: claim for space, claim in data.items() if claim},
            fewest_rows={spaces[home]: fewest[home] for home in homes if home in fewest},
            **chosen,
        )

    def _follow(self, run_id: str) -> None:
        running = self._following.get(run_id)
        if running is not None and running.is_alive():
            return
        name = f"follow {run_id}"
        thread = threading.Thread(
            target=self._keep_following, args=(run_id,), name=name, daemon=True
        )
        self._following[run_id] = thread
        thread.start()

    def _keep_following(self, run_id: str) -> None:
        """Follow a run to its end; what breaks on the way is begun again."""
        run = ClusterRun(self._records.folder(run_id))
        while not self._closed.is_set():
            try:
                with run.folder.watching() as mine:
                    if mine:
                        watch = self._watches[run_id] = ClusterWatch(run)
                        watch.run()
                        break
            except FileNotFoundError:  # what it was made from is gone: nothing can be followed
                lost = "the service lost what it was made from"
                self.say(run_id, lost, RunStatus.FAILED)
                run.clean()
                break
            except Exception as error:  # noqa: BLE001
                # Whatever it is (a full disk, an answer of a pod that is no answer): a run that
                # nobody follows would leave its pods behind, and could not be stopped.
                if not isinstance(error, FlautimError):
                    _log.exception("following %s broke", run_id)
                self.say(run_id, str(error))
            self._closed.wait(AGAIN_SECONDS)
        # Before anybody can remove the run: then nothing would tell whose it was.
        with contextlib.suppress(FlautimError):
            record = self._records.run(run_id)
            if record.status.over:
                self._catalogs.end_run(run_id, str(record.settings.get("owner")))
        self._watches.pop(run_id, None)
        self._following.pop(run_id, None)

    def say(self, run_id: str, message: str, status: RunStatus | None = None) -> None:
        """Tell the owner of a run what broke, unless the run has ended."""
        with contextlib.suppress(FlautimError):
            record = self._records.run(run_id)
            if not record.status.over:
                self._records.set_status(run_id, status or record.status, message=message)
