// Tests of the simulated kernel itself: it is deterministic, it can crash at every operation, it
// injects faults, and it detects the misuse of buffers.
#include "tests/support/sim_kernel.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "src/io/file.h"
#include "src/io/sync.h"
#include "tests/support/child_process.h"

namespace pando {
namespace {

using ::testing::HasSubstr;

// A small journal of fixed-size entries. A separate task writes each entry with data_sync and
// acknowledges it once it is durable.
constexpr int kEntries = 12;
struct Acknowledged {
  bool created = false;
  bool entries[kEntries] = {};
};
Task<void> AppendEntry(File* file, char* block, int n, Acknowledged* acknowledged) {
  std::memset(block, 'A' + n, 4096);
  Status status = co_await file->Write(block, 4096, n * 4096ull, kNoBuffer, /*data_sync=*/true);
  if (status.ok()) acknowledged->entries[n] = true;
}
Task<Status> Journal(Reactor& r, Acknowledged* acknowledged) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(r, "/journal"));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(r, "/"));
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(r, "/journal/log", File::Mode::kCreate, true));
  Status status = co_await SyncDirectory(r, "/journal");
  acknowledged->created = status.ok();
  AlignedBuffer blocks(kEntries * 4096);
  TaskGroup group;
  for (int i = 0; i < kEntries; ++i) {
    group.Spawn(AppendEntry(&file, blocks.data() + i * 4096, i, acknowledged));
    if (i % 4 == 3) co_await Sleep(r, 50 * kMicrosecond);
  }
  co_await group.Drain();
  CO_RETURN_IF_ERROR(co_await file.Close());
  co_return status;
}

// Returns "" if everything that was acknowledged is on `disk`, otherwise an error message.
std::string CheckJournal(const SimDisk& disk, const Acknowledged& acknowledged) {
  if (acknowledged.created && !disk.Exists("/journal/log")) return "the log has vanished";
  const std::string data = disk.ReadAll("/journal/log");
  for (int i = 0; i < kEntries; ++i) {
    if (!acknowledged.entries[i]) continue;
    if (data.size() < (i + 1) * 4096u) return fmt::format("entry {} is beyond the end", i);
    if (data.substr(i * 4096, 4096) != std::string(4096, static_cast<char>('A' + i))) {
      return fmt::format("entry {} is damaged", i);
    }
  }
  return "";
}

// Crashes the journal at its operation `op` and checks the disk. Returns an error message, or "".
std::string CrashJournalAt(uint64_t op, uint64_t operations, uint64_t seed) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  Acknowledged acknowledged;
  SimReactor& reactor = *machine->Boot();
  machine->CrashAtDiskOp(op);
  if (kernel.RunTask(reactor, Journal(reactor, &acknowledged))) return "the machine did not stop";
  if (machine->disk_ops() != op) return fmt::format("the machine stopped at operation {}", machine->disk_ops());
  if (op == operations && !acknowledged.entries[0]) return "nothing was acknowledged up to the last operation";
  const SimDisk at_crash = machine->disk();
  if (seed % 2) {
    machine->PowerLoss(seed);
  } else {
    machine->ProcessCrash(seed);
  }
  if (std::string lost = CheckJournal(machine->disk(), acknowledged); !lost.empty()) return lost;
  // The same crash with different random outcomes, starting from a copy of the disk.
  machine->disk() = at_crash;
  machine->PowerLoss(seed + 1000);
  if (std::string lost = CheckJournal(machine->disk(), acknowledged); !lost.empty())
    return "with other outcomes: " + lost;
  SimReactor& again = *machine->Boot();
  auto made = kernel.RunTask(again, MakeDirectory(again, "/after"));
  return made && made->ok() ? "" : "it does not boot again";
}

TEST(SimKernel, AcknowledgedWritesSurviveACrashAtEveryOperation) {
  uint64_t operations = 0;
  {
    SimKernel kernel(5);
    SimMachine* machine = kernel.AddMachine();
    Acknowledged acknowledged;
    SimReactor& reactor = *machine->Boot();
    auto status = kernel.RunTask(reactor, Journal(reactor, &acknowledged));
    ASSERT_TRUE(status && status->ok());
    operations = machine->disk_ops();
    ASSERT_EQ(reactor.open_files(), 0u);
  }
  ASSERT_GT(operations, 15u);
  const std::string failure = InBatches(operations, 8, 2, [&](uint64_t first, uint64_t last) {
    for (uint64_t op = first + 1; op <= last; ++op) {
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const std::string wrong = CrashJournalAt(op, operations, seed);
        if (wrong.empty()) continue;
        fprintf(stderr, "operation %lu of %lu, seed %lu: %s\n", op, operations, seed, wrong.c_str());
        return false;
      }
    }
    return true;
  });
  EXPECT_EQ(failure, "");
}

