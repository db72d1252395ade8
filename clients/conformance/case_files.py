"""Reads cases/*.yaml, checks their form, and writes them as JSON, which every language can read."""

import json
import pathlib
import re

import yaml

CASES = pathlib.Path(__file__).resolve().parent / "cases"
OPERATIONS = frozenset("""get put remove increment touch multi_get write_batch scan scan_page count aggregate split_range
    delete_range watch snapshot renew release session client close server_info fill sleep_ms repeat parallel
    control""".split())
STEP_FIELDS = frozenset(("expect", "error", "save", "on"))
CASE_FIELDS = frozenset(("name", "only", "client", "through", "steps"))
LARGEST_EXACT = 1 << 53


class Loader(yaml.SafeLoader):
    """Without the words that YAML 1.1 takes for booleans: `on` is a field of a step."""


Loader.yaml_implicit_resolvers = {first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
                                  for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


class BadCase(Exception):
    """A case that no runner could run."""


def expression_bytes(value):
    """The bytes that an expression in a control step means."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, dict) and len(value) == 1 and "hex" in value:
        return bytes.fromhex(value["hex"])
    if isinstance(value, dict) and len(value) == 1 and "utf8" in value:
        return value["utf8"].encode()
    if isinstance(value, dict) and "repeat" in value:
        return value["repeat"].encode() * value["times"]
    if isinstance(value, dict) and "concat" in value:
        return b"".join(str(part).encode() if isinstance(part, int) else expression_bytes(part)
                        for part in value["concat"])
    raise BadCase(f"these are no bytes: {value}")


def check_numbers(where, value):
    if isinstance(value, dict):
        for item in value.values():
            check_numbers(where, item)
    elif isinstance(value, list):
        for item in value:
            check_numbers(where, item)
    elif isinstance(value, float) or isinstance(value, int) and abs(value) > LARGEST_EXACT:
        raise BadCase(f"{where}: write {value} as {{int: \"...\"}}")


def check_steps(where, steps):
    for number, step in enumerate(steps, 1):
        place = f"{where}, step {number}"
        operations = set(step) - STEP_FIELDS
        if len(operations) != 1 or not operations <= OPERATIONS:
            raise BadCase(f"{place}: one operation, not {sorted(operations)}")
        if "expect" in step and "error" in step:
            raise BadCase(f"{place}: expect or error, not both")
        operation = operations.pop()
        arguments = step[operation]
        if operation in ("repeat", "parallel"):
            for branch in arguments.get("branches") or [arguments["steps"]]:
                check_steps(place, branch)
        check_numbers(place, step)


def load():
    """{file name: list of cases}."""
    files, names = {}, set()
    for path in sorted(CASES.glob("*.yaml")):
        cases = yaml.load(path.read_text(encoding="utf8"), Loader)
        for case in cases:
            where = f"{path.name}: {case.get('name')}"
            if not set(case) <= CASE_FIELDS or not isinstance(case.get("name"), str):
                raise BadCase(f"{where}: the fields of a case are {sorted(CASE_FIELDS)}")
            if case["name"] in names:
                raise BadCase(f"{where}: there is another case with this name")
            names.add(case["name"])
            check_steps(where, case["steps"])
        files[path.name] = cases
    return files


def compile_to(directory):
    directory = pathlib.Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, cases in load().items():
        (directory / name).with_suffix(".json").write_text(json.dumps(cases, indent=1, ensure_ascii=False) + "\n",
                                                           encoding="utf8")
