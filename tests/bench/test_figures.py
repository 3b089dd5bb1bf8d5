import json
from pathlib import Path
from typing import Any

import pytest

from bench import figures
from bench.figures import Figure, last_json_object, look_up, measure, read_table, select
from tests.bench.good_row import GOOD


def figure(**changes: Any) -> Figure:
    values: dict[str, Any] = {"id": "a", "command": "c", "key": "x.y", "issue": 2}
    values |= {"comparison": "<=", "bound": 5, "unit": "", "machine": "any"}
    return Figure(**{**values, **changes})


def test_table_is_well_formed() -> None:
    table = read_table()
    assert len({f.id for f in table}) == len(table)
    assert {f.machine for f in table} <= {"any", "cpu2", "gpu"}
    assert all(
        f.command.startswith(("{python} -m ", "{gpumpc} ")) and f.command.endswith("--json")
        for f in table
    )


def test_repeated_id_is_refused(tmp_path: Path) -> None:
    entry = '[[figure]]\nid="a"\ncommand="c"\nkey="k"\ncomparison="report"\n'
    (tmp_path / "t.toml").write_text((entry + 'unit=""\nmachine="any"\nissue=2\n') * 2)
    with pytest.raises(ValueError, match="twice: a"):
        read_table(tmp_path / "t.toml")


@pytest.mark.parametrize(
    "changes", [{"comparison": "~"}, {"comparison": "report"}, {"bound": None}]
)
def test_bad_row_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="figure a"):
        figure(**changes)


def test_select_by_id_and_by_prefix() -> None:
    table = [figure(id=name) for name in ("relu.online", "relu.rounds.most", "relu6.online", "vgg")]
    assert [f.id for f in select(table, ["relu"])] == ["relu.online", "relu.rounds.most"]
    assert [f.id for f in select(table, ["vgg", "relu6.online"])] == ["relu6.online", "vgg"]
    assert select(table, []) == table
    with pytest.raises(ValueError, match="no figure 'rel'"):
        select(table, ["rel"])


def test_last_json_object_is_found_in_noise() -> None:
    assert last_json_object('noise {not json}\n{"a": 1}\n{"b": {"c": 2}}\ndone') == {"b": {"c": 2}}
    assert last_json_object('{\n "a": {\n  "b": 1\n }\n}\n') == {"a": {"b": 1}}
    assert last_json_object("nothing") is None


def test_look_up_returns_only_finite_numbers() -> None:
    assert look_up({"a": {"b": 3}}, "a.b") == 3
    with pytest.raises(KeyError):
        look_up({"a": 3}, "a.b")
    for value in (None, True, "3", float("nan")):
        with pytest.raises(TypeError):
            look_up({"a": value}, "a")


def test_shared_command_runs_once_and_bounds_decide() -> None:
    ran = []

    def run(command: str) -> tuple[dict[str, Any] | None, str]:
        ran.append(command)
        return {"x": {"y": 5}}, ""

    asked: list[tuple[str, int | None, bool]] = [("report", None, True), ("==", 5, True)]
    asked += [("<=", 5, True), ("<", 5, False), (">=", 6, False), (">", 4, True)]
    results = measure([figure(comparison=word, bound=bound) for word, bound, _ in asked], run)
    assert [r.met for r in results] == [met for _, _, met in asked]
    assert ran == ["c"]


def test_missing_key_or_failed_command_does_not_meet() -> None:
    (absent,) = measure([figure()], lambda _: ({"x": 1}, ""))
    reported = figure(comparison="report", bound=None)
    (broken,) = measure([reported], lambda _: (None, "exit status 3"))
    assert not absent.met
    assert "no key 'x.y'" in absent.verdict
    assert not broken.met
    assert broken.verdict == "exit status 3"


@pytest.mark.parametrize(
    ("program", "fault"),
    [
        (f"print({json.dumps(GOOD)!r})", ""),
        ("print('{}')", "off the schema"),
        ("print('nothing')", "no JSON object"),
        ("raise SystemExit(3)", "exit status 3"),
    ],
)
def test_run_command_returns_json_or_the_fault(program: str, fault: str, tmp_path: Path) -> None:
    script = tmp_path / "program.py"
    script.write_text(program)
    output, why = figures.run_command(f"{{python}} {script}")
    assert fault in why
    assert (output is None) == bool(fault)


def test_run_command_reports_a_missing_program() -> None:
    assert "cannot start" in figures.run_command("/nowhere/program")[1]


def test_exit_status_and_json_report_unmet_figures(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "run_command", lambda _: ({**GOOD, "rounds": 6}, ""))
    assert figures.main(["relu.rounds", "--json"]) == 1
    shown = json.loads(capsys.readouterr().out)
    assert [row["met"] for row in shown["figures"]] == [True, False]
    assert figures.main(["relu.online"]) == 0
    assert "6,400,000" in capsys.readouterr().out


def test_unknown_id_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        figures.main(["nonsense"])
    assert "no figure 'nonsense'" in capsys.readouterr().err
