"""CSVDataset: what it infers, what it refuses and how it says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flautim_lab.errors import DatasetError, ExperimentError
from flautim_lab.experiment.csv_dataset import CSVDataset

FLOWERS = "length,width,colour,species\n1,0.5,red,rose\n2,0.25,white,lily\n3,1e3,red,rose\n"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_file(name: str, text: str, encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        path.write_bytes(text.encode(encoding))
        return path

    return write_file


def refusal(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(DatasetError) as caught:
        CSVDataset(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def again(dataset: CSVDataset, path: Path) -> CSVDataset:
    values = dataset.settings()
    for key in ("path", "sha256", "rows"):
        values.pop(key)
    return CSVDataset(path, **values)


# --- what it gives ------------------------------------------------------------------------------


def test_numbers_text_and_classes(write: Any) -> None:
    dataset = CSVDataset(write("flowers.csv", FLOWERS), target="species")
    assert dataset.feature_names == ("length", "width", "colour=red", "colour=white")
    assert dataset.features.tolist() == [[1, 0.5, 1, 0], [2, 0.25, 0, 1], [3, 1000, 1, 0]]
    assert dataset.features.dtype == torch.float32
    assert dataset.numeric.tolist() == [True, True, False, False]
    assert dataset.classes == ("lily", "rose")
    assert dataset.targets.tolist() == [1, 0, 1]
    assert dataset.targets.dtype == torch.int64
    assert dataset.task == "classification"
    assert dataset.dropped == 0
    assert len(dataset) == 3
    x, y = dataset[1]
    assert x.tolist() == [2, 0.25, 0, 1]
    assert y == 0
    assert repr(dataset) == (
        "CSVDataset 'flowers': 3 rows, 4 features, target 'species' (classification, 2 classes)"
    )


def test_features_are_raw_whatever_standardize_says(write: Any) -> None:
    path = write("flowers.csv", FLOWERS)
    for standardize in ("federated", "client", None):
        dataset = CSVDataset(path, target="species", standardize=standardize)
        assert dataset.standardize == standardize
        assert dataset.features[:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["b", "a", "b"], "classification", ("a", "b")),
        ([True, False, True], "classification", ("False", "True")),
        ([10, 9, 9, 10], "classification", ("9", "10")),
        ([1, 2, 3, 4], "regression", None),  # each value once: a measure
        ([*range(20)] * 2, "classification", tuple(str(i) for i in range(20))),
        ([*range(21)] * 9, "regression", None),
        ([0.0, 1.0, 0.0, 1.0], "regression", None),
        ([1.5, 2.5, 1.5], "regression", None),
    ],
)
def test_the_task_is_inferred(values: list[Any], task: str, classes: Any) -> None:
    frame = pd.DataFrame({"x": np.arange(len(values)) / 3, "y": values})
    dataset = CSVDataset(frame, target="y")
    assert (dataset.task, dataset.classes) == (task, classes)
    assert dataset.targets.dtype == (torch.int64 if classes else torch.float32)


def test_the_task_can_be_told() -> None:
    frame = pd.DataFrame({"x": [1, 2, 3, 4], "y": [7, 8, 7, 8], "z": [0.0, 1.0, 0.0, 0.5]})
    regression = CSVDataset(frame, target="y", task="regression")
    assert regression.targets.tolist() == [7.0, 8.0, 7.0, 8.0]
    assert regression.classes is None
    classification = CSVDataset(frame, target="z", task="classification")
    assert classification.classes == ("0", "0.5", "1")
    assert classification.targets.tolist() == [0, 2, 0, 1]


def test_true_and_false_and_categories_become_one_hot() -> None:
    frame = pd.DataFrame(
        {
            "on": [True, False, True],
            "kind": pd.Categorical(["z", "a", "z"], categories=["z", "unused", "a"]),
            "y": ["p", "q", "p"],
        }
    )
    dataset = CSVDataset(frame, target="y")
    assert dataset.feature_names == ("on=False", "on=True", "kind=a", "kind=z")
    assert dataset.features.tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


def test_a_constant_column_is_fine() -> None:
    frame = pd.DataFrame({"x": [1, 1, 1], "c": ["k", "k", "k"], "y": ["a", "b", "a"]})
    assert CSVDataset(frame, target="y").features.tolist() == [[1, 1]] * 3


def test_ignored_columns_stay_for_partitions(write: Any) -> None:
    path = write("flowers.csv", FLOWERS)
    dataset = CSVDataset(path, target="species", ignore=["colour", "width"], name="Flores, já")
    assert dataset.feature_names == ("length",)
    assert dataset.column("colour").tolist() == ["red", "white", "red"]
    assert dataset.column("species").tolist() == ["rose", "lily", "rose"]
    assert dataset.name == "Flores, já"
    with pytest.raises(DatasetError) as caught:
        dataset.column("color")
    assert str(caught.value) == (
        "no column named 'color'; did you mean 'colour'? "
        "choose one of: length, width, colour, species"
    )


def test_the_frame_that_was_given_is_not_touched() -> None:
    frame = pd.DataFrame({"x": [1.0, np.nan, 3.0], "y": [" a", "b", "c "]}, index=[5, 6, 7])
    before = frame.copy(deep=True)
    dataset = CSVDataset(frame, target="y", missing="drop")
    pd.testing.assert_frame_equal(frame, before)
    frame.loc[5, "x"] = 99
    assert dataset.column("x").tolist() == [1.0, 3.0]
    assert dataset.column("y").tolist() == ["a", "c"]


# --- files as they are ----------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_a_brazilian_file(write: Any, encoding: str) -> None:
    text = (
        "preço;município;população;aprovado\n"
        "1.234,50;São Paulo;12.345.678;não\n950,00;Olinda;390.771;sim\n12,5;São Paulo;950;sim\n"
    )
    dataset = CSVDataset(write("preços.csv", text, encoding), target="aprovado")
    assert dataset.name == "preços"
    assert dataset.feature_names == (
        "preço",
        "município=Olinda",
        "município=São Paulo",
        "população",
    )
    assert dataset.features[:, 0].tolist() == [1234.5, 950, 12.5]
    assert dataset.features[:, 3].tolist() == [12345678, 390771, 950]
    assert dataset.classes == ("não", "sim")


def test_decimal_points_in_a_file_with_semicolons(write: Any) -> None:
    dataset = CSVDataset(write("a.csv", "x;y\n1.234;a\n2.5;b\n"), target="y")
    assert dataset.column("x").tolist() == [1.234, 2.5]
    # Beside decimal commas, 0.5 is a decimal point and 1.500 a thousand and a half.
    text = "x;p;q;y\n1,25;0.5;1.500;a\n2,5;0.25;20.000;b\n"
    dataset = CSVDataset(write("b.csv", text), target="y")
    assert dataset.features.tolist() == [[1.25, 0.5, 1500], [2.5, 0.25, 20000]]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separators_and_quotes(write: Any, separator: str) -> None:
    lines = [["a", "b; c", "y"], ["1", "x, y", "s"], ["2", "z\t|", "t"]]
    text = "\n".join(separator.join(f'"{field}"' for field in line) for line in lines)
    dataset = CSVDataset(write("a.csv", text), target="y")
    assert dataset.feature_names == ("a", "b; c=x, y", "b; c=z\t|")


def test_names_are_compared_composed_and_stripped(write: Any) -> None:
    decomposed = "e\u0301poca"  # as some systems write época
    path = write("a.csv", f"x, {decomposed}\n1,a\n2,b\n")
    assert CSVDataset(path, target="\u00e9poca").target == "\u00e9poca"


def test_a_number_as_a_name_of_a_column() -> None:
    frame = pd.DataFrame([[1.5, 0], [2.5, 1], [3.5, 0], [4.5, 1]])
    dataset = CSVDataset(frame, target=1)  # type: ignore[arg-type]
    assert (dataset.target, dataset.feature_names) == ("1", ("0",))


# --- missing values -------------------------------------------------------------------------------

GAPS = 'a,b,y\n1,"two\nlines",s\n\n2,,t\n,k,t\n4,k,t\n'


def test_missing_values_are_refused_by_name_and_line(write: Any) -> None:
    assert refusal(write("gaps.csv", GAPS), target="y") == (
        "gaps.csv has missing values in 'a' (1 row, first in line 6), 'b' (1 row, first in line "
        "5); fill them in, or say missing='drop' or missing='mean'"
    )
    frame = pd.DataFrame({"a": [1, None, None], "y": ["s", "t", "s"]})
    assert refusal(frame, target="y") == (
        "the frame has missing values in 'a' (2 rows, first in row 1 counted from 0); fill them "
        "in, or say missing='drop' or missing='mean'"
    )


def test_missing_values_are_dropped_and_counted(write: Any) -> None:
    dataset = CSVDataset(write("gaps.csv", GAPS), target="y", missing="drop")
    assert dataset.dropped == 2
    assert dataset.feature_names == ("a", "b=k", "b=two\nlines")
    assert dataset.features.tolist() == [[1, 0, 1], [4, 1, 0]]
    assert dataset.column("a").tolist() == [1, 4]


def test_missing_values_are_kept_for_the_mean(write: Any) -> None:
    dataset = CSVDataset(write("gaps.csv", GAPS), target="y", missing="mean")
    assert dataset.dropped == 0
    expected = [[1, 0, 1], [2, 0, 0], [float("nan"), 1, 0], [4, 1, 0]]
    torch.testing.assert_close(dataset.features, torch.tensor(expected), equal_nan=True)


def test_a_missing_target(write: Any) -> None:
    path = write("gaps.csv", "a,y\n1,2\n\n2,\n3,3\n3,3\n4,2\n")
    message = (
        "the target 'y' of gaps.csv is missing in 1 row, first in line 4; fill it in, or leave "
        "such rows out with missing='drop'"
    )
    assert refusal(path, target="y") == message
    assert refusal(path, target="y", missing="mean") == message
    dataset = CSVDataset(path, target="y", missing="drop")
    # pandas reads whole numbers with a gap as floats: they are classes all the same.
    assert (dataset.task, dataset.classes) == ("classification", ("2", "3"))


def test_lines_are_those_of_the_file_after_a_drop(write: Any) -> None:
    path = write("a.csv", "a,y\n1,2.5\n,3.5\n3,1.5\ninf,3.5\n")
    assert refusal(path, target="y", missing="drop") == (
        "'a' of a.csv is infinite or beyond 3.4e38 in 1 row, first in line 5; correct the value"
    )


def test_gaps_in_ignored_columns_do_not_matter(write: Any) -> None:
    dataset = CSVDataset(write("gaps.csv", GAPS), target="y", ignore=["b"], missing="drop")
    assert (len(dataset), dataset.dropped) == (3, 1)


@pytest.mark.parametrize("missing", ["refuse", "drop", "mean"])
def test_a_column_without_any_value(write: Any, missing: str) -> None:
    path = write("a.csv", "a,note,y\n1,,s\n2,,t\n")
    assert refusal(path, target="y", missing=missing) == (
        "a.csv has no value at all in 'note'; leave that out with ignore=['note']"
    )
    assert len(CSVDataset(path, target="y", missing=missing, ignore=["note"])) == 2


def test_dropping_every_row(write: Any) -> None:
    path = write("a.csv", "a,b,y\n1,,s\n,2,t\n")
    assert refusal(path, target="y", missing="drop") == (
        "every row of a.csv has a missing value, so missing='drop' leaves none; leave columns out "
        "with ignore, or say missing='mean'"
    )


def test_many_columns_with_gaps_are_not_all_listed() -> None:
    frame = pd.DataFrame({f"x{i}": [1.0, None] for i in range(8)} | {"y": ["a", "b"]})
    assert refusal(frame, target="y").endswith(
        "'x4' (1 row, first in row 1 counted from 0) and 3 more columns; fill them in, or say "
        "missing='drop' or missing='mean'"
    )


# --- files that cannot be used --------------------------------------------------------------------


def test_a_file_that_is_not_there(write: Any, tmp_path: Path) -> None:
    folder = tmp_path
    assert refusal(folder / "iris.csv", target="y") == (
        f"there is no file 'iris.csv' in {folder}; that folder has no CSV file"
    )
    write("iris.csv", FLOWERS)
    write("zoo.txt", FLOWERS)
    assert refusal(folder / "irs.csv", target="y") == (
        f"there is no file 'irs.csv' in {folder}; did you mean 'iris.csv'?"
    )
    assert refusal(folder / "unlike", target="y") == (
        f"there is no file 'unlike' in {folder}; that folder has 'iris.csv', 'zoo.txt'"
    )
    assert refusal(folder / "no" / "iris.csv", target="y") == (
        f"there is no folder {folder / 'no'}; correct the path '{folder / 'no' / 'iris.csv'}'"
    )
    assert refusal(folder, target="y") == (
        f"{folder} is a folder; give the path of a CSV file in it"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a.csv is empty; it needs a header line, and rows below it"),
        ("\n \n", "a.csv is empty; it needs a header line, and rows below it"),
        ("x,y\n", "a.csv has no rows; add them below the names of the columns"),
        (
            "x,x,y\n1,2,a\n",
            "a.csv has more than one column named 'x'; give each column a name of its own",
        ),
        (
            "x,y\n1,a\n2,b,c\n",
            "a.csv cannot be read as a table: line 3 has 3 fields, not 2 like those before it; "
            "correct it, or read it with pandas and give the frame",
        ),
        (
            "x,y\n1,a,0\n2,b,0\n",
            "a.csv has 3 fields in a row, and 2 names in its header line; name every column",
        ),
        (
            "PK\0\0,y",
            "a.csv is not a text file; read it with pandas (read_excel, read_parquet, ...) and "
            "give the frame",
        ),
        (
            "x,y\n1,a\n2,a\n",
            "the target 'y' of a.csv holds one class only ('a'); a classifier needs at least two",
        ),
        (
            "y\na\nb\n",
            "a.csv has no feature left beside the target 'y'; ignore fewer columns, or add one",
        ),
        (
            "x,y\n1e300,a\n2,b\n-inf,b\n",
            "'x' of a.csv is infinite or beyond 3.4e38 in 2 rows, first in line 2; "
            "correct the value",
        ),
        (
            "x,y\n1,0.5\n2,inf\n",
            "'y' of a.csv is infinite or beyond 3.4e38 in 1 row, first in line 3; "
            "correct the value",
        ),
        (
            "d,y\n2026-11-21,a\n2026-11-22,b\n",
            "the column 'd' of a.csv holds dates ('2026-11-21'), and a model needs numbers; make "
            "numbers of them, such as days since the first one, or leave it out with ignore=['d']",
        ),
        (
            "d,y\n21/11/2026 10:30,a\n22/11/2026 11:00,b\n",
            "the column 'd' of a.csv holds dates ('21/11/2026 10:30'), and a model needs numbers; "
            "make numbers of them, such as days since the first one, or leave it out with "
            "ignore=['d']",
        ),
        (
            "x,y\n1,2026-11-21\n2,2026-11-22\n",
            "the target 'y' of a.csv holds dates ('2026-11-21'), and a model needs numbers; make "
            "numbers of them, such as days since the first one, or choose another target",
        ),
        (
            "nome,y\n" + "".join(f"p{i},{'ab'[i % 2]}\n" for i in range(60)),
            "the column 'nome' of a.csv has 60 different texts in 60 rows, as names and ids have; "
            "leave it out with ignore=['nome']",
        ),
        (
            ",x,y\n" + "".join(f"{i},{i % 7},{'ab'[i % 2]}\n" for i in range(60)),
            "the column 'Unnamed: 0' of a.csv numbers the rows, which a model would learn by "
            "heart; leave it out with ignore=['Unnamed: 0'], or rename it if it is a measure",
        ),
        (
            "x,y\n" + "".join(f"{i if i != 7 else '?'},{'ab'[i % 2]}\n" for i in range(60)),
            "the column 'x' of a.csv holds numbers, but also '?' (1 row, first in line 9); correct "
            "that, or read it with pandas.read_csv (na_values, decimal) and give the frame, or "
            "leave it out with ignore=['x']",
        ),
        (
            "k,y\n" + "".join(f"k{i % 1001},{'ab'[i % 2]}\n" for i in range(2100)),
            "the column 'k' of a.csv has 1001 categories, each of which would be a feature; group "
            "them into at most 1000, or leave it out with ignore=['k']",
        ),
    ],
)
def test_tables_that_are_refused(write: Any, text: str, message: str) -> None:
    assert refusal(write("a.csv", text), target="y") == message


def test_text_with_fifty_categories_is_no_id() -> None:
    frame = pd.DataFrame({"k": [f"k{i}" for i in range(50)], "y": ["a", "b"] * 25})
    assert CSVDataset(frame, target="y").features.shape == (50, 50)
    frame = pd.DataFrame({"k": [f"k{i % 60}" for i in range(120)], "y": ["a", "b"] * 60})
    assert CSVDataset(frame, target="y").features.shape == (120, 60)


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (
            [[1], [2], [3]],
            "the column 'x' of the frame holds list values, and a table has one number or one text "
            "in each place; make columns of them",
        ),
        (
            pd.to_datetime(["2026-11-21", "2026-11-22", "2026-11-23"]),
            "the column 'x' of the frame holds dates ('2026-11-21'), and a model needs numbers; "
            "make numbers of them, such as days since the first one, or leave it out with "
            "ignore=['x']",
        ),
        (
            pd.to_timedelta([1, 2, 3], unit="D"),
            "the column 'x' of the frame holds dates ('1 days'), and a model needs numbers; make "
            "numbers of them, such as days since the first one, or leave it out with ignore=['x']",
        ),
    ],
)
def test_frames_that_are_refused(column: Any, message: str) -> None:
    assert refusal(pd.DataFrame({"x": column, "y": ["a", "b", "a"]}), target="y") == message


def test_text_with_decimal_commas_in_a_frame() -> None:
    frame = pd.DataFrame({"x": [f"{i},5" for i in range(30)], "y": ["a", "b"] * 15})
    assert refusal(frame, target="y") == (
        "the column 'x' of the frame holds numbers with a decimal comma, such as '9,5'; correct "
        "that, or read it with pandas.read_csv (na_values, decimal) and give the frame, or leave "
        "it out with ignore=['x']"
    )


def test_empty_frame_and_what_is_no_table() -> None:
    assert refusal(pd.DataFrame(), target="y") == (
        "the frame has no rows; add them below the names of the columns"
    )
    assert refusal([[1, 2]], target="y") == (
        "data must be the path of a CSV file or a pandas frame, not list"
    )


# --- arguments that cannot be used ----------------------------------------------------------------

ONE_PLACE = (
    " is refused, since a fit over several institutions' rows would need the rows in one place; "
    "choose 'federated' (the default), 'client' or None"
)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target": "specie"},
            "no column named 'specie'; did you mean 'species'? "
            "choose one of: length, width, colour, species",
        ),
        ({"standardize": "global"}, "standardize='global'" + ONE_PLACE),
        ({"standardize": "all"}, "standardize='all'" + ONE_PLACE),
        ({"standardize": True}, "standardize=True" + ONE_PLACE),
        (
            {"standardize": "federate"},
            "standardize='federate' is not known; choose 'federated' (the default), 'client' or "
            "None",
        ),
        (
            {"standardize": None, "missing": "mean"},
            "missing='mean' takes the mean that standardization finds, and standardize=None finds "
            "none; choose standardize='federated' or 'client', or missing='drop'",
        ),
        (
            {"missing": "median"},
            "no way to treat missing values named 'median'; did you mean 'mean'? "
            "choose one of: refuse, drop, mean",
        ),
        (
            {"task": "clasification"},
            "no task named 'clasification'; did you mean 'classification'? "
            "choose one of: classification, regression",
        ),
        (
            {"task": "regression"},
            "the target 'species' of flowers.csv holds text ('rose'), which is no number to "
            "predict; say task='classification', or choose another target",
        ),
        (
            {"ignore": "colour"},
            "ignore must be a list of columns, for example ignore=['id'], not 'colour'",
        ),
        (
            {"ignore": ["lenght"]},
            "no column named 'lenght'; did you mean 'length'? "
            "choose one of: length, width, colour, species",
        ),
        (
            {"ignore": ["species"]},
            "the target 'species' cannot be ignored; take it out of ignore",
        ),
        (
            {"ignore": ["length", "width", "colour"]},
            "flowers.csv has no feature left beside the target 'species'; ignore fewer columns, or "
            "add one",
        ),
    ],
)
def test_arguments_that_are_refused(write: Any, arguments: dict[str, Any], message: str) -> None:
    path = write("flowers.csv", FLOWERS)
    assert refusal(path, **{"target": "species", **arguments}) == message


def test_a_name_with_a_slash(write: Any) -> None:
    with pytest.raises(ExperimentError, match="holds a slash"):
        CSVDataset(write("flowers.csv", FLOWERS), target="species", name="a/b")


def test_a_file_without_a_header(write: Any) -> None:
    path = write("iris.data", "5.1,3.5,Iris-setosa\n4.9,3.0,Iris-virginica\n")
    assert refusal(path, target="species") == (
        "no column named 'species'; choose one of: 5.1, 3.5, Iris-setosa "
        "(is the header line of iris.data missing?)"
    )


def test_numbers_that_are_no_classes() -> None:
    frame = pd.DataFrame({"x": np.arange(60) / 7, "y": np.arange(60) / 3})
    assert refusal(frame, target="y", task="classification") == (
        "the target 'y' of the frame has 60 different values in 60 rows, which are no classes; say "
        "task='regression'"
    )


# --- settings, save and the hash ------------------------------------------------------------------


def test_settings_are_json_and_make_it_again(write: Any, tmp_path: Path) -> None:
    path = write("gaps.csv", GAPS)
    dataset = CSVDataset(path, target="y", missing="drop", standardize="client", ignore=["b"])
    values = json.loads(json.dumps(dataset.settings()))
    assert values.pop("sha256") == dataset.sha256
    assert values == {
        "path": str(path),
        "rows": 3,
        "target": "y",
        "task": "classification",
        "standardize": "client",
        "missing": "drop",
        "ignore": ["b"],
        "name": "gaps",
    }
    saved = tmp_path / "saved.csv"
    dataset.save(saved)
    copy = again(dataset, saved)
    assert torch.equal(copy.features, dataset.features)
    assert torch.equal(copy.targets, dataset.targets)
    assert copy.sha256 == dataset.sha256
    assert copy.name == "gaps"


def test_saving_where_one_cannot(write: Any, tmp_path: Path) -> None:
    dataset = CSVDataset(write("flowers.csv", FLOWERS), target="species")
    with pytest.raises(DatasetError) as caught:
        dataset.save(tmp_path / "no" / "flowers.csv")
    assert str(caught.value).endswith("choose a folder that exists and is yours")


def test_the_hash_is_of_the_content(write: Any) -> None:
    path = write("flowers.csv", FLOWERS)
    first = CSVDataset(path, target="species").sha256
    from_frame = CSVDataset(pd.read_csv(path), target="species")
    semicolons = CSVDataset(
        write("b.csv", FLOWERS.replace(",", ";").replace(".", ","), "utf-16"), target="species"
    )
    assert first == from_frame.sha256 == semicolons.sha256
    assert from_frame.settings()["path"] is None
    # The same numbers in other types, and the same rows by another index.
    frame = pd.read_csv(path).astype(
        {"length": "float32", "colour": "category", "width": "Float64"}
    )
    frame.index = [7, 8, 9]
    assert CSVDataset(frame, target="species").sha256 == first
    # What counts: a value, a name, the order of rows and of columns.
    for other in (
        FLOWERS.replace("0.25", "0.26"),
        FLOWERS.replace("red", "rad"),
        FLOWERS.replace("width", "with"),
        "length,width,colour,species\n2,0.25,white,lily\n1,0.5,red,rose\n3,1e3,red,rose\n",
        "width,length,colour,species\n0.5,1,red,rose\n0.25,2,white,lily\n1e3,3,red,rose\n",
    ):
        assert CSVDataset(write("c.csv", other), target="species").sha256 != first


def test_float32_counts_as_it_is_written(write: Any) -> None:
    path = write("a.csv", "x,y\n0.1,a\n0.2,b\n")
    frame = pd.DataFrame({"x": np.array([0.1, 0.2], dtype=np.float32), "y": ["a", "b"]})
    assert CSVDataset(frame, target="y").sha256 == CSVDataset(path, target="y").sha256


def test_the_hash_tells_large_whole_numbers_apart() -> None:
    def sha256(number: int) -> str:
        frame = pd.DataFrame({"x": [number, 1], "y": ["a", "b"]})
        return CSVDataset(frame, target="y").sha256

    assert sha256(2**60) != sha256(2**60 + 1)


def test_text_that_reads_as_numbers_is_numbers_in_a_frame_too(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": ["01", "2", "3"], "z": ["1", "NA", "k"], "y": ["a", "b", "a"]})
    dataset = CSVDataset(frame, target="y", missing="mean")
    assert dataset.feature_names == ("x", "z=1", "z=k")
    # Without the row of "k", what is left of z reads as numbers, and is saved as such.
    frame = pd.DataFrame({"x": [1, None, 3], "z": ["1", "k", "2"], "y": ["a", "b", "b"]})
    dataset = CSVDataset(frame, target="y", missing="drop")
    assert dataset.feature_names == ("x", "z")
    dataset.save(tmp_path / "a.csv")
    assert torch.equal(again(dataset, tmp_path / "a.csv").features, dataset.features)


TEXT = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=6)
COLUMNS = st.one_of(
    st.lists(st.integers(-(2**62), 2**62), min_size=6, max_size=6),
    st.lists(st.floats(allow_infinity=False, allow_nan=True, width=32), min_size=6, max_size=6),
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.lists(st.one_of(st.booleans(), st.none()), min_size=6, max_size=6),
    st.lists(st.one_of(TEXT, st.none()), min_size=6, max_size=6),
    st.lists(st.one_of(st.integers(-9, 9), TEXT), min_size=6, max_size=6),
)


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    columns=st.dictionaries(TEXT.filter(lambda t: t.strip() not in ("", "y")), COLUMNS, max_size=4),
    missing=st.sampled_from(["refuse", "drop", "mean"]),
)
def test_a_saved_table_reads_alike(
    columns: dict[str, list[Any]], missing: str, tmp_path: Path
) -> None:
    frame = pd.DataFrame({"always": [1, 2, 3, 4, 5, 6], **columns, "y": list("abcabc")})
    try:
        dataset = CSVDataset(frame, target="y", missing=missing)
    except DatasetError:
        return
    dataset.save(tmp_path / "saved.csv")
    copy = again(dataset, tmp_path / "saved.csv")
    assert copy.feature_names == dataset.feature_names
    torch.testing.assert_close(copy.features, dataset.features, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(copy.targets, dataset.targets)
    assert copy.sha256 == dataset.sha256


def test_the_target_may_be_given_by_place_and_must_be_given() -> None:
    frame = pd.DataFrame({"x": [1.0, 2.0], "y": ["b", "a"]})
    assert CSVDataset(frame, "y").target == "y"
    with pytest.raises(DatasetError) as caught:
        CSVDataset(frame)
    assert str(caught.value) == (
        "say which column to predict, for example target='y'; the columns are: x, y"
    )


def test_a_target_without_any_value_is_not_to_be_ignored(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("x,energy\n1,\n2,\n")
    sentence = "the target 'energy' of a.csv has no value at all; fill it in, or choose another"
    with pytest.raises(DatasetError, match=sentence):
        CSVDataset(path, target="energy")
