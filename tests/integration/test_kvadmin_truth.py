"""Tests that kvadmin reports what really happened: it never reports a false success, never crashes, and never leaves
partial output that looks complete, whatever happens to its output, its server, or itself."""

import json
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import threading
import time
import unittest

from kvadmin_harness import FLAGS, TIMEOUT_S, WithNode, start, wait_until
from kvadmin_process import CORRUPTION, FAILED, KVADMIN, NO, OK, REJECTED, USAGE, run
from node_process import BIN_DIR, ROOT, NodeProcess, temporary_directory


def bytes_saved(state):
    """How many bytes the state of an interrupted export covers."""
    try:
        return json.loads(state.read_text())["bytes"]
    except FileNotFoundError:
        return 0


class OutputTest(WithNode):
    """Standard output is full, closed, or has no reader."""

    def commands(self):
        """At least one invocation of each command that prints and would succeed."""
        token = self.kv("snapshot", "open", "--ttl-s", "600").out.strip()
        self.addCleanup(run, "snapshot", "release", token, server=self.server)
        stopped = NodeProcess(self.root / "stopped", FLAGS).start()
        stopped.stop()
        self.addCleanup(shutil.rmtree, self.root / "stopped")
        backup = self.root / "backup"
        self.kv("backup", "-q", backup)
        self.addCleanup(shutil.rmtree, backup)
        one = self.write("one.jsonl", '{"key": "one", "value": "1"}\n')
        count = iter(range(1000))

        def watch():
            self.kv("put", "out/watched", "before")
            version = json.loads(self.kv("--json", "get", "out/watched").out)["version"]
            self.kv("put", "out/watched", "after")
            return ["watch", "--after-version", str(version), "--once"]

        damaged = self.root / "damaged"
        shutil.copytree(self.root / "stopped", damaged)
        with open(damaged / "partition-00000/data", "r+b") as file:
            file.write(bytes(4 * 4096))

        return {
            "get": lambda: ["get", "row/00001"],
            "put": lambda: ["put", "out/put", "x"],
            "delete": lambda: (self.kv("put", "out/del", "x"), ["delete", "out/del"])[1],
            "delete-range": lambda: (self.kv("put", "out/range/1", "x"), ["delete-range", "--prefix", "out/range/"])[1],
            "increment": lambda: ["increment", "out/inc"],
            "touch": lambda: (self.kv("put", "out/touch", "x"), ["touch", "out/touch", "--ttl-ms", "600000"])[1],
            "watch": watch,
            "scan": lambda: ["scan", "--limit", "0"],
            "count": lambda: ["count"],
            "aggregate": lambda: ["aggregate"],
            "diff": lambda: (self.kv("put", "out/diff", "x"), ["diff", token, "--limit", "0"])[1],
            "split": lambda: ["split"],
            "snapshot": lambda: ["snapshot", "renew", token],
            "load": lambda: ["load", "-q", one],
            "export": lambda: ["export", "-q"],
            "export to a file": lambda: ["export", "-q", "-o", self.root / f"e{next(count)}"],
            "report": lambda: ["report", "-q"],
            "status": lambda: ["status"],
            "checkpoint": lambda: ["checkpoint"],
            "hello": lambda: ["hello"],
            "ping": lambda: ["ping", "--interval-ms", "0"],
            "backup": lambda: ["backup", "-q", self.root / f"b{next(count)}"],
            "restore": lambda: ["restore", "-q", backup, self.root / f"r{next(count)}"],
            "check": lambda: ["check", "-q", self.root / "stopped"],
            "check --online": lambda: ["check", "-q", "--online", "--mb-per-s", "1000"],
            "check --backup": lambda: ["check", "-q", "--backup", backup],
            "accept-loss": lambda: ["accept-loss", damaged, "--partition", "0"],
            "wal-dump": lambda: ["wal-dump", self.root / "stopped"],
            "cluster": lambda: ["cluster", "show", f"--topology=file:{ROOT}/tests/fixtures/topology-format-1"],
            # These need a cluster that runs; test_cluster_ops.py, test_cluster_grow.py and test_partition_split.py have one.
            "failover": lambda: ["failover", "--help"],
            "rebalance": lambda: ["rebalance", "--help"],
            "drain": lambda: ["drain", "--help"],
            "node": lambda: ["node", "--help"],
            "replica": lambda: ["replica", "--help"],
            "partition": lambda: ["partition", "--help"],
            "verify": lambda: ["verify", "--help"],
            "plan": lambda: ["plan", "--records", "1e9", "--value_bytes", "100", "--node_disk", "1T", "--node_memory", "64G"],
            "topology": lambda: ["topology", "dump", f"file:{ROOT}/tests/fixtures/topology-format-1"],
            "--help": lambda: ["--help"],
            "get --help": lambda: ["get", "--help"],
            "--json get": lambda: ["--json", "get", "row/00001"],
            "get --raw": lambda: ["get", "--raw", "row/00001"],
        }

    def test_every_command_notices(self):
        commands = self.commands()
        listed = re.findall(r"(?m)^  ([a-z-]+)[, ]", run("--help").out.split("Subcommands:")[1])
        self.assertGreater(len(listed), 15)
        self.assertEqual([name for name in listed if name not in commands], [], "commands that are not tested")
        for name, make in commands.items():
            with self.subTest(name), open("/dev/full", "wb") as full:
                done = start(*make(), server=self.server, stdout=full)
                _, err = done.communicate(timeout=TIMEOUT_S)
                self.assertEqual(done.returncode, FAILED, err)
                self.assertIn(b"standard output: No space left on device", err)
            with self.subTest(name + ", nobody reads"):
                reader, writer = os.pipe()
                os.close(reader)
                done = start(*make(), server=self.server, stdout=writer)
                os.close(writer)
                _, err = done.communicate(timeout=TIMEOUT_S)
                if name not in ("scan", "diff", "snapshot"):  # these also print a note
                    self.assertEqual(err, b"")
                self.assertEqual(done.returncode, -signal.SIGPIPE)
            with self.subTest(name + ", closed"):
                done = start(*make(), server=self.server, stdout=None, preexec_fn=lambda: os.close(1))
                _, err = done.communicate(timeout=TIMEOUT_S)
                self.assertEqual(done.returncode, FAILED, err)
                self.assertIn(b"standard output: Bad file descriptor", err)

    def test_head(self):
        done = subprocess.run(["bash", "-c", f"set -o pipefail; {KVADMIN} scan --limit 0 | head -1"], check=False,
                              env=dict(os.environ, PANDO_SERVER=self.server), capture_output=True, timeout=TIMEOUT_S)
        self.assertEqual((done.returncode, done.stdout.split(), done.stderr), (128 + signal.SIGPIPE, [b"KEY", b"VALUE"], b""))

    def test_standard_error_that_fails_changes_nothing(self):
        with open("/dev/full", "wb") as full:
            done = start("scan", "--limit", "3", server=self.server, stderr=full)
            out, _ = done.communicate(timeout=TIMEOUT_S)
        self.assertEqual((done.returncode, len(out.splitlines())), (OK, 4))
        done = start("get", "nothing", server=self.server, stderr=None, preexec_fn=lambda: os.close(2))
        done.communicate(timeout=TIMEOUT_S)
        self.assertEqual(done.returncode, NO)

    def test_rejects_file_that_is_full(self):
        path = self.write("bad.jsonl", "no json\n" * 3)
        done = self.kv("load", path, "--on-error", "skip", "--rejects", "/dev/full", expect=FAILED)
        self.assertIn("/dev/full: No space left", done.err)

    def test_errors_are_json(self):
        table = (ROOT / "docs/KVADMIN.md").read_text()
        for arguments, code, name in [
                (["get"], USAGE, "BAD_REQUEST"), (["--no-such", "get", "k"], USAGE, "BAD_REQUEST"),
                (["scan", "--limit=-1"], USAGE, "BAD_REQUEST"), (["frobnicate"], USAGE, "BAD_REQUEST"),
                (["get", "--hex", "0"], USAGE, "BAD_REQUEST"), (["check", "/no"], USAGE, "BAD_REQUEST"),
                (["load", "/no/such"], FAILED, "NOT_FOUND"), (["check", self.root / "data"], 5, "LOCKED")]:
            done = self.kv("--json", *arguments, expect=code)
            self.assertEqual(done.out, "", arguments)
            error = json.loads(done.err)["error"]
            self.assertEqual(error["code"], name)
            self.assertRegex(table, rf"\n\|[A-Z_, ]*\b{name}\b")
            self.assertTrue(error["message"], done.err)
        done = self.kv("--json", "load", self.write("two.jsonl", "no\nno\n"), "--on-error", "skip", expect=REJECTED)
        self.assertEqual([json.loads(line)["line"] for line in done.err.splitlines()], [1, 2])

    def test_a_cut_scan_has_its_cursor_in_the_json(self):
        rows = self.kv("--json", "scan", "--prefix", "row/", "--limit", "10").lines()
        more = rows.pop()["more"]
        self.assertEqual((len(rows), more["rows"]), (10, 10))
        rest = self.kv("--json", "scan", "--prefix", "row/", "--limit", "5", "--cursor", more["cursor"]).lines()
        self.assertEqual([r["key"] for r in rest[:-1]], [f"row/{i:05}" for i in range(10, 15)])
        self.assertNotIn("more", self.kv("--json", "scan", "--prefix", "row/0000", "--limit", "0").lines()[-1])
        token = self.kv("snapshot", "open").out.strip()
        for i in range(5):
            self.kv("put", f"changed/{i}", "x")
        changes = self.kv("--json", "diff", token, "--limit", "2").lines()
        more = changes.pop()["more"]
        rest = self.kv("--json", "diff", token, "--limit", "0", "--cursor", more["cursor"]).lines()
        self.assertEqual([r["key"] for r in changes + rest], [f"changed/{i}" for i in range(5)])
        self.kv("snapshot", "release", token)

    def test_a_cursor_that_is_refused_is_not_offered_again(self):
        done = self.kv("scan", "--cursor", "AAAA", expect=USAGE)
        self.assertNotIn("there are more", done.err)
        done = self.kv("--json", "scan", "--cursor", "AAAA", expect=USAGE)
        self.assertEqual(done.out, "")

    def test_a_write_without_an_answer_is_of_unknown_outcome(self):
        self.kv("put", "un/touch", "x")
        writes = [["put", "un/put", "x"], ["put", "un/absent", "x", "--if-absent"], ["delete", "un/put"],
                  ["touch", "un/touch", "--ttl-ms", "600000"], ["increment", "un/increment"],
                  ["delete-range", "--prefix", "un/range"]]
        reads = [["get", "un/put"], ["count"], ["scan"], ["status"]]
        self.node.process.send_signal(signal.SIGSTOP)
        try:
            for arguments in writes + reads:
                done = self.kv("--timeout-ms", "200", *arguments, expect=FAILED)
                self.assertIn("did not answer within", done.err)
                self.assertEqual("whether the write took effect is unknown" in done.err, arguments in writes, done.err)
        finally:
            self.node.process.send_signal(signal.SIGCONT)

    def test_a_server_that_is_none(self):
        def answer(listener):
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
                connection.close()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=answer, args=(listener,), daemon=True).start()
            for arguments in ["get", "k"], ["put", "k", "v"], ["load", "-"]:
                begin = time.monotonic()
                done = run("--timeout-ms", "600000", *arguments, server="127.0.0.1:%d" % listener.getsockname()[1])
                self.assertEqual(done.code, FAILED, done.err)
                self.assertIn('does not speak Thrift (its answer begins with "HTTP")', done.err)
                self.assertNotIn("unknown", done.err)
                self.assertLess(time.monotonic() - begin, TIMEOUT_S, "it was tried again")
            listener.shutdown(socket.SHUT_RDWR)

    def test_wal_dump_of_nothing_is_an_error(self):
        empty = self.root / "empty"
        empty.mkdir()
        done = self.kv("wal-dump", empty, expect=FAILED)
        self.assertIn("holds no log and no store", done.err)
        node = NodeProcess(self.root / "wd", FLAGS).start()
        run("put", "k", "v", server=f"{node.host}:{node.port}")
        node.stop()
        self.kv("wal-dump", node.data_dir)
        log = node.data_dir / "wal-0"
        moved = self.root / "wd-log"
        shutil.copytree(log, moved)
        for segment in log.iterdir():
            segment.unlink()
        self.assertIn("lost", self.kv("wal-dump", node.data_dir, expect=CORRUPTION).err)
        log.rmdir()
        self.assertIn("lost", self.kv("wal-dump", node.data_dir, expect=CORRUPTION).err)
        self.kv("wal-dump", moved)

    def test_topology_dump(self):
        place = self.root / "topology"
        shutil.copytree(ROOT / "tests/fixtures/topology-format-1", place)
        done = self.kv("topology", "dump", f"file:{place}")
        self.assertEqual([line.split()[:2] for line in done.out.splitlines()],
                         [["cluster", "1"], ["node/7", "2"], ["partition/00000", "1"]])
        self.assertEqual(done.err, "")
        done = self.kv("--json", "topology", "dump", f"file:{place}")
        self.assertEqual([entry["key"] for entry in done.lines()], ["cluster", "node/7", "partition/00000"])
        self.assertEqual(json.loads(done.lines()[1]["value"])["starts"], 1)
        before = sorted(os.listdir(place))
        (place / "partition.00000.000000000001").unlink()
        done = self.kv("--json", "topology", "dump", f"file:{place}")
        self.assertEqual(json.loads(done.err), {"note": "no partition has the hashes 0000000000000000 to ffffffffffffffff"})
        self.assertEqual(sorted(os.listdir(place)), [name for name in before if not name.startswith("partition")])
        (place / "cluster.000000000001").write_text("pando")
        self.assertIn("cluster.000000000001", self.kv("topology", "dump", f"file:{place}", expect=CORRUPTION).err)
        self.assertIn("Create it", self.kv("topology", "dump", f"file:{place}/none", expect=FAILED).err)
        self.assertIn("--topology", self.kv("topology", "dump", "nowhere", expect=USAGE).err)
        self.assertIn("127.0.0.1:1", self.kv("topology", "dump", "etcd://127.0.0.1:1/x", expect=FAILED).err)

    def test_numbers(self):
        for arguments in (["increment", "n", "--by=010"], ["increment", "n", "--by=0x10"],
                          ["increment", "n", "--by=99999999999999999999"], ["scan", "--limit=-1"],
                          ["scan", "--limit=18446744073709551616"], ["put", "n", "1", "--ttl-ms=1e3"],
                          ["--timeout-ms=010", "get", "n"], ["get", "n", "--timeout_ms", "0"],
                          ["put", "n", "1", "--if-version", "0x1"]):
            done = self.kv(*arguments, expect=USAGE)
            self.assertEqual(done.out, "")
        self.kv("get", "n", expect=NO)
        self.assertEqual(self.kv("increment", "n", "--by=-9223372036854775808").out, "-9223372036854775808\n")

    def test_empty_tokens_are_refused(self):
        for arguments in (["get", "k", "--snapshot", ""], ["scan", "--snapshot="], ["diff", ""],
                          ["snapshot", "release", ""], ["export", "--snapshot", ""]):
            self.kv(*arguments, expect=USAGE)

    def test_a_value_from_a_directory_is_none(self):
        self.assertIn("is a directory", self.kv("put", "dir", "--value-file", self.root, expect=USAGE).err)
        self.kv("get", "dir", expect=NO)


