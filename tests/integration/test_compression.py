#!/usr/bin/python3
"""Tests compressed pages: they make a store smaller, and a store that was written with several settings can be read
with any setting.

    tests/integration/test_compression.py
"""

import shutil
import subprocess

from node_process import BIN_DIR, CONTEXT, Admin, NodeProcess, constants, run_kvadmin, temporary_directory, ttypes

RECORDS = 4000
BATCH = 500


def value_of(number, setting):
    return (b"%d %s " % (number, setting.encode()) + b"all work and no play makes jack a dull boy; " * 25)[:1000]


def write(node, setting):
    with node.connect() as connection:
        for first in range(0, RECORDS, BATCH):
            ops = [ttypes.WriteOp(kind=constants.OP_PUT, key=b"%s/%06d" % (setting.encode(), n), value=value_of(n, setting))
                   for n in range(first, first + BATCH)]
            reply = connection.writeBatch(CONTEXT, ttypes.WriteBatchRequest(ops=ops))
            assert all(result.applied and result.error is None for result in reply.results)


def used_bytes(node):
    with node.connect(service=Admin) as admin:
        for _ in range(2):  # freed space becomes reusable two checkpoints later
            admin.checkpoint(CONTEXT)
        return sum(partition.used_bytes for partition in admin.status(CONTEXT).partitions)


def read(node, settings):
    with node.connect() as connection:
        for setting in settings:
            for first in range(0, RECORDS, BATCH):
                numbers = range(first, first + BATCH)
                keys = [b"%s/%06d" % (setting.encode(), n) for n in numbers]
                reply = connection.multiGet(CONTEXT, ttypes.MultiGetRequest(keys=keys))
                for number, item in zip(numbers, reply.items, strict=True):
                    assert item.record.value == value_of(number, setting), (setting, number)


def main():
    directory = temporary_directory("compression")
    data_dir = directory / "mixed"
    used, settings = {}, []
    for setting in ["none", "lz4", "zstd", "none"]:
        node = NodeProcess(data_dir, [f"--compression={setting}"]).start()
        read(node, settings)
        if setting not in settings:
            write(node, setting)
            settings.append(setting)
        read(node, settings)
        node.stop()

        alone = NodeProcess(directory / setting, [f"--compression={setting}"]).start()
        write(alone, setting)
        used[setting] = used_bytes(alone)
        alone.stop()
    run_kvadmin("check", data_dir)
    print("  bytes used:", used)
    assert used["none"] > RECORDS * 1000, used
    for setting in ["lz4", "zstd"]:
        assert used[setting] < 0.7 * used["none"], used

    refused = subprocess.run([str(BIN_DIR / "kvnode"), f"--data_dir={data_dir}", "--compression=gzip"],
                             stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1, refused
    assert '--compression: "gzip" is not none, lz4 or zstd' in refused.stderr, refused.stderr
    shutil.rmtree(directory)
    print("passed")


if __name__ == "__main__":
    main()
