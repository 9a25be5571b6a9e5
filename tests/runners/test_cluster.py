"""``lab.Cluster`` is checked when it is made, and says what a run's objects are made from."""

from __future__ import annotations

import json
import re

import pytest

import flautim_lab as lab
from flautim_lab.experiment.experiment import Experiment
from flautim_lab.names import object_name
from flautim_lab.runners.pod_files import pack, unpack
from tests.federations import Net, experiment, iris_frame


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"workers": 0}, "workers must be a whole number from 1, not 0"),
        ({"workers": {"ufmg": True}}, "workers of 'ufmg' must be a whole number from 1, not True"),
        ({"workers": {}}, "workers names no namespace; give at least one, or a number"),
        ({"namespace": "UFMG"}, "'UFMG' cannot be a namespace; use lower-case letters, digits"),
        ({"cpu": "two"}, "cpu must be a quantity such as '500m' or '2', not 'two'"),
        ({"memory": "1GB"}, "memory must be a quantity such as '512Mi' or '2Gi', not '1GB'"),
        ({"memory": 5}, "memory must be a quantity such as '512Mi' or '2Gi', not 5"),
        ({"gpu": -1}, "gpu must be a whole number from 0, not -1"),
        ({"data": {"ufmg": "d"}}, "the data of 'ufmg' have no worker there; give it one, as in"),
        (
            {"workers": {"ufmg": 1}, "data": {"ufmg": "No/claim"}},
            "the data of 'ufmg' must be the name of a PersistentVolumeClaim, not 'No/claim'",
        ),
        (
            {"fewest_rows": {"ufmg": 0}},
            "fewest_rows of 'ufmg' must be a whole number from 1, not 0",
        ),
        ({"hours": 0}, "hours must be a number above 0 and at most 720, not 0"),
    ],
)
def test_a_wrong_setting_is_one_sentence(settings, sentence):
    with pytest.raises(lab.ExperimentError, match=re.escape(sentence)):
        lab.Cluster(**settings)


def test_a_number_of_workers_is_for_the_servers_namespace_and_no_more_than_clients():
    run_id = "r20261125-202140-net-on-iris-7d1947b4"
    pods = lab.Cluster(workers=8).pods(run_id, 3, "mine")
    assert (pods.namespace, pods.workers, pods.clients) == ("mine", {"mine": 3}, 3)
    assert pods.name == object_name(run_id) == "r20261125-202140-7d1947b4"
    pods = lab.Cluster(workers={"a": 1, "b": 2}, namespace="hub").pods(run_id, 3, "mine")
    assert (pods.namespace, pods.workers) == ("hub", {"a": 1, "b": 2})


def test_rows_that_stay_at_home_need_a_worker_and_a_volume_there():
    sample = iris_frame().groupby("species").head(2)
    homes = lab.HomeDataset(sample, target="species", homes={"ufmg": "iris.csv"})
    sentence = re.escape("the rows of 'ufmg' stay there; give it workers, and say on which volume")
    for cluster in ("cluster", lab.Cluster(workers={"ufmg": 1})):
        with pytest.raises(lab.ExperimentError, match=sentence):
            lab.run(lab.Experiment(homes, Net), on=cluster)
    assert lab.runs() == []


def test_without_a_cluster_nothing_is_recorded(monkeypatch, tmp_path):
    # The client reads KUBECONFIG once, when it is imported.
    location = "kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION"
    monkeypatch.setattr(location, str(tmp_path / "none"))
    with pytest.raises(lab.ClusterError, match="no Kubernetes cluster is configured here"):
        lab.run(experiment(), on="cluster")
    assert lab.runs() == []


def test_an_experiment_travels_with_the_table_it_was_read_from(tmp_path):
    path = tmp_path / "iris.csv"
    iris_frame().to_csv(path, index=False)
    made = experiment(Net, lab.CSVDataset(path, target="species"), clients=3)
    packed = pack(made)
    assert packed == pack(made)
    path.unlink()
    (tmp_path / "parts").mkdir()
    for number, start in enumerate(range(0, len(packed), 1000)):
        part = packed[start : start + 1000]
        (tmp_path / "parts" / f"part-{number:04d}").write_bytes(part)
    folder = unpack(tmp_path / "parts", tmp_path / "unpacked")
    again = Experiment.load(folder)
    assert again.dataset.sha256 == made.dataset.sha256
    assert json.loads(made.to_json())["seed"] == again.seed
    assert unpack(tmp_path / "nowhere", folder) == folder  # it is there: nothing is read


def test_what_is_too_large_is_refused(monkeypatch):
    monkeypatch.setattr("flautim_lab.runners.pod_files.MOST_BYTES", 1000)
    with pytest.raises(lab.ExperimentError, match="can travel into pods; give fewer rows"):
        pack(experiment())
