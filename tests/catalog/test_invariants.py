"""What holds of a catalog whatever is done to it, and in whatever order."""

import itertools
import shutil
import threading

import hypothesis.strategies as some
from hypothesis import given, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from flautim_lab.catalog.cnpj import check_cnpj, formatted
from flautim_lab.catalog.local import Actor, LocalCatalog
from flautim_lab.catalog.refs import fold, make_key, read_ref
from flautim_lab.catalog.schema import CatalogDatabase
from flautim_lab.errors import CatalogError, InUseError, NotFoundError
from tests.catalog.conftest import COLUMNS, Clock, run_id


@given(some.text(min_size=1, max_size=60))
def test_a_key_that_is_made_can_be_read(name):
    if any(c.isalnum() for c in name):
        key = make_key(name)
        assert read_ref(key, 1).keys == (key,)
        assert len(key) <= 40


@given(some.text(max_size=30))
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


@given(some.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=12, max_size=12))
def test_one_pair_of_digits_makes_a_number_a_cnpj(start):
    right = []
    for end in range(100):
        try:
            right.append(check_cnpj(f"{start}{end:02}"))
        except CatalogError:
            continue
    assert len(right) == (0 if len(set(start)) == 1 and start[0] == "0" else 1)
    for number in right:
        assert check_cnpj(formatted(number)) == number
        assert check_cnpj(formatted(number).lower()) == number


class Work(RuleBasedStateMachine):
    """Models, datasets, experiments and runs of one project, saved, run and removed at will."""

    models = Bundle("models")
    experiments = Bundle("experiments")

    file = None  # gives the path of a new file

    def __init__(self):
        super().__init__()
        self.database = CatalogDatabase(f"sqlite:///{self.file()}", 5.0)
        self.catalog = LocalCatalog(self.database, Actor("ana", alone=True), Clock())
        self.ran = {}  # what each run was made with
        self.sources = {}  # of each version of a model

    @initialize()
    def begin(self):
        self.catalog.add_institution("Local", key="local")
        self.catalog.add_project("local", "Vision")
        self.register(rows=1)

    @rule(rows=some.integers(1, 3))
    def register(self, rows):
        self.catalog.add_dataset_version(
            "local", "Data", columns=COLUMNS, target="energy", rows=rows, path="a.csv"
        )

    @rule(target=models, name=some.sampled_from(["A", "B"]), source=some.sampled_from("xyz"))
    def save_model(self, name, source):
        made = self.catalog.save_model("local/vision", name, source=source, class_name="Net")
        self.sources[made.ref] = source
        return made.ref

    @rule(
        target=experiments,
        name=some.sampled_from(["one", "two"]),
        model=models,
        rounds=some.integers(1, 2),
    )
    def save_experiment(self, name, model, rounds):
        try:
            made = self.catalog.save_experiment(
                "local/vision",
                name,
                model=model,
                dataset="local/data",
                settings={"rounds": rounds},
            )
        except NotFoundError:  # the model, or the dataset, was removed
            return multiple()
        assert made.model == model
        return made.ref

    @rule(experiment=experiments, number=some.integers(1, 5))
    def run(self, experiment, number):
        try:
            link = self.catalog.add_run(run_id(number), experiment)
        except (NotFoundError, CatalogError):
            return
        known = self.ran.setdefault(link.run_id, link)
        assert known == link

    @rule(ref=models)
    def remove_model(self, ref):
        bare = ref.partition("@")[0]
        try:
            self.catalog.remove_model(bare)
        except (NotFoundError, InUseError):
            return
        self.sources = {k: v for k, v in self.sources.items() if k.partition("@")[0] != bare}

    @rule(ref=experiments)
    def remove_experiment(self, ref):
        try:
            self.catalog.remove_experiment(ref.partition("@")[0])
        except (NotFoundError, InUseError):
            return

    @rule(number=some.integers(1, 3))
    def remove_dataset(self, number):
        try:
            self.catalog.remove_dataset(f"local/data@{number}")
        except (NotFoundError, InUseError):
            return

    @rule(archived=some.booleans())
    def archive(self, archived):
        self.catalog.change_project("local/vision", archived=archived)

    @invariant()
    def what_a_run_used_is_there_as_it_was(self):
        for link in self.ran.values():
            assert self.catalog.run(link.run_id) == link
            experiment = self.catalog.experiment(link.experiment)
            assert (experiment.model, experiment.dataset) == (link.model, link.dataset)
            assert self.catalog.model(link.model).source == self.sources[link.model]
            assert self.catalog.dataset(link.dataset).latest.used

    @invariant()
    def counts_are_what_is_there(self):
        try:
            project = self.catalog.project("local/vision")
        except NotFoundError:
            return  # not begun
        assert project.runs == len(self.ran) == self.catalog.runs("local/vision").total
        assert project.models == self.catalog.models("local/vision").total
        assert project.experiments == self.catalog.experiments("local/vision").total

    def teardown(self):
        self.database.close()


def test_nothing_that_a_run_used_is_lost(tmp_path, made_once):
    numbers = itertools.count()

    def file():
        return shutil.copy(made_once, tmp_path / f"{next(numbers)}.db")

    class Here(Work):
        pass

    Here.file = staticmethod(file)
    few = settings(max_examples=15, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Here, settings=few)


def test_numbers_are_given_once_when_many_save_at_once(people):
    made, threads = [], []

    def save(number):
        version = people.ana.save_model(
            "ufmg/vision", "Net", source=f"# {number}\nclass Net: pass", class_name="Net"
        )
        made.append(version.number)

    for number in range(12):
        threads.append(threading.Thread(target=save, args=(number,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert sorted(made) == list(range(2, 14))
