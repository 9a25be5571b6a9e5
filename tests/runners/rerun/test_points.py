"""Which points a batch has, and what is refused before anything starts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from flautim_lab.errors import NotebookError
from flautim_lab.runners.rerun.points import make_points, read_points, split_values

PARAMETERS = 'rounds = 20\nlr = 0.5\nstrategy = "FedAvg"\nlayers = [4]\nseed = 7'


def notebook_of(cell: str = PARAMETERS) -> Any:
    made = nbformat.v4.new_code_cell(cell, metadata={"tags": ["parameters"]})
    return nbformat.v4.new_notebook(cells=[made])


def points_of(cell: str = PARAMETERS, /, **asked: Any) -> list[dict[str, object]]:
    return list(make_points(notebook_of(cell), "a.ipynb", **asked).points)


def test_without_anything_there_is_one_point() -> None:
    assert points_of() == [{}]


def test_each_with_each_in_the_types_of_the_notebook() -> None:
    made = make_points(
        notebook_of(),
        "a.ipynb",
        parameters={"rounds": "3"},
        grid={"lr": ["1", 0.1], "strategy": ["FedAvg", "FedProx"]},
        seeds=2,
    )
    assert len(made.points) == 8
    first = {"rounds": 3, "lr": 1.0, "strategy": "FedAvg", "seed": 7}
    assert made.points[0] == first
    assert type(made.points[0]["lr"]) is float
    assert [point["seed"] for point in made.points[:4]] == [7, 8, 7, 8]
    assert made.names == ("rounds", "lr", "strategy", "seed")
    assert made.varied == ("lr", "strategy", "seed")
    assert made.notes == ()


def test_seeds_begin_with_the_one_that_is_given() -> None:
    assert points_of(seeds=2, parameters={"seed": "3"}) == [{"seed": 3}, {"seed": 4}]
    assert points_of("seed = None", seeds=2) == [{"seed": 0}, {"seed": 1}]


def test_side_by_side_and_points_of_one_each() -> None:
    made = points_of(
        zipped={"rounds": [1, 2], "lr": ["0.1", "0.2"]}, points=[{"seed": 1}, {"strategy": "Krum"}]
    )
    assert made == [
        {"rounds": 1, "lr": 0.1, "seed": 1},
        {"rounds": 2, "lr": 0.2, "seed": 1},
        {"rounds": 1, "lr": 0.1, "strategy": "Krum"},
        {"rounds": 2, "lr": 0.2, "strategy": "Krum"},
    ]


def test_what_is_there_twice_is_done_once() -> None:
    made = make_points(notebook_of(), "a.ipynb", grid={"lr": ["0.1", "0.10", 1]})
    assert [point["lr"] for point in made.points] == [0.1, 1.0]
    assert made.notes == ("1 of 3 points are given twice and done once",)


def test_one_line_for_several_is_said() -> None:
    made = make_points(notebook_of("seed, rounds = 7, 2\nlr = 0.1"), "a.ipynb", grid={"seed": [1]})
    assert made.points == ({"seed": 1},)
    assert made.notes == (
        "seed and rounds are set on one line in a.ipynb, where papermill's own command would not "
        "find them; give each a line of its own",
    )
    assert not make_points(notebook_of("a, b = 7, 2\nlr = 0.1"), "a", grid={"lr": [1]}).notes


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"grid": {"rouns": [1]}},
            "in a.ipynb: no parameter named 'rouns'; did you mean 'rounds'? choose one of: "
            "rounds, lr, strategy, layers, seed",
        ),
        (
            {"grid": {"lr": [0.1, "fast"]}},
            "the parameter 'lr' is a number in the notebook (default 0.5), and 'fast' is not",
        ),
        ({"grid": {"lr": "0.1"}}, "the values of 'lr' are '0.1'; give a list of them"),
        ({"grid": {"lr": 3}}, "the values of 'lr' are 3; give a list of them"),
        ({"zipped": {"lr": []}}, "there are no values for 'lr'; give at least one"),
        (
            {"zipped": {"lr": [1, 2], "rounds": [1]}},
            "lists side by side must be of one length: lr has 2, rounds has 1",
        ),
        (
            {"parameters": {"lr": 1}, "grid": {"lr": [1, 2]}},
            "the parameter 'lr' is given twice; give it as a value, in the grid, side by side or "
            "in the points, but not in two of them",
        ),
        (
            {"seeds": 2, "grid": {"seed": [1]}},
            "the parameter 'seed' is given twice; give seeds or a list of them",
        ),
        ({"seeds": 0}, "seeds must be a whole number from 1, not 0"),
        (
            {"grid": {name: range(60) for name in ("rounds", "lr", "seed")}},
            "that makes 216000 points; at most 100000 are done at once",
        ),
    ],
)
def test_what_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        points_of(**asked)


def test_seeds_of_a_notebook_without_one() -> None:
    with pytest.raises(NotebookError, match=r"in a\.ipynb: no parameter named 'seed'"):
        points_of("rounds = 3", seeds=2)


# --- texts and files ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("lr=0.1, 1", "lr", ["0.1", "1"]),
        ("layers=[1,2],[3]", "layers", ["[1,2]", "[3]"]),
        ("path='a,b',c=d", "path", ["a,b", "c=d"]),
        ("pair=(1,{2:3})", "pair", ["(1,{2:3})"]),
    ],
)
def test_values_of_a_text(text: str, name: str, values: list[str]) -> None:
    assert split_values(text) == (name, values)


@pytest.mark.parametrize("text", ["lr", "=1", "lr=", "lr=1,,2", ""])
def test_a_text_without_values(text: str) -> None:
    message = f"{text!r} gives no values; write NAME=VALUE,VALUE,..., as in lr=0.1,1"
    with pytest.raises(NotebookError, match=f"^{re.escape(message)}$"):
        split_values(text)


def test_points_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("\ufefflr, strategy\n0.1,FedAvg\n,Krum\n", encoding="utf-8")
    assert read_points(path) == [{"lr": "0.1", "strategy": "FedAvg"}, {"strategy": "Krum"}]
    assert points_of(points=read_points(path))[0] == {"lr": 0.1, "strategy": "FedAvg"}


def test_points_of_yaml_and_json(tmp_path: Path) -> None:
    path = tmp_path / "points.yaml"
    path.write_text("- {lr: 0.1, layers: [1, 2]}\n- lr: 1\n")
    assert points_of(points=read_points(path)) == [{"lr": 0.1, "layers": [1, 2]}, {"lr": 1.0}]
    path = tmp_path / "points.json"
    path.write_text('[{"lr": 0.1}]')
    assert read_points(path) == [{"lr": 0.1}]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "", "no kind of file with points named '.txt'"),
        ("a.csv", "lr\n", "there are no points in "),
        ("a.csv", "lr,seed\n1\n", "line 2 of .* has not as many fields as its first line"),
        ("a.csv", "lr\n1,2\n", "line 2 of .* has not as many fields as its first line"),
        ("a.yaml", "a: [", "is not valid YAML in line 1"),
        ("a.yaml", "lr: 1", "must hold a list of points"),
        ("a.yaml", "!!python/object/apply:os.getpid []", "is not valid YAML"),
        ("none.csv", None, "cannot be read: No such file or directory"),
    ],
)
def test_files_without_points(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(NotebookError, match=message):
        read_points(tmp_path / name)
