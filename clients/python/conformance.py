"""Runs the cases of clients/conformance with the synchronous client, or with the one for asyncio (--client async).

Both run the same code: an AsyncApi passes each call to an event loop in a thread of its own and waits for it.
"""

import argparse
import asyncio
import dataclasses
import json
import os
import pathlib
import socket
import sys
import threading
import time

import pando

BATCH_OPS = 500
KINDS = {pando.BadRequestError: "BadRequest", pando.UnavailableError: "Unavailable", pando.DeadlineError: "Deadline",
         pando.SnapshotGoneError: "SnapshotGone", pando.FeedGoneError: "FeedGone",
         pando.SessionLostError: "SessionLost", pando.DiskFullError: "DiskFull", pando.CorruptError: "Corrupt",
         pando.InternalError: "Internal"}
RANGE = ("start", "end", "prefix")
WRITE_OPTIONS = ("ttl_ms", "expires_at_ms", "ttl", "if_version", "if_exists", "if_value", "return_previous")
OPS = {"put": pando.Put, "remove": pando.Remove, "increment": pando.Increment, "touch": pando.Touch}


class Failed(Exception):
    """A step did not do what its case expects."""


class Skipped(Exception):
    """The case is for other languages."""


# -- the two clients ---------------------------------------------------------------------------------------------------


class SyncApi:
    languages = ("python", "python-sync")

    def client(self, addresses, **options):
        return pando.Client(addresses, **options)

    def call(self, subject, method, *args, **options):
        return getattr(subject, method)(*args, **options)

    def pages(self, scan):
        return scan.pages()

    def rows(self, scan):
        return list(scan)


