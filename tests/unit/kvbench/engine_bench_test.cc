#include "tools/kvbench/engine_bench.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>

#include "tools/kvbench/process_stats.h"

namespace pando::bench {
namespace {

TEST(CpuList, TakesRangesAndRefusesNonsense) {
  EXPECT_EQ(*ParseCpuList("0"), std::vector<int>({0}));
  EXPECT_EQ(*ParseCpuList("0-2,5"), std::vector<int>({0, 1, 2, 5}));
  for (const char* bad : {"", ",", "a", "1-", "2-1", "1,,2", "1 2", "-1", "99999"}) {
    EXPECT_EQ(ParseCpuList(bad).code(), Code::kInvalidArgument) << bad;
  }
}

TEST(Options, AreCompletedAndChecked) {
  EngineBenchOptions options;
  options.engines = {"pando"};
  options.records = 8 << 20;
  options.shape = {24, 1000};
  ASSERT_TRUE(CompleteOptions(&options).ok());
  EXPECT_EQ(options.memory_mb, 1024u) << "an eighth of the data";
  EXPECT_FALSE(options.cpus.empty());
  EXPECT_EQ(MemoryFor(options, *FindEngineWorkload("get")), 1024u << 20);
  EXPECT_GT(MemoryFor(options, *FindEngineWorkload("get-memory")), 2 * DataBytes(options));

  options.workloads = {"get", "ycsb-g"};
  EXPECT_EQ(CompleteOptions(&options).code(), Code::kInvalidArgument);
  options.workloads = {"get"};
  options.engines = {"redis"};
  EXPECT_EQ(CompleteOptions(&options).code(), Code::kInvalidArgument);
  for (const EngineInfo& engine : AllEngines()) {
    options.engines = {engine.name};
    Status status = CompleteOptions(&options);
    EXPECT_EQ(status.ok(), engine.make != nullptr);
    if (engine.make) continue;
    EXPECT_NE(status.message().find(engine.package), std::string::npos) << status.message();
  }
}

TEST(Workloads, AllHaveAMix) {
  for (const EngineWorkload& w : EngineWorkloads()) {
    WorkloadOptions options;
    options.name = w.mix;
    EXPECT_TRUE(MixOf(options).ok()) << w.name;
  }
  for (const std::string& name : DefaultEngineWorkloads()) EXPECT_NE(FindEngineWorkload(name), nullptr) << name;
}

TEST(ProcessIo, IsReadFromTheKernelsText) {
  Result<ProcessIo> io = ParseProcessIo(
      "rchar: 323934931\nwchar: 323929600\nsyscr: 632687\nsyscw: 632675\n"
      "read_bytes: 4096\nwrite_bytes: 323932160\ncancelled_write_bytes: 160\n");
  ASSERT_TRUE(io.ok());
  EXPECT_EQ(io->read_bytes, 4096u);
  EXPECT_EQ(io->written_bytes, 323932000u) << "without canceled writes";
  EXPECT_EQ(ParseProcessIo("read_bytes: 4096\n").code(), Code::kCorruption);
  EXPECT_EQ(ParseProcessIo("read_bytes: x\nwrite_bytes: 1\ncancelled_write_bytes: 0\n").code(), Code::kCorruption);
  EXPECT_TRUE(ReadProcessIo().ok());
}

TEST(ProcessStatus, GivesBytes) {
  EXPECT_EQ(ParseStatusBytes("VmPeak:\t  99 kB\nVmHWM:\t   12 kB\n", "VmHWM"), 12u << 10);
  EXPECT_EQ(ParseStatusBytes("VmPeak:\t  99 kB\n", "VmHWM"), std::nullopt);
  EXPECT_GT(PeakMemoryBytes(), 1u << 20);
}

TEST(Device, BytesWrittenAreTheSeventhNumber) {
  EXPECT_EQ(ParseDeviceWrittenBytes("11520613   869991 231636001  8458760  8960874  9154596 455988 39 1 2 3\n"),
            455988u * 512);
  EXPECT_EQ(ParseDeviceWrittenBytes("1 2 3\n"), std::nullopt);
  EXPECT_EQ(ParseDeviceWrittenBytes(""), std::nullopt);
  const double ticks = static_cast<double>(::sysconf(_SC_CLK_TCK));
  EXPECT_EQ(ParseStolenCpuSeconds("cpu  10 20 30 40 50 60 70 800 0 0\ncpu0 1 2 3 4 5 6 7 8 0 0\n"), 800 / ticks);
  EXPECT_EQ(ParseStolenCpuSeconds("cpu  10 20 30\ncpu0 1 2 3 4 5 6 7 8 0 0\n"), std::nullopt) << "an old kernel";
  EXPECT_EQ(ParseStolenCpuSeconds("intr 1\n"), std::nullopt);
}

TEST(Cgroup, PathIsThatOfItsHierarchy) {
  const std::string_view text = "8:pids:/a\n4:memory:/b\n3:cpu,cpuacct:/c\n1:name=systemd:/d\n0::/user.slice/x\n";
  EXPECT_EQ(ParseCgroupPath(text, ""), "/user.slice/x");
  EXPECT_EQ(ParseCgroupPath(text, "memory"), "/b");
  EXPECT_EQ(ParseCgroupPath(text, "cpu"), "/c");
  EXPECT_EQ(ParseCgroupPath(text, "cpuacct"), "/c");
  EXPECT_EQ(ParseCgroupPath(text, "acct"), std::nullopt);
  EXPECT_EQ(ParseCgroupPath("0::/\n", ""), "/");
  EXPECT_EQ(ParseCgroupPath("4:memory:/b\n", ""), std::nullopt);
  EXPECT_EQ(ParseCgroupPath("no colon\n", "memory"), std::nullopt);
}

TEST(Report, ComparesPandoWithTheBestPeerRunByRun) {
  std::vector<EngineMeasurement> all;
  auto add = [&](const char* system, int run, double rate) {
    EngineMeasurement m;
    m.workload = "get";
    m.system = system;
    m.role = FindEngine(system)->role;
    m.run = run;
    m.ops_per_s = rate;
    all.push_back(m);
  };
  const auto add_runs = [&](const char* system, std::array<double, 3> rates) {
    for (int run = 1; run <= 3; ++run) add(system, run, rates[run - 1]);
  };
  add_runs("pando", {300, 900, 80});
  add_runs("rocksdb", {100, 190, 100});
  add_runs("lmdb", {150, 160, 32});  // the best median of the peers
  add("pando-16k", 2, 240);
  add("fio", 1, 1000);  // not a peer
  std::string table = RenderEngineTable(all);
  EXPECT_NE(table.find("2.50"), std::string::npos) << table;  // of 300 / 150, 900 / 160 and 80 / 32
  EXPECT_NE(table.find("1.50"), std::string::npos) << table;  // 240 / 160

  EngineMeasurement back = nlohmann::json::parse(nlohmann::json(all[1]).dump()).get<EngineMeasurement>();
  EXPECT_EQ(back.system, "pando");
  EXPECT_EQ(back.ops_per_s, 900);
}

}  // namespace
}  // namespace pando::bench
