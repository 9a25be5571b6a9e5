"""Where the time goes, as a table: pure functions."""

from __future__ import annotations

import re

from flautim_lab.jupyter.resources_html import resources_table
from flautim_lab.runners.usage import ProcessUsage

SERVER = ProcessUsage(
    "server", 0.51234, 412e6, 0.0, 0.0, (("training", 2.0), ("storing", 0.01), ("waiting", 0.0099))
)
WORKER = ProcessUsage("client-0", 1.5, 300e6, 1.5e6, 2.25e6, (("training", 0.5), ("waiting", 1.5)))


def cells(table):
    rows = re.findall(r"<tr>(.*?)</tr>", table.split("<tbody>")[1].split("</tbody>")[0])
    return [
        [re.sub(r"<[^>]+>", "", cell) for cell in re.findall(r"<td[^>]*>(.*?)</td>", row)]
        for row in rows
    ]


def widths(table):
    body = table.split("<tbody>")[1].split("</tbody>")[0]
    return [float(width) for width in re.findall(r"height:10px;width:([\d.]+)px", body)]


def test_a_row_per_process_says_it_in_words_too():
    assert cells(resources_table([SERVER, WORKER])) == [
        ["server", "0.5123", "412", "–", "–", "training 2 s, storing 10 ms, waiting 9.9 ms"],
        ["client-0", "1.5", "300", "1.5", "2.25", "training 0.5 s, waiting 1.5 s"],
    ]


def test_the_bars_have_one_scale():
    table = resources_table([SERVER, WORKER])
    assert widths(table) == [217.8, 1.1, 1.1, 54.5, 163.4]
    assert widths(resources_table([WORKER])) == [55.0, 165.0]
    legend = table.split("</table>")[1]
    assert [word in legend for word in ("training", "storing", "waiting")] == [True] * 3
    assert "transfer" not in legend


def test_nothing_used_is_nothing_shown():
    assert resources_table([]) == ""
    idle = ProcessUsage("<client>", 0.0, 0.0, 0.0, 0.0, ())
    assert cells(resources_table([idle])) == [["&lt;client&gt;", "0", "–", "–", "–", "–"]]


def test_of_many_processes_the_rest_is_counted():
    many = [ProcessUsage(f"client-{n}", 1.0, 1e6, 0.0, 0.0, ()) for n in range(41)]
    table = resources_table(many)
    assert len(cells(table)) == 40
    assert "1 more process is not shown." in table
    assert "2 more processes are not shown." in resources_table([*many, SERVER])
