"""The rules, the dashboard and the runbook: promtool's word on them, and nothing named that is not there."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from feedhandler.observe.bridging import FAMILIES as BRIDGE_FAMILIES
from feedhandler.observe.catalogue import CATALOGUE, FIELDS
from feedhandler.observe.collecting import FAMILIES
from feedhandler.observe.metrics import PREFIX

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus" / "feedhandler.rules.yml"
RULE_TESTS = DEPLOY / "prometheus" / "feedhandler.tests.yml"
DASHBOARD = DEPLOY / "prometheus" / "dashboard.json"
RUNBOOK = DEPLOY / "RUNBOOK.md"

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there (Debian: prometheus)"
)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    """Give the script that writes what follows from the code."""
    spec = importlib.util.spec_from_file_location("generate", DEPLOY / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def promtool(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    command = ["promtool", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def alerts() -> list[str]:
    """Return the names of all alerts."""
    return re.findall(r"^ +- alert: (\w+)$", RULES.read_text(), re.MULTILINE)


@needs_promtool
def test_prometheus_takes_the_rules():
    """Every expression is one, and a wrong one would be found."""
    done = promtool("check", "rules", RULES)
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts()) + RULES.read_text().count('- record:')} rules found" in done.stdout


@needs_promtool
def test_the_rules_do_what_they_say():
    """Each recording rule and each alert has a test: not before its time, at its fault, and not after it."""
    done = promtool("test", "rules", RULE_TESTS)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_a_rule_that_does_something_else_is_found(tmp_path):
    """Without its condition a rule fails its test."""
    (tmp_path / RULES.name).write_text(RULES.read_text().replace('state="down"} == 1', 'state="down"} == 0'))
    shutil.copy(RULE_TESTS, tmp_path)
    assert promtool("test", "rules", tmp_path / RULE_TESTS.name).returncode == 1


def test_every_rule_is_tested():
    """No alert and no recording rule is without a unit test; each alert is seen to fire and to clear."""
    text = RULE_TESTS.read_text()
    assert len(set(alerts())) == len(alerts()) >= 15
    for name in alerts():
        assert re.search(rf"- alertname: {name}\n.*\n +exp_alerts:\n +- exp_labels", text), name
        quiet = re.findall(rf"\{{alertname: {name}, eval_time: \w+, exp_alerts: \[\]\}}", text)
        assert len(quiet) >= 2, name
    for name in re.findall(r"- record: (\S+)", RULES.read_text()):
        assert f"expr: {name}" in text, name


def test_every_alert_has_its_section():
    """The link of each alert leads to a heading of the runbook, with the three answers below it."""
    sections = dict(
        re.findall(r"^### (\w+)\n(.*?)(?=^##|^---|\Z)", RUNBOOK.read_text(), re.MULTILINE | re.DOTALL)
    )
    links = re.findall(r"runbook_url: (https://\S+/RUNBOOK.md)#(\w+)", RULES.read_text())
    assert [name for _, name in links] == [name.lower() for name in alerts()]
    assert len({base for base, _ in links}) == 1
    assert list(sections) == alerts()
    for name, text in sections.items():
        for answer in ("**Means.** ", "**Look.** ", "**Do.** "):
            assert text.count(answer) == 1, name


@needs_promtool
def test_the_links_lead_where_the_runbook_is_served(tmp_path):
    """One option of the script puts a URL into all rules and their tests; nothing else changes."""
    copy = tmp_path / "deploy"
    shutil.copytree(DEPLOY, copy)
    url = "https://wiki.example.org/x/RUNBOOK.md"
    command = [sys.executable, copy / "generate.py", "--runbook"]
    subprocess.run([*command, url], check=True)
    text = (copy / "prometheus" / RULES.name).read_text()
    assert text.count(f"runbook_url: {url}#") == len(alerts())
    assert re.sub(r"runbook_url: \S+", "", text) == re.sub(r"runbook_url: \S+", "", RULES.read_text())
    done = promtool("test", "rules", copy / "prometheus" / RULE_TESTS.name)
    assert done.returncode == 0, done.stdout + done.stderr
    wrong = subprocess.run([*command, "wiki"], capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
    assert "expected an http or https URL" in wrong.stderr


def names_in(text: str) -> set[str]:
    """Return the metrics that an expression names; a histogram's series count as it."""
    found = set(re.findall(rf"\b{PREFIX}\w+", text))
    return {re.sub(r"_(bucket|sum|count)$", "", name) if name.endswith("_bucket") else name for name in found}


def known() -> set[str]:
    """Return the names of all metrics."""
    return {PREFIX + family.name for family in (*FAMILIES, *BRIDGE_FAMILIES)}


def expressions() -> Iterator[str]:
    """Yield the expressions of the dashboard."""
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


def test_rules_and_dashboard_name_what_there_is():
    """A metric that was renamed is found here, not in the night when it is missed."""
    assert names_in(RULES.read_text()) <= known()
    recorded = set(re.findall(r"- record: (\S+)", RULES.read_text()))
    for expression in expressions():
        assert names_in(expression) <= known(), expression
        assert set(re.findall(r"\bfeedhandler:\w+:\w+", expression)) <= recorded, expression


@needs_promtool
def test_prometheus_takes_the_dashboard(tmp_path):
    """Every panel's expression is one, once Grafana has put the chosen values in."""
    rules: list[dict[str, Any]] = [
        {"record": f"panel:{number}", "expr": expression.replace("$", "")}
        for number, expression in enumerate(expressions())
    ]
    path = tmp_path / "dashboard.json"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    done = promtool("check", "rules", path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(rules) >= 20


def test_panels_have_a_place_each():
    """No panel lies on another, and none is wider than the grid."""
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells


def test_what_is_generated_is_up_to_date(generate):
    """The dashboard and the runbook's tables are what the script makes of the code."""
    assert DASHBOARD.read_text() == generate.dashboard(), "run deploy/generate.py"
    assert RUNBOOK.read_text() == generate.runbook(RUNBOOK.read_text()), "run deploy/generate.py"


def test_the_runbook_knows_every_name():
    """Every metric, every name in the log and every field of a line is told."""
    text = RUNBOOK.read_text()
    for name in known():
        assert re.search(rf"^\| `{name}[{{`]", text, re.MULTILINE), name
    for name in CATALOGUE:
        assert f"| `{name}` |" in text, name
    for name in FIELDS:
        assert f"| `{name}` |" in text, name


def test_the_runbook_names_nothing_else():
    """What the runbook says to look at is there."""
    text = RUNBOOK.read_text()
    assert names_in(text) <= known()
