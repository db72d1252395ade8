#!/usr/bin/env python3
"""Checks rules that the compiler cannot check: includes between layers, calls that only src/io may make, file and
function lengths, invariant IDs, unused files, and two types of one name.

    tools/check_layers.py [--root DIR] [--functions]

Prints one line for each finding, `path:line: [rule] message`, and exits with 1 if there is an error. Warnings (long
functions) do not change the exit code. tests/tools/check_layers_test.py shows that every rule fires.

A comment in the code, where reviewers see it, justifies an exception from the length limits:
    // Long file: <why>        within the first 40 lines of a file over 800 lines
    // Long function: <why>    inside, or right above, a function over 70 lines
"""

import argparse
import dataclasses
import pathlib
import re
import sys

# Folder of src/ -> folders of src/ that it may include, besides itself and those that are open to all.
OPEN_TO_ALL = {"base", "metrics"}
STORAGE = {"io", "buffer_pool", "wal", "btree", "model", "partition"}
ALLOWED = {
    "base": set(),
    "metrics": set(),
    "io": set(),
    "buffer_pool": {"io"},
    "wal": {"io"},
    "btree": {"buffer_pool", "io"},
    # Of buffer_pool: extent.h, what a copy of a partition names pages by. Of wal: units, and who reads them.
    "model": {"buffer_pool", "wal", "io"},
    "partition": STORAGE - {"partition"},
    "verify": STORAGE,
    "backup": STORAGE | {"verify"},
    "engine": STORAGE | {"verify", "backup"},
    "topology": {"io"},
    "replication": {"model", "wal", "topology", "io"},
    "rpc": {"io"},
    "kvapi": {"model", "rpc", "io"},
    "node": STORAGE | {"verify", "backup", "engine", "topology", "replication", "rpc", "kvapi"},
    "router": {"kvapi", "topology", "rpc", "model", "io"},
}

MAX_FILE_LINES = 800
MAX_FUNCTION_LINES = 70
REASON_WITHIN_LINES = 40


@dataclasses.dataclass(frozen=True)
class Ban:
    """A pattern that a set of layers must not contain, and what to use instead."""

    rule: str
    pattern: re.Pattern
    instead: str
    layers: frozenset = frozenset(ALLOWED) - {"io"}


def call(*names):
    """A pattern for calls of free functions; it matches neither members nor functions of other namespaces."""
    return r"(?<![\w:.>])(?:::|std::)?(?:" + "|".join(names) + r")\s*\("


BANS = [
    Ban("thread", re.compile(r"\bstd::(?:thread|jthread|async)\b|" + call("pthread_create")),
        "a reactor is the only thread; spawn a Task in a TaskGroup, or Reactor::CallRemote to another reactor"),
    Ban("clock", re.compile(r"\bstd::chrono::\w+_clock\b|" + call("clock_gettime", "gettimeofday", "time")),
        "Reactor::NowNs() for durations, Reactor::WallMs() for dates"),
    Ban("sleep", re.compile(r"\bstd::this_thread::|" + call("usleep", "sleep", "nanosleep")),
        "co_await Sleep(reactor, ns)"),
    Ban("file", re.compile(r"\bstd::(?:[io]?fstream|filebuf|filesystem)\b|"
                           + call("open", "openat", "creat", "fopen", "pread", "pwrite", "fsync", "fdatasync",
                                  "unlink", "rename", "mkdir", "opendir")),
        "File and its companions in src/io/file.h"),
    Ban("socket", re.compile(call("socket", "accept4?", "connect", "recv", "send")),
        "Reactor::Listen and Reactor::Connect"),
    Ban("random", re.compile(r"\bstd::random_device\b|" + call("rand", "srand", "random", "getrandom")),
        "Reactor::FillRandom() for what must not be guessed, else Reactor::Random(); simulations seed both"),
    Ban("uring", re.compile(r"<liburing\.h>|\bio_uring_\w+\s*\("), "the Reactor interface"),
    Ban("wire", re.compile(r"<thrift/|\"gen-cpp/|<gen-cpp/|\bapache::thrift\b"),
        "types of the layer's own; Thrift stays in rpc, kvapi, node and router",
        frozenset(ALLOWED) - {"rpc", "kvapi", "node", "router"}),
    Ban("latch", re.compile(r"\bstd::(?:mutex|shared_mutex|recursive_mutex|condition_variable)\b"),
        "nothing: one reactor owns the data; WaitQueue and Semaphore in src/io/sync.h wait without blocking",
        frozenset({"buffer_pool", "wal", "btree", "partition", "verify", "backup", "engine", "replication"})),
]

