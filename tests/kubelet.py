"""What executes the points of batches that are made at the mock cluster: processes, as pods."""

from __future__ import annotations

import base64
import contextlib
import datetime
import json
import re
import threading

import kmock
from kubernetes import client as k8s

from tests.runners.rerun.test_on_cluster import Job
from tests.service.test_dispatch import wait_for

POD_LOG = re.compile(r"/api/v1/namespaces/[^/]+/pods/[^/]+/log")
REVIEWS = "post /apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
PHASES = {None: "Running", 0: "Succeeded"}


class Kubelet:
    """Looks at the mock cluster again and again, and does what its Indexed Jobs ask for.

    Parameters
    ----------
    cluster : MockCluster
    root : Path
        Where its pods' mounts and logs are.
    """

    def __init__(self, cluster, root):
        self._cluster, self._root = cluster, root
        self.jobs, self.logs, self.begun = {}, {}, []
        self.read = 0  # logs, by whoever follows
        self._broken = None
        self._over = threading.Event()
        plain = kmock.headers({"Content-Type": "text/plain"})
        cluster.call(lambda handler: handler[POD_LOG] << plain << self._log)
        cluster.call(lambda handler: handler[REVIEWS] << _allow)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def wait_for(self, condition, what):
        """Wait until something is so, unless this broke."""
        wait_for(lambda: self._broken or condition(), what)
        if self._broken:
            raise self._broken

    def there(self):
        """What is at the cluster: (resource, namespace, name)."""
        return self._cluster.call(
            lambda handler: sorted(
                (resource.plural, space or "", name)
                for (resource, space, name), made in handler.objects.items()
                if not made.deleted
            )
        )

    def object(self, resource, space, name):
        """An object as the cluster has it; None where it is none any more."""

        def look(handler):
            key = (kmock.resource(resource), space, name)
            if key not in handler.objects or handler.objects[key].deleted:
                return None
            return json.loads(json.dumps(handler.objects[key].raw))

        return self._cluster.call(look)

    def close(self):
        self._over.set()
        self._thread.join(30)
        for name in list(self.jobs):
            self._end(name)
        if self._broken:
            raise self._broken

    def _run(self):
        while not self._over.wait(0.1):
            try:
                self._look()
            except Exception as error:  # shown by close
                self._broken = error
                return

    def _look(self):
        for resource, space, name in self.there():
            if resource == "jobs" and name not in self.jobs:
                self._begin(space, name)
        for (space, name), job in [(job.place, job) for job in self.jobs.values()]:
            if self.object("v1/configmaps", space, name.removesuffix("-points")) is None:
                self._end(name)  # what its anchor owned goes with it
                continue
            job.look()
            for number, (index, process, log) in enumerate(job.processes):
                self._put_pod(space, name, number, index, process, log)
            self._put_status(space, name, job)

    def _begin(self, space, name):
        told = self.object("batch/v1/jobs", space, name)
        model = k8s.ApiClient().deserialize(json.dumps(told), "V1Job", "application/json")
        parts = []
        for volume in model.spec.template.spec.volumes:
            for source in volume.projected.sources if volume.projected else ():
                held = self.object("v1/configmaps", space, source.config_map.name)
                parts += [base64.b64decode(part) for part in held["binaryData"].values()]
        job = self.jobs[name] = Job(model, parts, self._root / name)
        job.place = (space, name)
        self.begun.append(name)

    def _end(self, name):
        job = self.jobs.pop(name)
        for _, process, _ in job.processes:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            process.wait(30)
        space, _ = job.place
        owned = [("batch/v1/jobs", name)]
        owned += [("v1/pods", f"{name}-{number}") for number in range(len(job.processes))]

        def remove(handler):
            for resource, each in owned:
                with contextlib.suppress(KeyError):
                    del handler.objects[(kmock.resource(resource), space, each)]

        self._cluster.call(remove)

    def _put_pod(self, space, name, number, index, process, log):
        pod = f"{name}-{number}"
        self.logs[pod] = log
        made = datetime.datetime.fromtimestamp(1.8e9 + number, datetime.UTC)
        metadata = {"name": pod, "namespace": space, "creationTimestamp": made.isoformat()}
        metadata["labels"] = {"batch.kubernetes.io/job-completion-index": str(index)}
        phase = PHASES.get(process.poll(), "Failed")
        told = {"metadata": metadata, "spec": {"containers": []}, "status": {"phase": phase}}
        self._put("v1/pods", space, pod, told)

    def _put_status(self, space, name, job):
        told = self.object("batch/v1/jobs", space, name)
        if told is not None:
            status = job.status().status
            told["status"] = {
                "completedIndexes": status.completed_indexes,
                "failedIndexes": status.failed_indexes,
            }
            self._put("batch/v1/jobs", space, name, told)

    def _put(self, resource, space, name, told):
        key = (kmock.resource(resource), space, name)
        self._cluster.call(lambda handler: handler.objects.__setitem__(key, told))

    def _log(self, request):
        pod = str(request.url).rpartition("/pods/")[2].partition("/")[0]
        self.read += 1
        return self.logs[pod].read_bytes()


def _allow(request):
    return request.data | {"status": {"allowed": True}}
