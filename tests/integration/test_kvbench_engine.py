#!/usr/bin/python3
"""Tests kvbench engine with every engine that it was built with: short runs of each kind of workload, their JSON, and
their plots."""

import json
import shutil
import subprocess
import xml.etree.ElementTree

from node_process import BIN_DIR, temporary_directory

WORKLOADS = ["load-random", "load-sorted", "get-memory", "get", "put", "scan", "scan-full",
             "ycsb-d", "ycsb-e", "ycsb-f", "put-open"]


def check(directory):
    figures, plots = directory / "figures.json", directory / "plots"
    done = subprocess.run(
        [BIN_DIR / "kvbench", "engine", f"--workloads={','.join(WORKLOADS)}", "--records=20000", "--memory_mb=24",
         "--clients=16", "--seconds=0.3", "--warmup_s=0.1", "--unlimited_page_cache", "--timeout_s=120",
         f"--dir={directory}", f"--json={figures}", f"--plots={plots}"],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, f"kvbench exited with {done.returncode}:\n{done.stdout}{done.stderr}"
    lines = [json.loads(line) for line in figures.read_text().splitlines()]
    engines = {line["system"] for line in lines}
    assert "pando" in engines
    assert len(lines) == len(engines) * len(WORKLOADS), done.stderr
    for line in lines:
        assert line["ops"] > 0 and line["space_per_live_byte"] > 0.5, line
        if line["workload"] in ("put", "put-open", "load-random"):
            assert line["write_amplification"] >= 1, line
        if line["workload"] == "scan-full":
            assert line["scanned_mb_per_s"] > 0, line
        if line["workload"] == "put-open":
            assert line["rate"] > 0 and line["timeline_max_us"], line
    for name in ("rates.svg", "latency.svg", "put-open-timeline.svg"):
        xml.etree.ElementTree.parse(plots / name)
    left = [path.name for path in directory.iterdir()]
    assert sorted(left) == ["figures.json", "plots"], f"stores were left behind: {left}"


def main():
    directory = temporary_directory("kvbench-engine")
    try:
        check(directory)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
