"""Tests that backups and restores are whole or are named unfinished, whoever interferes with them."""

import fcntl
import shutil
import signal
import subprocess
import time
import unittest
import uuid

from kvadmin_harness import FLAGS, TIMEOUT_S, FakeServer, WithNode, small_files, start, wait_until
from kvadmin_process import CORRUPTION, FAILED, IN_USE, OK, USAGE, run
from node_process import NodeProcess, ttypes


class BackupTest(WithNode):
    def test_backup_touches_nothing_of_others(self):
        precious = self.root / "pr.partial"
        precious.mkdir()
        (precious / "photo").write_text("mine")
        done = self.kv("backup", self.root / "pr", expect=FAILED)
        self.assertIn(str(precious), done.err)
        self.assertEqual((precious / "photo").read_text(), "mine")
        empty_file = self.root / "empty-file"
        empty_file.touch()
        self.kv("backup", empty_file, expect=FAILED)
        # The file system with this directory may not be mounted.
        done = self.kv("backup", self.root / "unmounted/deep/backup", expect=FAILED)
        self.assertIn(f"{self.root}/unmounted/deep: there is no such directory", done.err)
        self.assertFalse((self.root / "unmounted").exists())
        self.assertTrue(empty_file.is_file())
        self.assertEqual(self.snapshots(), 0)

    def test_a_node_without_some_partitions_has_no_backup(self):
        server = FakeServer(None)
        self.addCleanup(server.close)
        parts = [ttypes.PartitionStatus(id=partition, uuid=str(uuid.uuid4())) for partition in (0, 1, 3)]
        server.node_status = ttypes.NodeStatus(node_id=str(uuid.uuid4()), page_bytes=4096, reactors=1, ranges=4,
                                               partitions=parts)
        target = self.root / "gaps"
        done = run("backup", target, server=server.address)
        self.assertEqual(done.code, FAILED, done.err)
        self.assertIn("the node holds 3 of 4 partitions", done.err)
        self.assertEqual(list(self.root.glob("gaps*")), [])

    def test_two_backups_to_one_name(self):
        target, partial = self.root / "tb", self.root / "tb.partial"
        process = start("backup", target, "--mb-per-s", "4", server=self.server)
        wait_until(lambda: list(partial.glob("*.pages")), "its first file")
        process.send_signal(signal.SIGSTOP)
        done = self.kv("backup", target, expect=IN_USE)
        self.assertIn("another kvadmin builds this directory now", done.err)
        self.assertTrue(partial.exists())
        process.send_signal(signal.SIGCONT)
        _, err = process.communicate(timeout=TIMEOUT_S)
        self.assertEqual(process.returncode, OK, err)
        self.kv("check", "--backup", target)
        self.assertEqual(self.snapshots(), 0)

    def test_two_restores_to_one_name(self):
        backup, data, partial = self.root / "tr", self.root / "tr-data", self.root / "tr-data.partial"
        self.kv("backup", backup)
        partial.mkdir()
        with open(partial / "UNFINISHED", "w", encoding="utf-8") as marker:  # what a running restore holds
            (partial / "store.meta").write_text("half")
            fcntl.flock(marker, fcntl.LOCK_EX)
            done = self.kv("restore", backup, data, expect=IN_USE)
            self.assertIn("another kvadmin builds this directory now", done.err)
            self.assertEqual((partial / "store.meta").read_text(), "half")
        self.kv("restore", backup, data)
        self.kv("check", "-q", data)
        self.assertFalse(partial.exists())
        # Several at once: one succeeds, the others fail, and the store is sound.
        data = self.root / "tr-many"
        processes = [start("restore", "-q", backup, data) for _ in range(4)]
        codes = sorted(p.wait(TIMEOUT_S) for p in processes)
        for p in processes:
            p.communicate()
        self.assertEqual(codes[0], OK)
        self.assertLessEqual(set(codes[1:]), {FAILED, IN_USE})  # it exists already, or is being built
        self.kv("check", "-q", data)

    def test_relative_names(self):
        def there(*arguments, expect=OK):
            process = start(*arguments, server=self.server, cwd=self.root)
            out, err = process.communicate(timeout=TIMEOUT_S)
            self.assertEqual(process.returncode, expect, (arguments, out, err))

        for name in "rel-empty", "rel-a":
            (self.root / name).mkdir()
        for name in "rel-new", "rel-empty", "./rel-dot", "rel-a/rel-b", "rel-slash/":
            there("backup", name)
            there("check", "--backup", name)
        there("backup", "rel-more", "--base", "rel-new")
        there("restore", "-q", "rel-more", "rel-data")
        there("check", "-q", "rel-data")
        there("backup", "", expect=USAGE)
        there("restore", "rel-new", "", expect=USAGE)
        self.assertEqual((self.snapshots(), list(self.root.glob("rel*.partial"))), (0, []))

    def test_a_backup_named_through_a_link(self):
        sunday, monday, home = self.root / "ln-sunday", self.root / "ln-monday", self.root / "ln" / "home"
        home.mkdir(parents=True)
        self.kv("backup", sunday)
        self.kv("put", "ln", "1")
        self.kv("backup", monday, "--base", sunday)
        latest = home / "latest"
        latest.symlink_to(monday)
        self.kv("check", "--backup", latest)
        self.kv("restore", "-q", latest, self.root / "ln-data")
        self.kv("backup", self.root / "ln-tuesday", "--base", latest)
        self.kv("check", "--backup", self.root / "ln-tuesday")
        nowhere = home / "nowhere"
        nowhere.symlink_to(self.root / "does" / "not" / "exist")
        self.assertIn("link to nothing", self.kv("backup", nowhere, expect=FAILED).err)
        self.assertFalse((home / "nowhere.partial").exists())

    def test_a_limit_on_the_size_of_files_is_no_damage(self):
        backup = self.root / "sf"
        self.kv("backup", backup)
        for arguments in (["backup", self.root / "sf-backup"], ["restore", backup, self.root / "sf-data"],
                          ["export", "-o", self.root / "sf-export"]):
            with self.subTest(arguments[0]):
                process = start(*arguments, server=self.server, preexec_fn=small_files)
                err = process.communicate(timeout=TIMEOUT_S)[1].decode()
                self.assertEqual(process.returncode, FAILED, err)
                self.assertIn("File too large", err)
                for word in "lost", "damage", "another backup":
                    self.assertNotIn(word, err)
                if arguments[0] != "export":
                    self.assertEqual((self.snapshots(), list(self.root.glob("sf-*"))), (0, []))
        # An export keeps what it has, and is continued when there is room.
        self.kv("export", "-o", self.root / "sf-export", "--resume")
        self.assertEqual((self.root / "sf-export").read_bytes(), self.kv("export", "-q").raw)
        self.assertEqual(self.snapshots(), 0)

    def test_backup_that_fails_releases_its_snapshot(self):
        full, other = self.root / "bf", self.root / "bo"
        self.kv("backup", full)
        shutil.copytree(full, other)
        # The first file of the base is missing, which kvadmin finds while the backup runs.
        next(iter(sorted(other.glob("*.pages")))).unlink()
        self.kv("backup", self.root / "bg", "--base", other, expect=FAILED)
        self.assertEqual((self.snapshots(), list(self.root.glob("bg*"))), (0, []))

    def test_a_damaged_backup_restores_to_nothing(self):
        backup = self.root / "rb"
        self.kv("backup", backup)
        pages = sorted(backup.glob("*.pages"))[1]
        intact = pages.read_bytes()
        damages = {"a changed byte": intact[:9000] + bytes([intact[9000] ^ 1]) + intact[9001:],
                   "cut short": intact[:len(intact) // 8192 * 4096], "empty": b"", "missing": None}
        for name, content in damages.items():
            with self.subTest(name):
                pages.unlink()
                if content is not None:
                    pages.write_bytes(content)
                data = self.root / "rb-data"
                done = self.kv("restore", "-q", backup, data, expect=CORRUPTION)
                self.assertIn(str(pages) if content is None else "partition", done.err)
                self.assertEqual(list(self.root.glob("rb-data*")), [], "files were left that look like a store")
                pages.write_bytes(intact)
        manifest = backup / "BACKUP.json"
        text = manifest.read_bytes()
        manifest.write_bytes(text[:-30])
        self.kv("restore", backup, self.root / "rb-data", expect=CORRUPTION)
        manifest.write_bytes(text)
        self.kv("restore", self.root, self.root / "rb-data", expect=FAILED)  # not a backup
        self.kv("restore", "/no/such", self.root / "rb-data", expect=USAGE)
        self.kv("restore", backup, self.root / "data", expect=FAILED)  # a store exists there
        self.kv("restore", backup, self.root / "rb-data")
        self.kv("restore", backup, self.root / "rb-data", expect=FAILED)

    def test_a_killed_restore_opens_as_nothing(self):
        backup = self.root / "kb"
        self.kv("backup", backup)
        data, partial = self.root / "kb-data", self.root / "kb-data.partial"
        seen = 0
        for delay_ms in range(0, 120, 6):
            process = start("restore", "-q", backup, data, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wait_until(lambda: partial.exists() or process.poll() is not None, "its beginning")
            time.sleep(delay_ms / 1000)  # the moment of the signal; any moment will do
            process.kill()
            process.wait()
            for directory in data, partial:
                if not directory.exists() or (not (directory / "UNFINISHED").exists() and
                                              (directory / "store.meta").exists()):
                    continue
                seen += 1
                whole = (directory / "store.meta").exists()
                node = NodeProcess(directory, FLAGS)
                node.launch()
                self.assertEqual(node.process.wait(TIMEOUT_S), 1, node.output())
                self.assertIn("a restore into this directory was not completed", node.output())
                self.assertEqual((directory / "store.meta").exists(), whole)
                self.kv("check", "-q", directory, expect=OK if whole else FAILED)
            if data.exists():
                break
        self.assertGreater(seen, 0)
        shutil.rmtree(data, ignore_errors=True)
        self.kv("restore", "-q", backup, data)  # over what the previous restore left
        self.assertFalse(partial.exists())
        (data / "UNFINISHED").touch()  # as when the restore was killed just before it removed the mark
        node = NodeProcess(data, FLAGS)
        node.launch()
        self.assertEqual(node.process.wait(TIMEOUT_S), 1, node.output())
        (data / "UNFINISHED").unlink()
        check = self.kv("check", "-q", data)
        self.assertNotIn("NOTE", check.out)
        self.assertIn("sound", check.out)

    def test_a_store_that_lost_its_meta_is_not_made_anew(self):
        backup = self.root / "lm"
        self.kv("backup", backup)
        data = self.root / "lm-data"
        self.kv("restore", "-q", backup, data)
        (data / "store.meta").unlink()
        node = NodeProcess(data, FLAGS)
        node.launch()
        self.assertEqual(node.process.wait(TIMEOUT_S), 1, node.output())
        self.assertIn("no store.meta", node.output())


if __name__ == "__main__":
    unittest.main()