// The same check must detect a journal that forgets to sync. Otherwise it proves nothing.
Task<Status> ForgetfulJournal(Reactor& r, Acknowledged* acknowledged) {
  CO_RETURN_IF_ERROR(co_await MakeDirectory(r, "/journal"));
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(r, "/journal/log", File::Mode::kCreate, true));
  AlignedBuffer block(4096);
  std::memset(block.data(), 'A', 4096);
  Status status = co_await file.Write(block.data(), 4096, 0);
  acknowledged->created = acknowledged->entries[0] = status.ok();
  co_await Sleep(r, kMillisecond);
  co_return co_await file.Close();
}
TEST(SimKernel, TheOracleCatchesAMissingSync) {
  int caught = 0;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    SimKernel kernel(seed);
    SimMachine* machine = kernel.AddMachine();
    Acknowledged acknowledged;
    SimReactor& reactor = *machine->Boot();
    machine->CrashAtDiskOp(4);  // operation 4 is the close
    ASSERT_FALSE(kernel.RunTask(reactor, ForgetfulJournal(reactor, &acknowledged)).has_value());
    machine->PowerLoss(seed);
    caught += !CheckJournal(machine->disk(), acknowledged).empty();
  }
  EXPECT_GT(caught, 10);
}

uint64_t TraceOf(uint64_t seed) {
  SimKernel kernel(seed);
  SimMachine* machine = kernel.AddMachine();
  Acknowledged acknowledged;
  SimReactor& reactor = *machine->Boot(2);
  auto status = kernel.RunTask(reactor, Journal(reactor, &acknowledged));
  CHECK(status && status->ok());
  return kernel.trace_hash();
}
// K1: equal seeds give equal runs, and different seeds give different ones.
TEST(SimKernel, EqualSeedsGiveEqualTraces) {
  std::set<uint64_t> traces;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const uint64_t trace = TraceOf(seed);
    EXPECT_EQ(TraceOf(seed), trace) << seed;
    traces.insert(trace);
  }
  EXPECT_EQ(traces.size(), 20u) << "the seed has no effect";
}

// -- faults and how File reports them

Task<Status> WriteAndSync(Reactor& r, std::string path, uint64_t offset) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(r, path, File::Mode::kCreate, true));
  AlignedBuffer data(16384);
  Status status = co_await file.Write(data.data(), data.size(), offset);
  if (status.ok()) status = co_await file.Sync();
  if (status.ok()) status = co_await file.Read(data.data(), data.size(), offset);
  Status closed = co_await file.Close();
  co_return status.ok() ? closed : status;
}
struct FaultTest : ::testing::Test {
  SimKernel kernel{11};
  SimMachine* machine = kernel.AddMachine();
  SimReactor& reactor = *machine->Boot();
  Status Run(std::string path = "/f", uint64_t offset = 8192) {
    return *kernel.RunTask(reactor, WriteAndSync(reactor, std::move(path), offset));
  }
};

