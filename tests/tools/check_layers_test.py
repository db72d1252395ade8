"""Shows on small sample trees that every rule of tools/check_layers.py fires, and that clean code passes."""

import importlib.util
import pathlib
import tempfile
import unittest

SCRIPT = pathlib.Path(__file__).resolve().parents[2] / "tools" / "check_layers.py"
spec = importlib.util.spec_from_file_location("check_layers", SCRIPT)
check_layers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_layers)

HEADER = "// A thing.\n#pragma once\n"


class CheckLayersTest(unittest.TestCase):
    def setUp(self):
        self.directory = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.directory.name)
        self.addCleanup(self.directory.cleanup)

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if path.startswith(("src/", "tools/")):
            (file.parent / "CMakeLists.txt").write_text("pando_library(x)\n", encoding="utf-8")

    def findings(self, exceptions=None):
        return check_layers.Checker(self.root, exceptions or {}).run()

    def rules(self, exceptions=None):
        return sorted({finding.rule for finding in self.findings(exceptions)})

    def assert_rule(self, rule, path, code):
        self.write(path, code)
        hits = [f for f in self.findings() if f.rule == rule and f.path == path]
        self.assertTrue(hits, f"{rule} does not fire for {path}: {code!r}")
        return hits

    def assert_clean(self, path, code):
        self.write(path, code)
        self.assertEqual([], [str(f) for f in self.findings() if f.path == path], code)

    def test_clean_tree_has_no_findings(self):
        self.write("src/io/file.h", HEADER)
        self.write("src/wal/log.h", HEADER + '#include "src/io/file.h"\n')
        self.write("src/wal/log.cc", '#include "src/wal/log.h"\n#include <vector>\nint f() { return 1; }\n')
        self.assertEqual([], self.findings())

    def test_include_against_the_table(self):
        self.write("src/wal/log.h", HEADER)
        self.write("src/btree/tree.h", HEADER)
        self.assert_rule("layer", "src/btree/a.cc", '#include "src/wal/log.h"\n')
        self.assert_rule("layer", "src/io/a.cc", '#include "src/btree/tree.h"\n')
        self.assert_rule("layer", "src/base/a.cc", '#include "src/wal/log.h"\n')
        self.assert_rule("layer", "src/router/a.cc", '#include "src/btree/tree.h"\n')
        self.assert_clean("src/partition/a.cc", '#include "src/wal/log.h"\n#include "src/btree/tree.h"\n')
        self.assert_clean("tools/kvadmin/a.cc", '#include "src/wal/log.h"\n')

    def test_every_layer_may_use_base_and_metrics_and_only_the_table(self):
        self.write("src/base/b.h", HEADER)
        self.write("src/metrics/m.h", HEADER)
        for layer in check_layers.ALLOWED:
            self.write(f"src/{layer}/own.h", HEADER)
        for layer, allowed in check_layers.ALLOWED.items():
            self.assert_clean(f"src/{layer}/a.cc", '#include "src/base/b.h"\n#include "src/metrics/m.h"\n')
            for other in check_layers.ALLOWED:
                code = f'#include "src/{other}/own.h"\n'
                if other == layer or other in allowed | check_layers.OPEN_TO_ALL:
                    self.assert_clean(f"src/{layer}/a.cc", code)
                else:
                    self.assert_rule("layer", f"src/{layer}/a.cc", code)

    def test_src_must_not_include_tools_or_tests(self):
        self.write("tests/support/kernel.h", HEADER)
        self.assert_rule("layer", "src/node/a.cc", '#include "tests/support/kernel.h"\n')

    def test_unknown_layer(self):
        self.assert_rule("layer", "src/misc/a.cc", "\n")

    def test_include_not_from_the_root(self):
        self.write("src/wal/log.h", HEADER)
        self.assert_rule("include", "src/wal/log.cc", '#include "log.h"\n')

    def test_each_ban_fires_outside_io_and_not_inside(self):
        samples = {
            "thread": ["std::thread t;", "auto f = std::async(g);"],
            "clock": ["auto t = std::chrono::steady_clock::now();", "auto t = time(nullptr);", "clock_gettime(0, &t);",
                      "auto t = std::time(nullptr);"],
            "sleep": ["usleep(5);", "std::this_thread::sleep_for(d);", "::sleep(1);"],
            "file": ['int fd = open("x", 0);', 'int fd = ::open("x", 0);', 'auto* f = fopen("x", "r");',
                     "std::ofstream out;", "std::filesystem::path p;", "fsync(fd);"],
            "socket": ["int s = socket(1, 2, 3);", "::connect(s, a, n);"],
            "random": ["std::random_device device;", "int r = rand();", "int r = std::rand();"],
            "uring": ["#include <liburing.h>", "io_uring_submit(&ring);"],
        }
        self.assertEqual(set(samples) | {"wire", "latch"}, {ban.rule for ban in check_layers.BANS})
        for rule, codes in samples.items():
            for code in codes:
                self.assert_rule(rule, "src/wal/a.cc", code + "\n")
                self.assert_rule(rule, "src/node/a.cc", code + "\n")
                self.assert_clean("src/io/a.cc", code + "\n")
                self.assert_clean("tools/kvbench/a.cc", code + "\n")

    def test_wire_types_stay_out_of_storage(self):
        for code in ("#include <thrift/Thrift.h>\n", '#include "gen-cpp/Kv.h"\n', "apache::thrift::TException e;\n"):
            self.assert_rule("wire", "src/btree/a.cc", code)
            self.assert_clean("src/rpc/a.cc", code)

    def test_latches_stay_out_of_storage(self):
        self.assert_rule("latch", "src/btree/a.cc", "std::mutex m;\n")
        self.assert_clean("src/metrics/a.cc", "std::mutex m;\n")

    def test_the_message_names_the_replacement(self):
        finding = self.assert_rule("clock", "src/wal/a.cc", "\nauto t = std::chrono::steady_clock::now();\n")[0]
        self.assertIn("NowNs", finding.message)
        self.assertEqual(2, finding.line)

    def test_comments_strings_and_members_are_not_code(self):
        self.assert_clean("src/wal/a.cc", '// std::thread\n/* open("x") \n rand() */\nauto s = "usleep(1)";\n')
        self.assert_clean("src/wal/b.cc", "auto x = file.open(1); auto y = log->time(); File::open(x); reopen(x);\n")
        self.assert_clean("src/wal/c.cc", "co_await Sleep(reactor, 5); int run_time(int);\nint n = 1'000'000;\n")
        self.assert_clean("src/wal/d.cc", 'auto r = R"(std::thread "quoted" )"; char c = \'"\'; // rand()\n')

    def test_exceptions_apply_and_must_be_needed(self):
        self.write("src/node/http.cc", "std::thread t;\n")
        self.assertEqual(["thread"], self.rules())
        self.assertEqual([], self.rules({("src/node/http.cc", "thread"): "the control thread"}))
        self.write("src/node/http.cc", "\n")
        self.assertEqual(["exception"], self.rules({("src/node/http.cc", "thread"): "the control thread"}))

    def test_two_types_of_one_name(self):
        type_of = "// A thing.\n#pragma once\n{}struct Load {{\n  int a = 0;\n}};\n{}".format
        self.write("src/topology/a.h", type_of("namespace p {\n", "}  // namespace p\n"))
        self.write("src/partition/b.h", type_of("namespace p::other {\n", "}  // namespace p::other\n"))
        self.write("src/partition/c.cc", type_of("namespace p {\nnamespace {\n", "}  // namespace\n}  // namespace p\n"))
        self.write("src/partition/d.h", HEADER + "namespace p {\nstruct Load;\n}  // namespace p\n")
        self.assertNotIn("type-name", self.rules())
        code = type_of("namespace p {\nnamespace {\nstruct X {\n};\n}  // namespace\n", "}  // namespace p\n")
        hit = self.assert_rule("type-name", "src/wal/e.h", code)[0]
        self.assertIn("p::Load is also a type of", hit.message)

    def test_long_file(self):
        self.assert_rule("file-length", "src/wal/a.cc", "\n" * 801)
        self.assert_clean("src/wal/a.cc", "\n" * 800)
        self.assert_clean("src/wal/a.cc", "// Long file: one table.\n" + "\n" * 900)
        self.assert_rule("file-length", "src/wal/a.cc", "\n" * 300 + "// Long file: too late.\n" + "\n" * 600)

    def test_long_function_is_a_warning(self):
        body = "  x();\n" * 80
        finding = self.assert_rule("function-length", "src/wal/a.cc", "namespace p {\nint Log::Run(int a) {\n" + body + "}\n}\n")[0]
        self.assertTrue(finding.warning)
        self.assertIn("Log::Run", finding.message)
        self.assert_clean("src/wal/a.cc", "// Long function: one switch.\nint f() {\n" + body + "}\n")
        self.assert_clean("src/wal/a.cc", "namespace p {\n" + "int f() { return 1; }\n" * 90 + "}\n")
        self.assert_clean("src/wal/a.cc", "class A {\n" + "  int f() const { return 1; }\n" * 90 + "};\n")
        self.assert_rule("function-length", "src/wal/a.cc", "A::A(int a) : a_{a}, b_(2) {\n" + body + "}\n")

    def test_header_opening(self):
        self.write("src/wal/b.cc", '#include "src/wal/a.h"\n')
        self.assert_rule("opening", "src/wal/a.h", "#pragma once\n")
        self.assert_rule("opening", "src/wal/a.h", "// A thing.\n")
        self.assert_clean("src/wal/a.h", HEADER)

    def test_dead_header(self):
        self.assert_rule("dead", "src/wal/a.h", HEADER)
        self.assert_rule("dead", "src/wal/a.h", HEADER + '#include "src/wal/a.h"\n')
        self.assert_rule("dead", "src/wal/a.h", HEADER + '// #include "src/wal/a.h"\n')

    def test_dead_source(self):
        self.assert_rule("dead", "src/wal/deep/a.cc", "\n")
        self.assert_rule("dead", "tests/unit/wal/log.cc", "\n")
        self.assert_rule("dead", "tests/model/store.cc", "\n")
        self.assert_rule("dead", "tests/integration/client.cc", "\n")
        self.assert_clean("tests/unit/wal/log_test.cc", "\n")
        self.assert_clean("tests/support/kernel.cc", "\n")
        self.assert_clean("tests/fuzz/wal_fuzz.cc", "\n")

    def test_invariants_have_ids_and_rows(self):
        header = "// A log.\n//\n//   L1  It is ordered.\n#pragma once\n"
        code = '#include "src/wal/log.h"\n'
        self.write("src/wal/log.cc", code + "// L1\n")
        self.assert_rule("invariant", "src/wal/log.h", header)
        self.write("docs/INVARIANTS.md", "| L1 | ordered | `src/wal/log.cc` |\n")
        self.assert_clean("src/wal/log.h", header)
        self.write("src/wal/log.cc", code)  # names it no more
        self.assert_rule("invariant", "src/wal/log.h", header)
        self.write("tests/unit/wal/log_test.cc", code + "// L1: it is ordered.\n")
        self.assert_clean("src/wal/log.h", header)
        self.assert_rule("invariant", "docs/INVARIANTS.md", "| L1 | ordered | `tests/unit/wal/gone_test.cc` |\n")
        self.assert_rule("invariant", "docs/INVARIANTS.md", "| L1 | ordered |\n| L2 | gone |\n")
        self.write("docs/INVARIANTS.md", "| L1 | ordered |\n")
        self.write("src/io/file.cc", '#include "src/io/file.h"\n')
        self.write("src/io/file.h", header)
        self.assertEqual(["invariant"], self.rules())


if __name__ == "__main__":
    unittest.main()
