"""The documented schema is the one that results follow."""

import copy
import json
from pathlib import Path

import pytest

from specact_rl.errors import ConfigError
from specact_rl.eval.results_schema import (
    RESULTS_SCHEMA_VERSION,
    check_results,
    json_schema,
    undocumented_keys,
)

DOCS = Path(__file__).parents[2] / "docs"
COMMITTED = DOCS / "results" / "tiny-seed0.json"
FIXTURE = Path(__file__).parents[1] / "fixtures" / "report" / "results.json"


@pytest.fixture
def results():
    return json.loads(COMMITTED.read_text(encoding="utf-8"))


def test_the_documented_schema_is_made_from_the_classes():
    written = json.loads((DOCS / "results-schema.json").read_text(encoding="utf-8"))
    command = "print(json.dumps(json_schema(), indent=1, ensure_ascii=False))"
    assert written == json_schema(), f"write docs/results-schema.json again: {command}"


def test_every_key_says_what_it_means():
    schema = json_schema()
    for name, part in [("Results", schema), *schema["$defs"].items()]:
        assert part["description"], name
        for key, field in part["properties"].items():
            assert field.get("description") or "$ref" in field, f"{name}.{key}"


def test_committed_results_follow_it(results):
    assert list(undocumented_keys(check_results(results, "here"))) == []


def test_results_that_reports_are_tested_with_follow_it():
    results = json.loads(FIXTURE.read_text(encoding="utf-8"))
    assert list(undocumented_keys(check_results(results, "here"))) == [".about"]


def test_a_key_that_nobody_described_is_named(results):
    results["replay"]["systems"][0]["colour"] = "red"
    results["live"][2]["success"]["mood"] = 1
    found = list(undocumented_keys(check_results(results, "here")))
    assert found == [".replay.systems[].colour", ".live[].success.mood"]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        (("replay", "systems", 3, "acceptable", "n"), "many", "replay.systems.3.acceptable.n"),
        (("replay", "systems", 0, "name"), None, "replay.systems.0.name"),
        (("meta", "seed"), 1.5, "meta.seed"),
        (("schema_version",), RESULTS_SCHEMA_VERSION + 1, "schema version 2"),
        (("schema_version",), "1", "schema version '1'"),
    ],
)
def test_a_value_of_another_kind_is_refused_with_its_place(results, path, value, told):
    changed = copy.deepcopy(results)
    part = changed
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    with pytest.raises(ConfigError) as caught:
        check_results(changed, "runs/x/results.json")
    assert told in str(caught.value)
    assert "runs/x/results.json" in str(caught.value)


def test_a_missing_key_is_refused(results):
    del results["replay"]["systems"][1]["acceptable"]
    with pytest.raises(ConfigError, match=r"replay\.systems\.1\.acceptable: Field required"):
        check_results(results, "here")