TEST_F(FaultTest, ErrorsNameFileOffsetAndLength) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kWrite;
  fault.path_contains = "/f";
  machine->AddFault(fault);
  Status status = Run();
  EXPECT_EQ(status.code(), Code::kIoError);
  EXPECT_THAT(status.message(), HasSubstr("/f"));
  EXPECT_THAT(status.message(), HasSubstr("offset 8192"));
  EXPECT_THAT(status.message(), HasSubstr("16384 bytes"));
  EXPECT_TRUE(Run().ok()) << "the fault must occur only once";
  EXPECT_TRUE(Run("/other").ok());
}
TEST_F(FaultTest, ByRangeAndCount) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kRead;
  fault.first_byte = 100'000;
  fault.last_byte = 100'001;
  fault.skip = 1;
  machine->AddFault(fault);
  EXPECT_TRUE(Run("/f", 0).ok());
  EXPECT_TRUE(Run("/f", 98304).ok());  // not hit, because skip = 1
  EXPECT_EQ(Run("/f", 98304).code(), Code::kIoError);
  EXPECT_TRUE(Run("/f", 98304).ok());
}
TEST_F(FaultTest, FailedSync) {
  DiskFault fault;
  fault.kind = IoOp::Kind::kSync;
  machine->AddFault(fault);
  Status status = Run();
  EXPECT_EQ(status.code(), Code::kIoError);
  EXPECT_THAT(status.message(), HasSubstr("fdatasync /f"));
}
TEST_F(FaultTest, FullDisk) {
  machine->disk().SetCapacity(8192);
  EXPECT_EQ(Run("/f", 0).code(), Code::kDiskFull);
}
TEST_F(FaultTest, ShortTransfersAreContinued) {
  kernel.options().short_transfer_probability = 0.7;
  for (int i = 0; i < 50; ++i) {
    Status status = Run();
    ASSERT_TRUE(status.ok()) << status.ToString();
  }
  EXPECT_GT(machine->disk_ops(), 50 * 5 + 50u) << "no transfer was short";
}
TEST_F(FaultTest, RefusedDirectIoIsExplained) {
  kernel.options().refuse_direct_io = true;
  Status status = Run();
  EXPECT_EQ(status.code(), Code::kUnsupported);
  EXPECT_THAT(status.message(), HasSubstr("O_DIRECT"));
}
TEST_F(FaultTest, AStalledDiskDelaysCompletion) {
  machine->StallDiskUntil(kernel.now_ns() + 5 * kSecond);
  const Nanos start = kernel.now_ns();
  EXPECT_TRUE(Run().ok());
  EXPECT_GE(kernel.now_ns() - start, 5 * kSecond);
}

// -- misuse is detected

Task<void> ReuseWriteBuffer(Reactor& r, File* file, AlignedBuffer* buffer, Status* status) {
  *status = co_await file->Write(buffer->data(), 4096, 0);
  co_await Yield(r);
}
Task<std::string> EarlyReuse(Reactor& r) {
  auto opened = co_await File::Open(r, "/f", File::Mode::kCreate, true);
  File file = *std::move(opened);
  AlignedBuffer buffer(4096);
  std::memset(buffer.data(), 'g', 4096);
  TaskGroup group;
  Status status;
  group.Spawn(ReuseWriteBuffer(r, &file, &buffer, &status));
  std::memset(buffer.data(), 'x', 4096);  // the bug: the write has not completed yet
  co_await group.Drain();
  CHECK(status.ok());
  AlignedBuffer back(4096);
  status = co_await file.Read(back.data(), 4096, 0);
  CHECK(status.ok());
  status = co_await file.Close();
  co_return std::string(back.data(), 1);
}
// R2: code that reuses a buffer before its write has completed finds the wrong bytes on the disk.
TEST(SimKernel, AWriteBufferReusedTooEarlyShows) {
  SimKernel kernel(3);
  SimReactor& reactor = *kernel.AddMachine()->Boot();
  EXPECT_EQ(*kernel.RunTask(reactor, EarlyReuse(reactor)), "x");
}

Task<void> Unaligned(Reactor& r) {
  auto opened = co_await File::Open(r, "/f", File::Mode::kCreate, true);
  AlignedBuffer buffer(8192);
  Status status = co_await opened->Write(buffer.data() + 512, 4096, 0);
  CHECK(status.ok());
}
TEST(SimKernelDeathTest, UnalignedDirectTransfer) {
  EXPECT_DEATH(
      {
        SimKernel kernel(3);
        SimReactor& reactor = *kernel.AddMachine()->Boot();
        kernel.RunTask(reactor, Unaligned(reactor));
      },
      "unaligned O_DIRECT");
}

Task<void> WaitForNothing(WaitQueue* queue) { co_await queue->Wait(); }
TEST(SimKernelDeathTest, AStuckSimulationSaysSo) {
  EXPECT_DEATH(
      {
        SimKernel kernel(3);
        SimReactor& reactor = *kernel.AddMachine()->Boot();
        WaitQueue queue(reactor);
        kernel.RunTask(reactor, WaitForNothing(&queue));
      },
      "stuck");
}

// -- machines and their network