class InterruptTest(WithNode):
    """Ctrl-C and SIGTERM: what remains on the server and on the disk."""

    def interrupted(self, process, with_signal=signal.SIGINT):
        process.send_signal(with_signal)
        out, err = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, -with_signal, err)
        return out.decode(), err.decode()

    def test_backup(self):
        target = self.root / "bk"
        for with_signal in signal.SIGINT, signal.SIGTERM:
            process = start("backup", target, "--mb-per-s", "1", server=self.server)
            wait_until(lambda: self.snapshots() > 0, "the backup's snapshot")
            wait_until(lambda: list(self.root.glob("bk.partial/*.pages")), "its first file")
            out, err = self.interrupted(process, with_signal)
            self.assertRegex(err, rf"interrupted by {with_signal.name}; the backup was not created: \d+ pages had")
            self.assertEqual((out, self.snapshots(), list(self.root.glob("bk*"))), ("", 0, []))
        self.kv("backup", target)
        self.kv("check", "--backup", target)

    def test_export(self):
        target = self.root / "ex.jsonl"
        whole = self.kv("export", "-q", "--prefix", "row/").raw
        process = start("export", "-o", target, "--prefix", "row/", "--page-rows", "1", "--parallel", "1", server=self.server)
        partial = self.root / "ex.jsonl.partial"
        wait_until(lambda: partial.exists() and partial.stat().st_size > 0, "its first rows")
        self.kv("put", "row/zzz", "written meanwhile")
        out, err = self.interrupted(process)
        self.assertRegex(err, r"interrupted by SIGINT; \d+ records are in .*ex.jsonl.partial, and --resume continues")
        self.assertEqual((out, target.exists(), self.snapshots()), ("", False, 1), "only the snapshot must remain")
        done = self.kv("export", "-o", target, "--prefix", "row/", "--resume")
        self.assertIn("resuming after", done.err)
        self.assertEqual(target.read_bytes(), whole)
        self.assertEqual((self.snapshots(), sorted(p.name for p in self.root.glob("ex*"))), (0, ["ex.jsonl", "ex.jsonl.manifest"]))
        self.kv("delete", "row/zzz")

    def test_export_to_standard_output(self):
        process = start("export", "-q", "--page-rows", "1", server=self.server)
        process.stdout.read(1000)
        wait_until(lambda: self.snapshots() > 0, "its snapshot")
        self.interrupted(process)
        self.assertEqual(self.snapshots(), 0)

    def test_export_whose_reader_goes(self):
        process = start("export", "-q", server=self.server)
        process.stdout.read(1000)
        process.stdout.close()
        self.assertEqual(process.wait(TIMEOUT_S), -signal.SIGPIPE)
        self.assertEqual(self.snapshots(), 0)

    def killed_export(self, target, until, *options):
        command = ["export", "-o", target, "--prefix", "row/", "--page-rows", "1", "--parallel", "1", *options]
        with start(*command, server=self.server, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            wait_until(lambda: until() or process.poll() is not None, "the export to come so far")
            process.kill()
            self.assertEqual(process.wait(), -signal.SIGKILL)

    def test_export_after_a_stale_state_does_not_mix_two_moments(self):
        target, partial = self.root / "st.jsonl", self.root / "st.jsonl.partial"
        state = self.root / "st.jsonl.partial.state"
        self.killed_export(target, lambda: bytes_saved(state) > 0, "--save-every-mb", "0")
        saved_bytes = bytes_saved(state)
        for key in "row/00000", "row/19999":
            self.kv("put", key, "changed since")
        old = partial.stat().st_ino, partial.stat().st_mtime_ns
        self.killed_export(target, lambda: (partial.stat().st_ino, partial.stat().st_mtime_ns) != old and
                           partial.stat().st_size > saved_bytes + 10_000, "--save-every-mb", "1000")
        self.kv("export", "-o", target, "--prefix", "row/", "--resume")
        rows = target.read_text().splitlines()
        self.assertEqual([json.loads(row)["value"] for row in (rows[0], rows[-1])], ["changed since"] * 2)
        self.assertEqual(len(rows), 20_000)

    def test_export_goes_on_only_at_its_node(self):
        target, state = self.root / "tn.jsonl", self.root / "tn.jsonl.partial.state"
        whole = self.kv("export", "-q", "--prefix", "row/").raw
        self.killed_export(target, lambda: bytes_saved(state) > 0, "--save-every-mb", "0", "--latest")
        other = NodeProcess(self.root / "tn-other", FLAGS).start()
        self.addCleanup(other.kill)
        resume = ["export", "-o", target, "--prefix", "row/", "--latest", "--resume"]
        done = run(*resume, server=f"{other.host}:{other.port}")
        self.assertEqual(done.code, USAGE, done.err)
        self.assertIn("belongs to another export", done.err)
        self.assertFalse(target.exists())
        self.kv(*resume)
        self.assertEqual(target.read_bytes(), whole)

    def test_export_replaces_nothing_of_others(self):
        target, partial = self.root / "oo.jsonl", self.root / "oo.jsonl.partial"
        partial.write_text("mine")
        for resume in [], ["--resume"]:
            self.assertIn(str(partial), self.kv("export", "-o", target, *resume, expect=FAILED).err)
            self.assertEqual((partial.read_text(), target.exists()), ("mine", False))
        partial.unlink()
        self.kv("export", "-o", "", expect=USAGE)
        (self.root / "oo-dir").mkdir()
        link, real = self.root / "oo.link", self.root / "oo-dir" / "real.jsonl"
        link.symlink_to(real)
        self.kv("export", "-o", link, expect=USAGE)  # a link to nothing
        real.write_text("old")
        self.kv("export", "-o", link, "--prefix", "row/0000")
        self.assertTrue(link.is_symlink())
        self.assertEqual(len(real.read_text().splitlines()), 10)

    def test_restore(self):
        backup, data = self.root / "ri", self.root / "ri-data"
        self.kv("backup", "-q", backup)
        for attempt in range(100):
            process = start("restore", "-q", backup, data)
            with_signal = (signal.SIGINT, signal.SIGTERM)[attempt % 2]
            partial = self.root / "ri-data.partial"
            wait_until(lambda: partial.exists() or process.poll() is not None, "its beginning")
            process.send_signal(with_signal)
            err = process.communicate(timeout=TIMEOUT_S)[1].decode()
            self.assertFalse(partial.exists())
            if process.returncode == -with_signal:
                break
            self.assertEqual(process.returncode, OK, err)  # it was faster than the signal
            shutil.rmtree(data)
        self.assertIn(f"interrupted by {with_signal.name}", err)
        self.assertFalse(data.exists())

    def test_load(self):
        process = start("--json", "load", "-", server=self.server, stdin=subprocess.PIPE)
        lines = [json.dumps({"key": f"li/{i:04}", "value": "x"}).encode() + b"\n" for i in range(1, 1001)]
        process.stdin.write(b"".join(lines[:600]) + lines[600][:10])  # and half a line
        process.stdin.flush()
        wait_until(lambda: int(self.kv("count", "--prefix", "li/").out) >= 256, "its first batches")
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(TIMEOUT_S), -signal.SIGINT)  # its input is still open
        summary = json.loads(process.stdout.read())
        loaded = summary["loaded"]
        self.assertIn(loaded, range(256, 601), "the whole lines that it had read, not the partial one")
        self.assertEqual((summary["stopped"], summary["next_line"]), (True, loaded + 1))
        self.assertEqual(self.kv("count", "--prefix", "li/").out, f"{loaded}\n")
        path = self.root / "li.jsonl"
        path.write_bytes(b"".join(lines))
        done = self.kv("--json", "load", path, "--from-line", summary["next_line"]).json()
        self.assertEqual(done["loaded"], 1000 - loaded)
        for stream in process.stdin, process.stdout, process.stderr:
            stream.close()

    def test_scan_and_ping(self):
        process = start("ping", "--count", "1000000", "--interval-ms", "1000000", server=self.server)
        self.assertTrue(select.select([process.stdout], [], [], TIMEOUT_S)[0], "an answer was not shown when it came")
        self.assertIn(b" ms", process.stdout.readline())
        self.assertIn("interrupted", self.interrupted(process)[1])

    def test_a_server_that_does_not_answer(self):
        for arguments, unknown in (["count"], False), (["increment", "k"], True):
            with socket.create_server(("127.0.0.1", 0)) as silent:
                process = start("--timeout-ms", "600000", *arguments, server="127.0.0.1:%d" % silent.getsockname()[1])
                connection, _ = silent.accept()
                connection.recv(1)
                err = self.interrupted(process)[1]
                self.assertIn("interrupted by SIGINT", err)
                self.assertEqual("whether the write took effect is unknown" in err, unknown, err)
                connection.close()

    def test_ignored_signals_stay_ignored(self):
        process = start("ping", "--count", "2", "--interval-ms", "300", server=self.server,
                        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN))
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        self.assertEqual(process.wait(TIMEOUT_S), OK)
        process.communicate()