class AsyncApi:
    languages = ("python", "python-async")

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()

    def run(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()

    def client(self, addresses, **options):
        async def make():
            return pando.AsyncClient(addresses, **options)
        return self.run(make())

    def call(self, subject, method, *args, **options):
        async def call():
            result = getattr(subject, method)(*args, **options)
            return await result if asyncio.iscoroutine(result) else result
        return self.run(call())

    def pages(self, scan):
        pages = scan.pages()

        async def following():
            try:
                return await pages.__anext__()
            except StopAsyncIteration:
                return None
        while (page := self.run(following())) is not None:
            yield page

    def rows(self, scan):
        async def collect():
            return [row async for row in scan]
        return self.run(collect())


# -- values and matching -----------------------------------------------------------------------------------------------


def numbered(spec):
    first, last = spec["from"], spec["to"]
    step = 1 if first <= last else -1
    return [f"{spec['prefix']}{i:0{spec.get('digits', 4)}d}".encode() for i in range(first, last + step, step)]


def value_of(expression, variables):
    """What an expression means; text stays text."""
    if isinstance(expression, str) and expression.startswith("$"):
        if expression[1:] not in variables:
            raise Failed(f"there is no variable {expression}")
        return variables[expression[1:]]
    if isinstance(expression, list):
        return [value_of(item, variables) for item in expression]
    if not isinstance(expression, dict):
        return expression
    keys = set(expression)
    if keys == {"hex"}:
        return bytes.fromhex(expression["hex"])
    if keys == {"utf8"}:
        return expression["utf8"].encode()
    if keys == {"repeat", "times"} and isinstance(expression["repeat"], str):
        return expression["repeat"].encode() * expression["times"]
    if keys == {"concat"}:
        parts = value_of(expression["concat"], variables)
        return b"".join(part if isinstance(part, bytes) else str(part).encode() for part in parts)
    if keys == {"int"}:
        return int(expression["int"])
    if keys == {"numbered"}:
        return numbered(expression["numbered"])
    if keys == {"now_ms"}:
        return int(time.time() * 1000) + expression["now_ms"]
    if keys == {"plus"}:
        return sum(value_of(expression["plus"], variables))
    return {key: value_of(item, variables) for key, item in expression.items()}


def as_bytes(value):
    return value.encode() if isinstance(value, str) else value


COMPARISONS = {"gt": lambda a, b: a > b, "gte": lambda a, b: a >= b, "lt": lambda a, b: a < b,
               "lte": lambda a, b: a <= b}


def matches(expected, actual):
    """`expected` has been through value_of."""
    if isinstance(expected, dict):
        return matches_object(expected, actual)
    if isinstance(expected, list):
        return isinstance(actual, list) and len(expected) == len(actual) and all(map(matches, expected, actual))
    if isinstance(actual, bytes):
        return as_bytes(expected) == actual
    if isinstance(expected, bool) or isinstance(actual, bool):
        return expected is actual
    return type(expected) is type(actual) and expected == actual


def matches_object(expected, actual):
    keys = set(expected)
    if keys == {"any"}:
        return actual is not None
    if keys and keys <= set(COMPARISONS):
        return isinstance(actual, int) and all(COMPARISONS[key](actual, expected[key]) for key in keys)
    if keys == {"size"}:
        return isinstance(actual, bytes) and len(actual) == expected["size"]
    if keys == {"length"}:
        return isinstance(actual, list) and len(actual) == expected["length"]
    if keys == {"not"}:
        return not matches(expected["not"], actual)
    if keys == {"contains"}:
        return isinstance(actual, str) and expected["contains"] in actual
    if keys == {"one_of"}:
        return any(matches(choice, actual) for choice in expected["one_of"])
    if keys == {"each"}:
        return isinstance(actual, list) and all(matches(expected["each"], item) for item in actual)
    if keys == {"unordered"}:
        return isinstance(actual, list) and is_permutation(expected["unordered"], actual)
    return isinstance(actual, dict) and all(key in actual and matches(expected[key], actual[key]) for key in expected)


def is_permutation(expected, actual):
    left = list(actual)
    for item in expected:
        found = next((i for i, candidate in enumerate(left) if matches(item, candidate)), None)
        if found is None:
            return False
        del left[found]
    return not left


def plain(result):
    """A result of the client as objects, lists, bytes and numbers."""
    if isinstance(result, pando.PandoError):
        return error_fields(result)
    if dataclasses.is_dataclass(result):
        return plain(dataclasses.asdict(result))
    if hasattr(result, "_asdict"):
        return {key: plain(item) for key, item in result._asdict().items()}
    if isinstance(result, dict):
        return {key: plain(item) for key, item in result.items()}
    if isinstance(result, (list, tuple)):
        return [plain(item) for item in result]
    return result


def error_fields(error):
    kind = next((name for cls, name in KINDS.items() if isinstance(error, cls)), "PandoError")
    cause = getattr(error, "cause", None)
    return {"code": error.name, "number": error.code, "applied": error.applied.name, "retryable": error.retryable,
            "kind": kind, "message": error.message, "tries": getattr(error, "tries", None),
            "cause": error_fields(cause) if cause else None}


def shown(value):
    text = repr(value)
    return text if len(text) <= 600 else f"{text[:600]}... ({len(text)} characters)"


# -- cases -------------------------------------------------------------------------------------------------------------


class Control:
    """The connection to the control server."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.file = socket.create_connection((host, int(port))).makefile("rwb")
        self.lock = threading.Lock()

    def act(self, request):
        def sendable(value):
            if isinstance(value, bytes):
                return {"hex": value.hex()}
            raise TypeError(value)
        with self.lock:
            self.file.write(json.dumps(request, default=sendable).encode() + b"\n")
            self.file.flush()
            answer = json.loads(self.file.readline())
        if not answer.pop("ok"):
            raise Failed(f"control {request}: {answer['error']}")
        return evaluate_answer(answer)


def evaluate_answer(value):
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"]) if set(value) == {"hex"} else {k: evaluate_answer(v) for k, v in value.items()}
    if isinstance(value, list):
        return [evaluate_answer(item) for item in value]
    return value


class Case:
    """One case while it runs."""

    def __init__(self, case, api, addresses, control):
        self.case = case
        self.api = api
        self.control = control
        self.addresses = addresses
        self.named = {}
        self.snapshots = {}
        self.clients = []

    def run(self):
        if "only" in self.case and not set(self.case["only"]) & set(self.api.languages):
            raise Skipped()
        touched = self.case.get("through") == "proxy" or any("control" in step for step in all_steps(self.case["steps"]))
        try:
            if self.case.get("through") == "proxy":
                self.addresses = [self.control.act({"action": "proxy"})["address"]]
            self.named[None] = self.make_client(self.case.get("client", {}))
            self.run_steps(self.case["steps"], {})
        finally:
            try:
                self.close()
            finally:
                if touched:
                    self.control.act({"action": "heal"})

    def close(self):
        for snapshot in self.snapshots.values():
            try:
                self.api.call(snapshot, "release", timeout_ms=1000)
            except pando.PandoError:
                pass
        for client in self.clients:
            self.api.call(client, "close")

    def make_client(self, options):
        options = dict(options)
        for name in ("read_level", "write_level"):
            if name in options:
                options[name] = pando.Level[options[name]]
        client = self.api.client(options.pop("addresses", self.addresses), **options)
        self.clients.append(client)
        return client

    def run_steps(self, steps, variables):
        for number, step in enumerate(steps, 1):
            operation = next(key for key in step if key not in ("expect", "error", "save", "on"))
            try:
                self.run_step(operation, step, variables)
            except Failed as error:
                raise Failed(f"step {number} ({operation}): {error}") from error
            except Exception as error:  # pylint: disable=broad-except
                raise Failed(f"step {number} ({operation}): {type(error).__name__}: {error}") from error

    def run_step(self, operation, step, variables):
        arguments = step[operation]
        if operation not in ("repeat", "parallel"):
            arguments = value_of(arguments, variables)
        method = getattr(self, f"do_{operation}", None)
        if not method:
            raise Failed("unsupported operation")
        subject = self.named.get(step.get("on"))
        if subject is None:
            raise Failed(f"there is nothing named {step['on']}")
        try:
            result = plain(method(subject, arguments, variables))
            if "error" in step:
                raise Failed(f"expected the error {step['error']}, got {shown(result)}")
            what = "expect"
        except pando.PandoError as error:
            if "error" not in step:
                raise Failed(f"got the error {error_fields(error)}") from error
            result = error_fields(error)
            what = "error"
        if what in step:
            expected = value_of(step[what], variables)
            if not matches(expected, result):
                raise Failed(f"expected {shown(expected)}, got {shown(result)}")
        for name, path in step.get("save", {}).items():
            variables[name] = follow(result, path)

    # Arguments

    def common(self, arguments, read=False):
        options = {"timeout_ms": arguments["timeout_ms"]} if "timeout_ms" in arguments else {}
        if "level" in arguments:
            options["level"] = pando.Level[arguments["level"]]
        if read and "max_staleness_ms" in arguments:
            options["max_staleness_ms"] = arguments["max_staleness_ms"]
        return options

    def subject_and_options(self, subject, arguments):
        """For reads: the snapshot, if the step names one, reads for itself."""
        if "snapshot" in arguments:
            subject = self.snapshots[arguments["snapshot"]]
        return subject, self.common(arguments, read=True)

    @staticmethod
    def write_options(arguments):
        options = {key: arguments[key] for key in WRITE_OPTIONS if key in arguments}
        if "if_value" in options:
            options["if_value"] = as_bytes(options["if_value"])
        return options

    @staticmethod
    def range_options(arguments):
        return {key: as_bytes(arguments[key]) for key in RANGE if key in arguments}

    def read(self, method, subject, arguments, *positional, **more):
        subject, options = self.subject_and_options(subject, arguments)
        return self.api.call(subject, method, *positional, **options, **more)

    # Operations

    def do_get(self, subject, arguments, _):
        return self.read("get", subject, arguments, as_bytes(arguments["key"]))

    def do_multi_get(self, subject, arguments, _):
        return {"records": self.read("multi_get", subject, arguments, list(map(as_bytes, arguments["keys"])))}

    def do_put(self, subject, arguments, _):
        return self.api.call(subject, "put", as_bytes(arguments["key"]), as_bytes(arguments["value"]),
                             **self.write_options(arguments), **self.common(arguments))

    def do_remove(self, subject, arguments, _):
        return self.api.call(subject, "remove", as_bytes(arguments["key"]), **self.write_options(arguments),
                             **self.common(arguments))

    def do_increment(self, subject, arguments, _):
        number = self.api.call(subject, "increment", as_bytes(arguments["key"]), arguments.get("delta", 1),
                               **self.write_options(arguments), **self.common(arguments))
        return {"number": number}

    def do_touch(self, subject, arguments, _):
        return self.api.call(subject, "touch", as_bytes(arguments["key"]), **self.write_options(arguments),
                             **self.common(arguments))

    def do_write_batch(self, subject, arguments, _):
        ops = []
        for op in arguments["ops"]:
            (kind, fields), = op.items()
            options = self.write_options(fields)
            if kind == "put":
                options["value"] = as_bytes(fields["value"])
            if kind == "increment":
                options["delta"] = fields.get("delta", 1)
            ops.append(OPS[kind](as_bytes(fields["key"]), **options))
        conditions = [pando.Condition(as_bytes(c["key"]), **self.write_options(c))
                      for c in arguments.get("conditions", ())]
        return self.api.call(subject, "write_batch", ops, all_or_nothing=arguments.get("all_or_nothing", False),
                             conditions=conditions, **self.common(arguments))

    def start_scan(self, subject, arguments):
        subject, options = self.subject_and_options(subject, arguments)
        for name in ("reverse", "keys_only", "sizes_only", "limit", "page_rows", "slices", "slice", "cursor"):
            if name in arguments:
                options[name] = as_bytes(arguments[name])
        if "since" in arguments:
            options["since"] = self.snapshots[arguments["since"]].token
        return self.api.call(subject, "scan", **self.range_options(arguments), **options)

    def do_scan(self, subject, arguments, _):
        scan = self.start_scan(subject, arguments)
        return scan_result(self.api.rows(scan), scan)

    def do_scan_page(self, subject, arguments, _):
        scan = self.start_scan(subject, arguments)
        page = next(iter(self.api.pages(scan)), None)
        return scan_result(page.rows if page else [], scan)

    def do_count(self, subject, arguments, _):
        return {"count": self.read("count", subject, arguments, **self.range_options(arguments))}

    def do_aggregate(self, subject, arguments, _):
        return self.read("aggregate", subject, arguments, **self.range_options(arguments))

    def do_split_range(self, subject, arguments, _):
        parts = self.read("split_range", subject, arguments, arguments["parts"], **self.range_options(arguments))
        return {"parts": parts, "total": sum(part.count for part in parts)}

    def do_delete_range(self, subject, arguments, _):
        options = {key: arguments[key] for key in ("page_rows", "max_version", "timeout_ms") if key in arguments}
        return {"removed": self.api.call(subject, "delete_range", **self.range_options(arguments), **options)}

    def do_watch(self, subject, arguments, _):
        options = {}
        if "position" in arguments:
            options["position"] = arguments["position"]
        if "after_version" in arguments:
            options["after_version"] = arguments["after_version"]
        watch = self.api.call(subject, "watch", as_bytes(arguments.get("prefix", "")), **options)
        most, deadline = arguments.get("max_changes", 1 << 30), time.monotonic() + arguments.get("wait_ms", 0) / 1000
        changes = []
        try:
            while len(changes) < most:
                left_ms = max(int((deadline - time.monotonic()) * 1000), 0)
                more = self.api.call(watch, "poll", left_ms, min(most - len(changes), 10000))
                changes += more
                if not more and left_ms == 0:
                    break
            return {"changes": changes, "position": watch.position}
        finally:
            self.api.call(watch, "close")

    def do_snapshot(self, subject, arguments, _):
        options = {key: arguments[key] for key in ("ttl_ms", "renew", "timeout_ms") if key in arguments}
        snapshot = self.api.call(subject, "snapshot", **options)
        self.snapshots[arguments["as"]] = snapshot
        return {"version": snapshot.version, "expires_at_ms": snapshot.expires_at_ms}

    def do_renew(self, _, arguments, __):
        return self.api.call(self.snapshots[arguments["snapshot"]], "renew", arguments.get("ttl_ms", 0))

    def do_release(self, _, arguments, __):
        return {"existed": self.api.call(self.snapshots[arguments["snapshot"]], "release")}

    def do_session(self, subject, arguments, _):
        self.named[arguments["as"]] = self.api.call(subject, "session")
        return {}

    def do_client(self, _, arguments, __):
        options = dict(arguments)
        name = options.pop("as")
        self.named[name] = self.make_client(options)
        return {}

    def do_close(self, _, arguments, __):
        self.api.call(self.named[arguments["client"]], "close")
        return {}

    def do_server_info(self, subject, arguments, _):
        return dict(plain(self.api.call(subject, "server_info", **self.common(arguments))))

    def do_fill(self, subject, arguments, _):
        keys = numbered(dict(arguments, **{"from": 0, "to": arguments["count"] - 1}))
        value = as_bytes(arguments["value"]) if "value" in arguments else None
        for first in range(0, len(keys), BATCH_OPS):
            ops = [pando.Put(key, str(first + i).encode() if value is None else value)
                   for i, key in enumerate(keys[first:first + BATCH_OPS])]
            if not self.api.call(subject, "write_batch", ops).applied:
                raise Failed("a batch was not applied")
        return {}

    def do_sleep_ms(self, _, arguments, __):
        time.sleep(arguments / 1000)
        return {}

    def do_control(self, _, arguments, __):
        return self.control.act(arguments)

    def do_repeat(self, _, arguments, variables):
        for i in range(arguments["times"]):
            variables["i"] = i
            self.run_steps(arguments["steps"], variables)
        return {}

    def do_parallel(self, _, arguments, variables):
        branches = arguments.get("branches") or [arguments["steps"]] * arguments["times"]
        errors = []

        def run(i, steps):
            try:
                self.run_steps(steps, dict(variables, i=i))
            except Failed as error:
                errors.append(f"branch {i}: {error}")
        threads = [threading.Thread(target=run, args=branch, daemon=True) for branch in enumerate(branches)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise Failed(f"{len(errors)} of {len(branches)}: {errors[0]}")
        return {}


def all_steps(steps):
    for step in steps:
        yield step
        for nested in ("repeat", "parallel"):
            if nested in step:
                for branch in step[nested].get("branches") or [step[nested]["steps"]]:
                    yield from all_steps(branch)


def scan_result(rows, scan):
    return {"rows": rows, "keys": [row.key for row in rows], "count": len(rows), "pages": scan.pages_read,
            "cursor": scan.cursor}


def follow(result, path):
    if path == ".":
        return result
    for part in path.split("."):
        try:
            result = result[int(part)] if isinstance(result, list) else result[part]
        except (KeyError, IndexError, TypeError) as error:
            raise Failed(f"there is no {path} in {shown(result)}") from error
    return result


def run_case(case, api, options, control):
    """None, "skip", or why it failed."""
    outcome = ["it did not end in time"]

    def run():
        try:
            Case(case, api, options.addresses.split(","), control).run()
            outcome[0] = None
        except Skipped:
            outcome[0] = "skip"
        except Exception as error:  # pylint: disable=broad-except
            outcome[0] = str(error) if isinstance(error, Failed) else repr(error)
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(float(os.environ.get("PANDO_TEST_TIMEOUT_S", "60")))
    return outcome[0]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", required=True)
    parser.add_argument("--addresses", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--only")
    parser.add_argument("--client", choices=("sync", "async"), default="sync")
    options = parser.parse_args()
    api = AsyncApi() if options.client == "async" else SyncApi()
    control = Control(options.control)
    passed = failed = 0
    for path in sorted(pathlib.Path(options.cases).glob("*.json")):
        for case in json.loads(path.read_text(encoding="utf8")):
            if options.only not in (None, case["name"]):
                continue
            why = run_case(case, api, options, control)
            if why == "skip":
                print(f"skip {case['name']}", flush=True)
            elif why:
                failed += 1
                print(f"FAIL {case['name']}: {why}", flush=True)
            else:
                passed += 1
                print(f"ok {case['name']}", flush=True)
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