# (path, rule) -> reason. An entry that is no longer needed is itself an error.
EXCEPTIONS = {}

INVARIANT = re.compile(r"^//   ([A-Z]+[0-9]+)  \S", re.M)  # as headers state them
INVARIANT_ID = re.compile(r"\b[A-Z]+[0-9]+\b")
INVARIANT_TABLE = "docs/INVARIANTS.md"
TABLE_ROW = re.compile(r"^\| ([A-Z]+[0-9]+) \|", re.M)
INCLUDE = re.compile(r'^\s*#\s*include\s*"([^"]+)"')
GENERATED = ("gen-cpp/",)

# Types and namespaces that begin a line: the others are nested. An unnamed namespace has no name. A class that is
# specialized ("<"), or nested in one of another file ("::"), is not meant.
NAMESPACE = re.compile(r"namespace(?: ([\w:]+))? \{\s*$")
TYPE = re.compile(r"(?:template <.*> )?(?:struct|class) (\w+)(?: final)?(?: : [^;]*)? ?\{")


@dataclasses.dataclass(frozen=True)
class Finding:
    path: str
    line: int
    rule: str
    message: str
    warning: bool = False

    def __str__(self):
        kind = "warning: " if self.warning else ""
        return f"{self.path}:{self.line}: {kind}[{self.rule}] {self.message}"


def blank_out(text, strings=True):
    """Returns the text with comments (and the contents of literals) replaced by spaces. Lines and columns stay."""
    token = re.compile(
        r'//[^\n]*|/\*.*?\*/|(?P<raw>R"(?P<tag>[^()\s\\]{0,16})\(.*?\)(?P=tag)")'
        r'|(?P<string>"(?:\\.|[^"\\\n])*")|(?P<char>(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\')', re.S)

    def blank(match):
        literal = match.group("raw") or match.group("string") or match.group("char")
        if literal is None:
            return re.sub(r"[^\n]", " ", match.group(0))
        if not strings:
            return literal
        return '"' + re.sub(r"[^\n]", " ", literal[1:-1]) + '"'

    return token.sub(blank, text)


def line_of(text, offset):
    return text.count("\n", 0, offset) + 1


def brace_kind(head):
    """Says what a brace outside of functions opens, judged by the statement before it."""
    if re.search(r"\)[^()]*:\s.*[\w>]\s*$", head, re.S) and not re.search(r"\b(?:const|noexcept|override|final)\s*$", head):
        return "initialiser"  # Constructor(int a) : a_{
    is_type = re.match(r"\s*(?:template\s*<[^{]*>\s*)?(?:class|struct|union|enum|namespace)\b[^(]*$", head)
    if "(" in head and not is_type and not head.rstrip().endswith("="):
        return "function"
    return "scope"


def functions(code):
    """Yields (start_offset, open_offset, close_offset) of function bodies in blanked-out code.

    This is a heuristic that suffices for formatted code: a brace that opens outside any function, and whose statement
    has a parameter list, opens a body. Braces of constructor initializers (`: a_{1}`) belong to the statement.
    """
    stack = []  # of (kind, statement_start, open_offset)
    statement = 0
    in_function = 0
    for match in re.finditer(r"[{};]", code):
        at, char = match.start(), match.group(0)
        if char == "{":
            kind = "block" if in_function else brace_kind(code[statement:at])
            in_function += kind == "function"
            stack.append((kind, statement, at))
            if kind != "initialiser":
                statement = at + 1
        elif char == "}":
            if not stack:
                continue
            kind, start, opened = stack.pop()
            if kind == "function":
                in_function -= 1
                yield start, opened, at
            if kind != "initialiser":
                statement = at + 1
        elif not (stack and stack[-1][0] == "initialiser"):
            statement = at + 1