class ReadOnlyTest(WithNode):
    def test_check_and_wal_dump_need_no_write_access(self):
        data = self.root / "ro" / "data"
        data.parent.mkdir()
        node = NodeProcess(data, FLAGS).start()
        run("load", "-", server=f"{node.host}:{node.port}", stdin=b'{"key": "a", "value": "b"}\n')
        node.kill()
        nobody = 65534 if os.geteuid() == 0 else None

        def demote():
            if nobody:
                os.setgid(nobody)
                os.setuid(nobody)

        def read_only(*arguments):
            process = start(*arguments, preexec_fn=demote)
            out, err = process.communicate(timeout=TIMEOUT_S)
            return process.returncode, out.decode(), err.decode()

        parents = [p for p in data.parents if p != pathlib.Path("/") and p.stat().st_uid == os.geteuid()]
        modes = {p: p.stat().st_mode for p in parents}
        for path in [data, *data.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        try:
            for parent in parents:
                parent.chmod(modes[parent] | 0o005)
            for lock in True, False:
                if not lock:
                    (data / "lock").unlink() if nobody else None
                code, out, err = read_only("check", "-q", data)
                self.assertEqual(code, OK, out + err)
                self.assertIn("sound", out)
                code, out, err = read_only("wal-dump", data)
                self.assertEqual(code, OK, out + err)
                self.assertIn("put", out)
        finally:
            for path in [data, *data.rglob("*")]:
                path.chmod(0o755 if path.is_dir() else 0o644)
            for parent, mode in modes.items():
                parent.chmod(mode)
        # Readers still exclude a node.
        node.start()
        code, _, err = read_only("check", "-q", data) if not nobody else (run("check", data).code, "", "")
        self.assertEqual(code, 5, err)


class AddressTest(unittest.TestCase):
    def test_ipv6_in_every_tool(self):
        root = temporary_directory("ipv6")
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        with open(root / "log", "wb") as log:
            node = subprocess.Popen([BIN_DIR / "kvnode", "--data_dir", root / "data", "--listen", "[::1]:0", "--http_port",
                                     "0", "--logtostderr", *FLAGS], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        self.addCleanup(node.wait)
        self.addCleanup(node.kill)
        ready = re.compile(r"kvnode ready: thrift (\[::1\]:\d+), http (\[::1\]:\d+), ")
        wait_until(lambda: ready.search((root / "log").read_text()) or node.poll() is not None, "the node")
        match = ready.search((root / "log").read_text())
        self.assertTrue(match, (root / "log").read_text())
        server = match.group(1)
        self.assertEqual(run("put", "a", "b", server=server).code, OK)
        self.assertEqual(run("--server", server, "get", "a").out, "b\n")
        bench = subprocess.run([BIN_DIR / "kvbench", "run", "get", "--server", server, "--keys", "100", "--seconds", "1",
                                "--warmup_s", "0"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(bench.returncode, 0, bench.stdout + bench.stderr)
        example = subprocess.run(["/usr/bin/python3", ROOT / "clients" / "python" / "example.py", server],
                                 capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        self.assertEqual(example.returncode, 0, example.stdout + example.stderr)
        for bad in "::1:7420", "[::1]", "[::1:7420", "host", "host:0":
            self.assertEqual(run("--server", bad, "get", "a").code, USAGE, bad)


class NodeOptionsTest(unittest.TestCase):
    def test_the_least_memory_is_named_at_once_and_works(self):
        root = temporary_directory("least")
        self.addCleanup(shutil.rmtree, root, ignore_errors=True)
        for page_bytes in "8192", "65536":
            flags = ["--reactors=1", "--partitions=1", f"--page_bytes={page_bytes}"]
            node = NodeProcess(root / page_bytes, [*flags, "--memory_limit_mb=1"])
            node.launch()
            self.assertEqual(node.process.wait(TIMEOUT_S), 1)
            self.assertFalse(node.data_dir.exists(), "the data directory was created before the refusal")
            least = int(re.search(r"give at least (\d+)", node.output()).group(1))
            node.flags[-1] = f"--memory_limit_mb={least - 1}"
            node.launch()
            self.assertEqual(node.process.wait(TIMEOUT_S), 1)
            self.assertIn(f"give at least {least}", node.output())
            node.flags[-1] = f"--memory_limit_mb={least}"
            node.start()
            node.stop()
        node.flags[-1] = "--memory_limit_mb=17592186044416"
        node.launch()
        self.assertEqual(node.process.wait(TIMEOUT_S), 1)
        self.assertIn("it must be from 0 to 1073741824", node.output())


if __name__ == "__main__":
    unittest.main()