struct Sink final : ConnectionHandler {
  std::string received;
  bool closed = false;
  Connection* connection = nullptr;
  void OnData(std::span<const char> bytes) override { received.append(bytes.data(), bytes.size()); }
  void OnSent() override {}
  void OnClosed(const Status&) override {
    closed = true;
    connection = nullptr;
  }
};
struct SinkAcceptor final : AcceptHandler {
  std::vector<std::unique_ptr<Sink>> sinks;
  void OnAccept(Connection* connection) override {
    sinks.push_back(std::make_unique<Sink>());
    sinks.back()->connection = connection;
    connection->SetHandler(sinks.back().get());
  }
};
struct TwoMachines : ::testing::Test {
  SimKernel kernel{21};
  SimMachine* a = kernel.AddMachine("10.0.0.1");
  SimMachine* b = kernel.AddMachine("10.0.0.2");
  SimReactor* ra = a->Boot();
  SimReactor* rb = b->Boot();
  SinkAcceptor acceptor;
  Sink client;
  uint16_t port = 0;

  void SetUp() override {
    ListenOptions options;
    options.host = "0.0.0.0";
    port = *rb->Listen(options, &acceptor);
  }
  Result<Connection*> Dial(Nanos timeout_ns = kSecond) {
    return *kernel.RunTask(*ra, ra->Connect("10.0.0.2", port, timeout_ns));
  }
  void Connect() {
    auto connected = Dial();
    ASSERT_TRUE(connected.ok()) << connected.status().ToString();
    client.connection = *connected;
    client.connection->SetHandler(&client);
    kernel.RunFor(kMillisecond);
    ASSERT_EQ(acceptor.sinks.size(), 1u);
  }
  void Send(std::string text) { client.connection->Send(&text); }
};

TEST_F(TwoMachines, ACutHoldsBytesUntilItHeals) {
  Connect();
  kernel.network().Cut("10.0.0.1", "10.0.0.2");  // in one direction only
  Send("hello");
  std::string reply = "from b";
  acceptor.sinks[0]->connection->Send(&reply);
  kernel.RunFor(kSecond);
  EXPECT_EQ(acceptor.sinks[0]->received, "");
  EXPECT_EQ(client.received, "from b");
  kernel.network().HealAll();
  kernel.RunFor(kSecond);
  EXPECT_EQ(acceptor.sinks[0]->received, "hello");
}
TEST_F(TwoMachines, AConnectAcrossACutTimesOut) {
  kernel.network().CutBoth("10.0.0.1", "10.0.0.2");
  const Nanos start = kernel.now_ns();
  EXPECT_EQ(Dial(300 * kMillisecond).code(), Code::kDeadline);
  EXPECT_EQ((kernel.now_ns() - start) / kMillisecond, 300);
}
TEST_F(TwoMachines, ResetClosesBothEnds) {
  Connect();
  kernel.network().ResetConnections("10.0.0.1", "10.0.0.2");
  kernel.RunFor(kSecond);
  EXPECT_TRUE(client.closed);
  EXPECT_TRUE(acceptor.sinks[0]->closed);
  EXPECT_EQ(kernel.network().connections(), 0u);
}
TEST_F(TwoMachines, AProcessCrashResetsAPowerLossIsSilent) {
  Connect();
  b->ProcessCrash(1);
  kernel.RunFor(kSecond);
  EXPECT_TRUE(client.closed);
  EXPECT_EQ(Dial().code(), Code::kUnavailable) << "the host is up, but no process listens";

  rb = b->Boot();
  acceptor.sinks.clear();
  client = Sink();
  ListenOptions options;
  options.host = "10.0.0.2";
  port = *rb->Listen(options, &acceptor);
  Connect();
  b->PowerLoss(2);
  Send("into the void");
  kernel.RunFor(kSecond);
  EXPECT_FALSE(client.closed);
  EXPECT_EQ(Dial(kMillisecond).code(), Code::kDeadline);
  b->Boot();
  Send("anybody?");
  kernel.RunFor(kSecond);
  EXPECT_TRUE(client.closed) << "the rebooted machine does not know this connection";
}

TEST(ChildProcess, TellsSuccessFromFailureAndDeath) {
  EXPECT_TRUE(InChildProcess([] { return true; }));
  std::string what;
  EXPECT_FALSE(InChildProcess([] { return false; }, &what));
  EXPECT_THAT(what, HasSubstr("exit status 1"));
  EXPECT_FALSE(InChildProcess([]() -> bool { std::abort(); }, &what));
  EXPECT_THAT(what, HasSubstr("signal"));
  EXPECT_EQ(InBatches(10, 3, 2, [](uint64_t, uint64_t) { return true; }), "");
  EXPECT_THAT(InBatches(10, 3, 2, [](uint64_t first, uint64_t last) { return first > 5 || last <= 5; }),
              HasSubstr("[3, 6)"));
}

}  // namespace
}  // namespace pando