class Checker:
    def __init__(self, root, exceptions=None):
        self.root = pathlib.Path(root)
        self.exceptions = EXCEPTIONS if exceptions is None else exceptions
        self.used_exceptions = set()
        self.findings = []
        self.included = set()
        self.files = sorted(
            path.relative_to(self.root).as_posix()
            for top in ("src", "tools", "tests")
            for path in (self.root / top).rglob("*")
            if path.suffix in (".h", ".cc") and path.is_file())

    def report(self, path, line, rule, message, warning=False):
        if (path, rule) in self.exceptions:
            self.used_exceptions.add((path, rule))
            return
        self.findings.append(Finding(path, line, rule, message, warning))

    def run(self):
        for path in self.files:
            text = (self.root / path).read_text(encoding="utf-8")
            self.check_includes(path, text)
            self.check_bans(path, text)
            self.check_length(path, text)
            self.check_opening(path, text)
        self.check_dead_files()
        self.check_invariants()
        self.check_type_names()
        for path, rule in sorted(set(self.exceptions) - self.used_exceptions):
            self.findings.append(Finding(path, 1, "exception", f"the exception from '{rule}' is no longer needed: "
                                         "remove it from EXCEPTIONS in tools/check_layers.py"))
        return self.findings

    @staticmethod
    def layer(path):
        parts = path.split("/")
        return parts[1] if parts[0] == "src" and len(parts) > 2 else None

    def check_includes(self, path, text):
        layer = self.layer(path)
        if layer is not None and layer not in ALLOWED:
            self.report(path, 1, "layer", f"src/{layer} is not in the layer table of tools/check_layers.py")
            return
        for number, line in enumerate(blank_out(text, strings=False).split("\n"), 1):
            match = INCLUDE.match(line)
            if not match or match.group(1).startswith(GENERATED):
                continue
            target = match.group(1)
            if not (self.root / target).is_file():
                self.report(path, number, "include",
                            f'"{target}" is not a path from the repository root (use <...> for libraries)')
                continue
            if target != path:
                self.included.add(target)
            other = self.layer(target)
            if layer is None:
                continue
            if other is None:
                self.report(path, number, "layer", f"src/ must not include {target}: it may include only files of src/")
            elif other != layer and other not in OPEN_TO_ALL | ALLOWED[layer]:
                allowed = ", ".join(sorted(OPEN_TO_ALL | ALLOWED[layer]))
                self.report(path, number, "layer", f"src/{layer} must not include src/{other} (it may use {allowed})")

    def check_bans(self, path, text):
        layer = self.layer(path)
        code = blank_out(text)
        includes = blank_out(text, strings=False)
        for ban in BANS:
            if layer not in ban.layers:
                continue
            subject = includes if ban.rule in ("uring", "wire") else code
            for match in ban.pattern.finditer(subject):
                self.report(path, line_of(subject, match.start()), ban.rule,
                            f"`{match.group(0).strip()}` is not allowed in src/{layer}; use {ban.instead}")

    def check_length(self, path, text):
        lines = text.split("\n")
        total = len(lines) - (1 if lines[-1] == "" else 0)
        if total > MAX_FILE_LINES and not any("// Long file: " in line for line in lines[:REASON_WITHIN_LINES]):
            self.report(path, 1, "file-length", f"{total} lines, more than {MAX_FILE_LINES}: split it, or give the "
                        "reason near the top with `// Long file: <reason>`")
        if path.startswith("tests/"):
            return
        code = blank_out(text)
        for start, opened, closed in functions(code):
            first, last = line_of(code, opened), line_of(code, closed)
            length = last - first + 1
            # `start` follows the previous declaration, so the comment above the function is within the slice.
            if length > MAX_FUNCTION_LINES and "// Long function: " not in text[start:closed]:
                name = re.findall(r"([\w:~]+)\s*\(", code[start:opened])
                self.report(path, first, "function-length", f"{name[0] if name else 'function'} has {length} lines, "
                            f"more than {MAX_FUNCTION_LINES}: split it, or give the reason with "
                            "`// Long function: <reason>`",
                            warning=True)

    def check_opening(self, path, text):
        if not path.endswith(".h"):
            return
        if not text.startswith("//"):
            self.report(path, 1, "opening", "the header does not open with a comment on purpose, threads, invariants")
        if "#pragma once" not in text:
            self.report(path, 1, "opening", "no `#pragma once`")

    def check_invariants(self):
        """Checks that every invariant that a header states has a unique ID and a row in the table, and the reverse. Its
        ID must also stand where it is held: in a CHECK or a comment of a .cc file, or in a test."""
        stated = {}
        for path in self.files:
            if not path.startswith(("src/", "tests/support/")) or not path.endswith(".h"):
                continue
            text = (self.root / path).read_text(encoding="utf-8")
            for match in INVARIANT.finditer(text):
                name, line = match.group(1), line_of(text, match.start())
                if name in stated:
                    self.report(path, line, "invariant", f"{name} is also an invariant of {stated[name][0]}")
                stated.setdefault(name, (path, line))
        table = self.root / INVARIANT_TABLE
        text = table.read_text(encoding="utf-8") if table.is_file() else ""
        rows = {match.group(1): line_of(text, match.start()) for match in TABLE_ROW.finditer(text)}
        for name in sorted(set(stated) - set(rows)):
            self.report(*stated[name], "invariant", f"{name} has no row in {INVARIANT_TABLE}")
        for name in sorted(set(rows) - set(stated)):
            self.report(INVARIANT_TABLE, rows[name], "invariant", f"no header states {name}")
        held = set()
        tests = [p for p in (self.root / "tests").rglob("*") if p.suffix in (".h", ".cc", ".py")]
        for path in [*(self.root / "src").rglob("*.cc"), *tests]:
            held |= set(INVARIANT_ID.findall(INVARIANT.sub("", path.read_text(encoding="utf-8"))))
        for name in sorted(set(stated) - held):
            self.report(*stated[name], "invariant", f"{name} is named in no .cc file of src/ and in no test")
        for match in re.finditer(r"`((?:tests|src|tools)/[\w./-]+\.\w+)`", text):
            if not (self.root / match.group(1)).is_file():
                self.report(INVARIANT_TABLE, line_of(text, match.start()), "invariant", f"no file {match.group(1)}")

    def check_type_names(self):
        """Checks that no two files define a type of the same full name: the linker would take the functions of one of
        them for both, without a word."""
        defined = {}
        for path in self.files:
            if path.startswith("tests/"):
                continue
            opened = []
            text = (self.root / path).read_text(encoding="utf-8")
            for number, (line, whole) in enumerate(zip(blank_out(text).split("\n"), text.split("\n")), 1):
                if match := NAMESPACE.match(line):
                    opened.append(match.group(1))
                elif opened and whole.startswith("}  // namespace"):
                    opened.pop()
                elif (match := TYPE.match(line)) and None not in opened:
                    name = "::".join([*opened, match.group(1)])
                    other = defined.setdefault(name, path)
                    if other != path:
                        self.report(path, number, "type-name", f"{name} is also a type of {other}: rename one of them, or "
                                    "put it into an unnamed namespace")

    def check_dead_files(self):
        for path in self.files:
            parts = path.split("/")
            if path.endswith(".h"):
                if path not in self.included:
                    self.report(path, 1, "dead", "no file includes this header")
            elif not self.is_built(path, parts):
                self.report(path, 1, "dead", "no target builds this source: targets take the .cc files directly in "
                            "src/<layer>/, in the folders a tool's CMakeLists.txt names, and in tests/<kind>/ by name "
                            "(see tests/CMakeLists.txt)")

    def is_built(self, path, parts):
        if parts[0] in ("src", "tools"):
            listing = self.root / parts[0] / parts[1] / "CMakeLists.txt"
            return listing.is_file() and (len(parts) == 3 or f"{parts[2]}/" in listing.read_text(encoding="utf-8"))
        kind = parts[1]
        if kind == "support":
            return len(parts) == 3
        if kind == "unit":
            tested = [self.root / top / parts[2] for top in ("src", "tools")]
            return len(parts) == 4 and any(folder.is_dir() for folder in tested) and path.endswith("_test.cc")
        if kind == "fuzz":
            return len(parts) == 3 and path.endswith("_fuzz.cc")
        if kind in ("model", "crash", "sim") and path.endswith("_test.cc"):
            return len(parts) == 3
        listing = self.root / "tests" / kind / "CMakeLists.txt"
        return listing.is_file() and parts[-1] in listing.read_text(encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    parser.add_argument("--functions", action="store_true", help="also list long functions (warnings)")
    options = parser.parse_args()
    checker = Checker(options.root)
    findings = checker.run()
    errors = [f for f in findings if not f.warning]
    warnings = [f for f in findings if f.warning]
    for finding in errors + (warnings if options.functions else []):
        print(finding)
    print(f"{len(checker.files)} files, {len(errors)} errors, {len(warnings)} warnings"
          + ("" if options.functions or not warnings else " (--functions lists them)"))
    return 1 if errors else 0


if __name__ == "__main__":
    sys.exit(main())
