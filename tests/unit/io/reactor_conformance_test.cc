// One suite that runs against both reactors, io_uring and the simulated kernel. It checks what
// production code may rely on.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <deque>

#include "src/io/connection_budget.h"
#include "src/io/directory.h"
#include "src/io/file.h"
#include "src/io/punch_hole.h"
#include "src/io/sync.h"
#include "tests/unit/io/reactor_harness.h"
#include "tests/unit/io/socket_peers.h"

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename Harness>
class ReactorConformance : public ::testing::Test {
 protected:
  Harness harness_;
};
TYPED_TEST_SUITE(ReactorConformance, ReactorImplementations, ReactorNames);

// -- disk

Task<void> DirectReadBack(Reactor& r, std::string dir) {
  auto opened = co_await File::Open(r, dir + "/direct", File::Mode::kCreate, true);
  EXPECT_OK(opened.status());
  File file = *std::move(opened);
  AlignedBuffer out(64 << 10), in(64 << 10);
  Fill(out.data(), out.size(), 1);
  EXPECT_OK(co_await file.Write(out.data(), out.size(), 8192));
  EXPECT_OK(co_await file.Write(out.data(), 4096, 4096, kNoBuffer, /*data_sync=*/true));
  EXPECT_OK(co_await file.Sync());
  EXPECT_EQ(*file.Size(), 8192 + out.size());
  EXPECT_OK(co_await file.Read(in.data(), in.size(), 8192));
  EXPECT_EQ(std::memcmp(in.data(), out.data(), out.size()), 0);
  EXPECT_OK(co_await file.Read(in.data(), 4096, 0));  // a hole
  EXPECT_EQ(std::string(in.data(), 4096), std::string(4096, '\0'));

  Status status = co_await file.Read(in.data(), in.size(), 8192 + 4096);
  EXPECT_EQ(status.code(), Code::kCorruption);
  EXPECT_THAT(status.message(), HasSubstr("shorter than"));
  EXPECT_THAT(status.message(), HasSubstr(dir + "/direct"));
  EXPECT_THAT(status.message(), HasSubstr("12288"));
  EXPECT_OK(co_await file.Close());
}
TYPED_TEST(ReactorConformance, DirectReadBack) {
  this->harness_.Run(DirectReadBack(this->harness_.reactor(), this->harness_.directory()));
}

Task<void> BufferedAndVectors(Reactor& r, std::string dir) {
  auto opened = co_await File::Open(r, dir + "/plain", File::Mode::kCreate, false);
  EXPECT_OK(opened.status());
  File file = *std::move(opened);
  std::string a = "alpha", b = "beta", c = "gamma";
  iovec out[3] = {{a.data(), a.size()}, {b.data(), b.size()}, {c.data(), c.size()}};
  EXPECT_OK(co_await file.WriteVector(out, 3));
  char x[4], y[10];
  iovec in[2] = {{x, 4}, {y, 10}};
  EXPECT_OK(co_await file.ReadVector(in, 3));
  EXPECT_EQ(std::string(x, 4) + std::string(y, 10), "alphabetagamma");
  EXPECT_OK(co_await file.Write(nullptr, 0, 99));  // an empty write is not an error
  EXPECT_EQ(*file.Size(), 17u);

  EXPECT_OK(co_await file.Truncate(5));
  EXPECT_EQ(*file.Size(), 5u);
  EXPECT_OK(co_await file.Allocate(0, 10000));
  EXPECT_EQ(*file.Size(), 10000u);
  std::string back(10000, '?');
  EXPECT_OK(co_await file.Read(back.data(), back.size(), 0));
  std::string expected = std::string(3, '\0') + "al" + std::string(9995, '\0');
  EXPECT_TRUE(back == expected);
  EXPECT_OK(co_await file.Sync(false));
  EXPECT_OK(co_await file.Close());
}
TYPED_TEST(ReactorConformance, BufferedAndVectors) {
  this->harness_.Run(BufferedAndVectors(this->harness_.reactor(), this->harness_.directory()));
}

Task<void> Holes(Reactor& r, std::string dir) {
  auto opened = co_await File::Open(r, dir + "/holes", File::Mode::kCreate, true);
  EXPECT_OK(opened.status());
  File file = *std::move(opened);
  constexpr size_t kBytes = 16 * kBlockBytes;
  AlignedBuffer bytes(kBytes), back(kBytes);
  Fill(bytes.data(), kBytes, 5);
  EXPECT_OK(co_await file.Allocate(0, kBytes));
  EXPECT_OK(co_await file.Write(bytes.data(), kBytes, 0));
  EXPECT_OK(co_await PunchHole(&file, 4 * kBlockBytes, 8 * kBlockBytes));
  EXPECT_EQ(*file.Size(), kBytes);
  EXPECT_OK(co_await file.Read(back.data(), kBytes, 0));
  std::memset(bytes.data() + 4 * kBlockBytes, 0, 8 * kBlockBytes);
  EXPECT_EQ(std::memcmp(bytes.data(), back.data(), kBytes), 0) << "the hole reads as zeros, the rest as before";
  // The space that was returned can be allocated and written again.
  EXPECT_OK(co_await file.Allocate(4 * kBlockBytes, 8 * kBlockBytes));
  Fill(bytes.data() + 5 * kBlockBytes, kBlockBytes, 6);
  EXPECT_OK(co_await file.Write(bytes.data() + 5 * kBlockBytes, kBlockBytes, 5 * kBlockBytes));
  EXPECT_OK(co_await file.Read(back.data(), kBytes, 0));
  EXPECT_EQ(std::memcmp(bytes.data(), back.data(), kBytes), 0);
  // A hole may reach past the end of the file; the size stays the same.
  EXPECT_OK(co_await PunchHole(&file, 15 * kBlockBytes, 4 * kBlockBytes));
  EXPECT_EQ(*file.Size(), kBytes);
  EXPECT_OK(co_await file.Close());
}
TYPED_TEST(ReactorConformance, Holes) {
  this->harness_.Run(Holes(this->harness_.reactor(), this->harness_.directory()));
}

Task<void> RegisteredBuffers(Reactor& r, std::string dir, char* memory, size_t bytes) {
  iovec regions[2] = {{memory, bytes / 2}, {memory + bytes / 2, bytes / 2}};
  const int base = r.RegisterBuffers(regions);
  EXPECT_EQ(base, 0);
  auto opened = co_await File::Open(r, dir + "/registered", File::Mode::kCreate, true);
  EXPECT_OK(opened.status());
  File file = *std::move(opened);
  char* second = memory + bytes / 2;
  Fill(second, 8192, 7);
  EXPECT_OK(co_await file.Write(second, 8192, 0, base + 1, true));
  EXPECT_OK(co_await file.Read(memory + 4096, 8192, 0, base));
  EXPECT_EQ(std::memcmp(memory + 4096, second, 8192), 0);
  EXPECT_OK(co_await file.Close());
}
TYPED_TEST(ReactorConformance, RegisteredBuffers) {
  AlignedBuffer memory(64 << 10);  // must outlive the reactor's use of it
  this->harness_.Run(
      RegisteredBuffers(this->harness_.reactor(), this->harness_.directory(), memory.data(), memory.size()));
}

Task<void> Names(Reactor& r, std::string dir) {
  EXPECT_OK(co_await MakeDirectory(r, dir + "/sub"));
  EXPECT_OK(co_await MakeDirectory(r, dir + "/sub"));  // it may already exist
  Status orphan = co_await MakeDirectory(r, dir + "/missing/sub");
  EXPECT_EQ(orphan.code(), Code::kNotFound);
  for (const char* name : {"b", "a", "c"}) {
    auto file = co_await File::Open(r, dir + "/sub/" + name, File::Mode::kCreate, false);
    EXPECT_OK(file.status());
    EXPECT_OK(co_await file->Write(name, 1, 0));
    EXPECT_OK(co_await file->Close());
  }
  EXPECT_THAT(*r.ListDirectory(dir + "/sub"), ElementsAre("a", "b", "c"));
  EXPECT_OK(co_await RenameFile(r, dir + "/sub/a", dir + "/sub/c"));  // replaces the old c
  EXPECT_OK(co_await RemoveFile(r, dir + "/sub/b"));
  EXPECT_OK(co_await SyncDirectory(r, dir + "/sub"));
  EXPECT_THAT(*r.ListDirectory(dir + "/sub"), ElementsAre("c"));
  auto file = co_await File::Open(r, dir + "/sub/c", File::Mode::kRead, false);
  EXPECT_OK(file.status());
  char byte = '?';
  EXPECT_OK(co_await file->Read(&byte, 1, 0));
  EXPECT_EQ(byte, 'a');
  EXPECT_OK(co_await file->Close());

  auto missing = co_await File::Open(r, dir + "/nope", File::Mode::kReadWrite, false);
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_THAT(missing.status().message(), HasSubstr(dir + "/nope"));
  Status removed = co_await RemoveFile(r, dir + "/nope");
  EXPECT_EQ(removed.code(), Code::kNotFound);
  Status renamed = co_await RenameFile(r, dir + "/nope", dir + "/yes");
  EXPECT_EQ(renamed.code(), Code::kNotFound);
  EXPECT_EQ(r.ListDirectory(dir + "/nope").code(), Code::kNotFound);
}
TYPED_TEST(ReactorConformance, Names) {
  this->harness_.Run(Names(this->harness_.reactor(), this->harness_.directory()));
}

// The names in an open directory still refer to the same files after another directory takes over
// its path.
Task<void> Directories(Reactor& r, std::string dir, std::function<void(std::string, std::string)> move) {
  EXPECT_OK(co_await MakeDirectory(r, dir + "/store"));
  auto opened = co_await Directory::Open(r, dir + "/store");
  EXPECT_OK(opened.status());
  Directory store = *std::move(opened);
  EXPECT_OK(co_await store.MakeDirectory("log"));
  EXPECT_OK(co_await store.MakeDirectory("log"));
  EXPECT_OK(co_await store.Sync());
  auto log = co_await store.OpenDirectory("log");
  EXPECT_OK(log.status());
  EXPECT_EQ(log->path(), dir + "/store/log");
  auto file = co_await log->OpenFile("a", File::Mode::kCreate, false);
  EXPECT_OK(file.status());
  EXPECT_EQ(file->path(), dir + "/store/log/a");
  EXPECT_OK(co_await file->Write("1", 1, 0));
  auto identity = file->Identity();
  EXPECT_OK(identity.status());
  EXPECT_OK(co_await file->Close());
  EXPECT_EQ(*log->Identify("a"), *identity);
  EXPECT_EQ(*store.Identify("log/a"), *identity);

  move(dir + "/store", dir + "/moved");
  EXPECT_OK(co_await MakeDirectory(r, dir + "/store"));
  EXPECT_OK(co_await MakeDirectory(r, dir + "/store/log"));
  for (const char* name : {"a", "b"}) {
    auto other = co_await File::Open(r, dir + "/store/log/" + name, File::Mode::kCreate, false);
    EXPECT_OK(other.status());
    EXPECT_OK(co_await other->Write("2", 1, 0));
    EXPECT_OK(co_await other->Close());
  }
  EXPECT_THAT(*log->List(), ElementsAre("a"));
  EXPECT_OK(co_await log->Rename("a", "c"));
  EXPECT_OK(co_await log->Sync());
  EXPECT_EQ(*log->Identify("c"), *identity);
  EXPECT_EQ(log->Identify("b").code(), Code::kNotFound);
  EXPECT_THAT(*r.ListDirectory(dir + "/moved/log"), ElementsAre("c"));
  EXPECT_THAT(*r.ListDirectory(dir + "/store/log"), ElementsAre("a", "b"));
  auto again = co_await store.OpenFile("log/c", File::Mode::kRead, false);
  EXPECT_OK(again.status());
  char byte = '?';
  EXPECT_OK(co_await again->Read(&byte, 1, 0));
  EXPECT_EQ(byte, '1');
  EXPECT_OK(co_await again->Close());
  EXPECT_OK(co_await log->Link("c", "second"));
  EXPECT_EQ(*log->Identify("second"), *identity);
  EXPECT_EQ((co_await log->Link("c", "second")).code(), Code::kAlreadyExists);
  EXPECT_EQ((co_await log->Link("none", "third")).code(), Code::kNotFound);
  EXPECT_OK(co_await log->Rename("second", "c"));  // does nothing: both name the same file
  EXPECT_THAT(*log->List(), ElementsAre("c", "second"));
  EXPECT_OK(co_await log->Remove("second"));
  EXPECT_EQ(*log->Identify("c"), *identity);
  EXPECT_OK(co_await log->Remove("c"));
  Status missing = co_await log->Remove("c");
  EXPECT_EQ(missing.code(), Code::kNotFound);
  EXPECT_THAT(missing.message(), HasSubstr(dir + "/store/log/c"));
  EXPECT_EQ((co_await log->OpenFile("c", File::Mode::kRead, false)).code(), Code::kNotFound);
  EXPECT_EQ((co_await log->Rename("c", "d")).code(), Code::kNotFound);
  EXPECT_EQ((co_await store.OpenDirectory("none")).code(), Code::kNotFound);
  EXPECT_OK(co_await log->Close());
  EXPECT_OK(co_await store.Close());
}
TYPED_TEST(ReactorConformance, Directories) {
  this->harness_.Run(Directories(this->harness_.reactor(), this->harness_.directory(), this->harness_.mover()));
}

Task<void> Locks(Reactor& r, std::string dir) {
  auto one = co_await File::Open(r, dir + "/lock", File::Mode::kCreate, false);
  auto two = co_await File::Open(r, dir + "/lock", File::Mode::kCreate, false);
  EXPECT_OK(one.status());
  EXPECT_OK(two.status());
  EXPECT_OK(one->Lock());
  Status refused = two->Lock();
  EXPECT_EQ(refused.code(), Code::kLocked);
  EXPECT_THAT(refused.message(), HasSubstr(dir + "/lock"));
  EXPECT_OK(co_await one->Close());
  EXPECT_OK(two->Lock());
  EXPECT_OK(co_await two->Close());
}
TYPED_TEST(ReactorConformance, Locks) {
  this->harness_.Run(Locks(this->harness_.reactor(), this->harness_.directory()));
}

Task<void> OneWrite(File* file, char* data, uint64_t offset, int* done) {
  EXPECT_OK(co_await file->Write(data, 4096, offset));
  ++*done;
}
// More operations at the same time than the ring has entries.
Task<void> ManyInFlight(Reactor& r, std::string dir) {
  constexpr int kWrites = 3000;
  auto opened = co_await File::Open(r, dir + "/many", File::Mode::kCreate, true);
  EXPECT_OK(opened.status());
  File file = *std::move(opened);
  AlignedBuffer data(64 * 4096);
  for (int i = 0; i < 64; ++i) std::memset(data.data() + i * 4096, i, 4096);
  TaskGroup group;
  int done = 0;
  for (int i = 0; i < kWrites; ++i) group.Spawn(OneWrite(&file, data.data() + i % 64 * 4096, i * 4096ull, &done));
  EXPECT_EQ(done, 0);  // R1: no completion from inside Submit
  co_await group.Drain();
  EXPECT_EQ(done, kWrites);
  AlignedBuffer back(4096);
  for (int i = 0; i < kWrites; i += 111) {
    EXPECT_OK(co_await file.Read(back.data(), 4096, i * 4096ull));
    EXPECT_EQ(back.data()[77], static_cast<char>(i % 64)) << i;
  }
  EXPECT_OK(co_await file.Close());
}
TYPED_TEST(ReactorConformance, ManyInFlight) {
  this->harness_.Run(ManyInFlight(this->harness_.reactor(), this->harness_.directory()));
}

// -- time and scheduling

struct NotingTimer final : Timer {
  std::vector<int>* log = nullptr;
  int number = 0;
  void Arm(Reactor& r, Nanos deadline, std::vector<int>* to, int n) {
    log = to;
    number = n;
    on_fire = [](Timer* t) { static_cast<NotingTimer*>(t)->log->push_back(static_cast<NotingTimer*>(t)->number); };
    r.ArmTimer(this, deadline);
  }
};

Task<void> Timers(Reactor& r) {
  const Nanos start = r.NowNs();
  std::vector<int> log;
  std::deque<NotingTimer> timers(8);
  timers[0].Arm(r, start + 5 * kMillisecond, &log, 0);
  timers[1].Arm(r, start + 1 * kMillisecond, &log, 1);
  timers[2].Arm(r, start + 3 * kMillisecond, &log, 2);
  timers[3].Arm(r, start + 3 * kMillisecond, &log, 3);  // same deadline: in arming order
  timers[4].Arm(r, start + 2 * kMillisecond, &log, 4);
  timers[5].Arm(r, start - kSecond, &log, 5);  // already due
  timers[6].Arm(r, start + 1 * kMillisecond, &log, 6);
  timers[6].Arm(r, start + 4 * kMillisecond, &log, 6);  // moved
  r.CancelTimer(&timers[4]);
  r.CancelTimer(&timers[7]);  // never armed
  EXPECT_TRUE(log.empty());
  co_await Sleep(r, 20 * kMillisecond);
  EXPECT_GE(r.NowNs() - start, 20 * kMillisecond);
  EXPECT_THAT(log, ElementsAre(5, 1, 2, 3, 6, 0));
  for (const Timer& t : timers) EXPECT_FALSE(t.armed);
}
TYPED_TEST(ReactorConformance, Timers) { this->harness_.Run(Timers(this->harness_.reactor())); }

struct CountingHook final : TurnHook {
  Reactor* reactor = nullptr;
  int calls = 0;
  bool again = false;
  void OnTurnEnd() override {
    ++calls;
    if (again && calls < 5) reactor->ArmTurnHook(this);
  }
};
Task<void> NoteStep(Reactor& r, std::vector<int>* log, int n, CountingHook* hook) {
  co_await Yield(r);
  log->push_back(n);
  r.ArmTurnHook(hook);
  r.ArmTurnHook(hook);  // already armed: still only one call
  co_await Yield(r);
  log->push_back(n + 10);
}
Task<void> Scheduling(Reactor& r) {
  std::vector<int> log;
  CountingHook hook;
  TaskGroup group;
  for (int i = 0; i < 3; ++i) group.Spawn(NoteStep(r, &log, i, &hook));
  EXPECT_TRUE(log.empty());
  co_await group.Drain();
  EXPECT_THAT(log, ElementsAre(0, 1, 2, 10, 11, 12));
  EXPECT_EQ(hook.calls, 1);  // the three steps ran in one turn

  CountingHook repeating;
  repeating.reactor = &r;
  repeating.again = true;
  r.ArmTurnHook(&repeating);
  while (repeating.calls < 5) co_await Yield(r);
  EXPECT_FALSE(repeating.armed);
  const Nanos now = r.NowNs();
  EXPECT_EQ(r.NowNs(), now);  // the clock is read once per turn
  EXPECT_NE(r.Random(), r.Random());
  EXPECT_GT(r.WallMs(), 1'600'000'000'000);
}
TYPED_TEST(ReactorConformance, Scheduling) { this->harness_.Run(Scheduling(this->harness_.reactor())); }

// -- sockets

Task<void> Echo(Reactor& r) {
  Acceptor acceptor(r);
  auto port = r.Listen({}, &acceptor);
  EXPECT_OK(port.status());
  auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
  EXPECT_OK(connected.status());
  Peer client;
  client.Attach(r, *connected);
  EXPECT_THAT(client.connection->identity().address, HasSubstr(fmt::format(":{}", *port)));

  std::string expected;
  for (int i = 0; i < 50; ++i) {  // small messages, several in one turn
    std::string message = fmt::format("message {};", i);
    expected += message;
    client.connection->Send(&message);
    EXPECT_TRUE(message.empty());
  }
  co_await client.WaitFor(expected.size());
  EXPECT_EQ(client.received, expected);

  const std::string large = Bytes(5u << 20, 3);
  std::string copy = large;
  client.received.clear();
  client.connection->Send(&copy);
  EXPECT_EQ(client.connection->unsent_bytes(), large.size());
  co_await client.WaitFor(large.size());
  EXPECT_TRUE(client.received == large);
  EXPECT_EQ(client.connection->unsent_bytes(), 0u);
  EXPECT_GE(client.sent_events, 1);

  client.connection->Close(false);
  co_await client.WaitClosed();
  co_await acceptor.WaitAllClosed();
  EXPECT_EQ(acceptor.peers.size(), 1u);
  r.StopListening(&acceptor);
}
TYPED_TEST(ReactorConformance, Echo) { this->harness_.Run(Echo(this->harness_.reactor())); }

Task<void> EchoClient(Reactor& r, uint16_t port, uint64_t seed) {
  auto connected = co_await r.Connect("127.0.0.1", port, 10 * kSecond);
  EXPECT_OK(connected.status());
  Peer client;
  client.Attach(r, *connected);
  std::string expected;
  for (int i = 0; i < 20; ++i) {
    std::string message = Bytes(1 + (seed * 31 + i) * 977 % 20000, seed + i);
    expected += message;
    client.connection->Send(&message);
    if (i % 5 == 4) co_await client.WaitFor(expected.size());
  }
  EXPECT_TRUE(client.received == expected);
  client.connection->Close(seed % 2 == 0);
  co_await client.WaitClosed();
}
// More bytes at the same time than the receive buffers hold: receiving is re-armed and nothing is
// lost.
Task<void> ManyConnections(Reactor& r) {
  Acceptor acceptor(r);
  auto port = r.Listen({}, &acceptor);
  EXPECT_OK(port.status());
  TaskGroup clients;
  for (uint64_t i = 0; i < 100; ++i) clients.Spawn(EchoClient(r, *port, i));
  co_await clients.Drain();
  co_await acceptor.WaitAllClosed();
  EXPECT_EQ(acceptor.peers.size(), 100u);
  r.StopListening(&acceptor);
}
TYPED_TEST(ReactorConformance, ManyConnections) { this->harness_.Run(ManyConnections(this->harness_.reactor())); }

Task<void> PauseAndResume(Reactor& r) {
  Acceptor acceptor(r);
  acceptor.echo = false;
  auto port = r.Listen({}, &acceptor);
  auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
  EXPECT_OK(connected.status());
  Peer client;
  client.Attach(r, *connected);
  co_await acceptor.WaitFor(1);
  Peer& server = *acceptor.peers[0];
  std::string first = "first";
  client.connection->Send(&first);
  co_await server.WaitFor(5);
  server.connection->PauseReceive();
  co_await Sleep(r, 20 * kMillisecond);
  // This is far more than the sockets hold, so the sender cannot finish while the server is paused.
  constexpr size_t kBytes = 64u << 20;
  std::string flood(kBytes, 'f');
  client.connection->Send(&flood);
  co_await Sleep(r, 100 * kMillisecond);
  EXPECT_EQ(server.received.size(), 5u);
  EXPECT_GT(client.connection->unsent_bytes(), 0u);
  server.connection->ResumeReceive();
  server.connection->PauseReceive();  // pausing and resuming in quick succession
  server.connection->ResumeReceive();
  co_await server.WaitFor(5 + kBytes);
  EXPECT_EQ(server.received.size(), 5 + kBytes);
  while (client.connection->unsent_bytes() > 0) co_await client.changed->Wait();
  server.connection->Close(true);
  co_await client.WaitClosed();
  co_await acceptor.WaitAllClosed();
  r.StopListening(&acceptor);
}
TYPED_TEST(ReactorConformance, PauseAndResume) { this->harness_.Run(PauseAndResume(this->harness_.reactor())); }

Task<void> RefusedAndBadAddresses(Reactor& r) {
  Acceptor acceptor(r);
  auto port = r.Listen({}, &acceptor);
  EXPECT_OK(port.status());
  ListenOptions same;
  same.port = *port;
  same.reuse_port = false;
  auto taken = r.Listen(same, &acceptor);
  EXPECT_EQ(taken.code(), Code::kAlreadyExists);
  EXPECT_THAT(taken.status().message(), HasSubstr(fmt::format("127.0.0.1:{}", *port)));
  r.StopListening(&acceptor);
  co_await Sleep(r, 5 * kMillisecond);
  auto refused = co_await r.Connect("127.0.0.1", *port, kSecond);
  EXPECT_EQ(refused.code(), Code::kUnavailable) << refused.status().ToString();
  EXPECT_THAT(refused.status().message(), HasSubstr(fmt::format("127.0.0.1:{}", *port)));
  auto named = co_await r.Connect("no-such-name", 1, kSecond);
  EXPECT_EQ(named.code(), Code::kInvalidArgument);
}
TYPED_TEST(ReactorConformance, RefusedAndBadAddresses) {
  this->harness_.Run(RefusedAndBadAddresses(this->harness_.reactor()));
}

// StopListening ends only the listeners of one handler: the metrics page still works while clients
// are refused.
Task<void> StopsOneOfTwoListeners(Reactor& r) {
  Acceptor clients(r), page(r);
  auto port = r.Listen({}, &clients);
  auto page_port = r.Listen({}, &page);
  EXPECT_OK(port.status());
  EXPECT_OK(page_port.status());
  r.StopListening(&clients);
  co_await Sleep(r, 5 * kMillisecond);
  auto refused = co_await r.Connect("127.0.0.1", *port, kSecond);
  EXPECT_EQ(refused.code(), Code::kUnavailable) << refused.status().ToString();
  auto connected = co_await r.Connect("127.0.0.1", *page_port, kSecond);
  EXPECT_OK(connected.status());
  Peer client;
  client.Attach(r, *connected);
  co_await page.WaitFor(1);
  EXPECT_TRUE(clients.peers.empty());
  client.connection->Close(false);
  co_await client.WaitClosed();
  co_await page.WaitAllClosed();
  r.StopListening(&page);
}
TYPED_TEST(ReactorConformance, StopsOneOfTwoListeners) {
  this->harness_.Run(StopsOneOfTwoListeners(this->harness_.reactor()));
}

// S5: when clients have taken all of their places, peers and the HTTP page still get theirs. Each
// connection says which listener accepted it.
Task<void> KindsOfListeners(Reactor& r) {
  ConnectionBudgets budgets({.clients = 2, .peers = 1, .http = 1});
  const std::vector<ListenerKind> kinds = {ListenerKind::kClient, ListenerKind::kPeer, ListenerKind::kHttp};
  std::vector<std::unique_ptr<Acceptor>> acceptors;
  std::vector<uint16_t> ports;
  for (ListenerKind kind : kinds) {
    acceptors.push_back(std::make_unique<Acceptor>(r));
    ListenOptions options;
    options.kind = kind;
    options.budgets = &budgets;
    auto port = r.Listen(options, acceptors.back().get());
    EXPECT_OK(port.status());
    ports.push_back(*port);
  }
  std::deque<Peer> ends;
  // The third client waits in the backlog, which the simulated kernel does not have.
  for (size_t listener : {0, 0, 0, 1, 2}) {
    const bool beyond = ends.size() == 2;
    auto connected = co_await r.Connect("127.0.0.1", ports[listener], beyond ? 5 * kMillisecond : kSecond);
    if (!connected.ok() && beyond) {
      EXPECT_EQ(connected.code(), Code::kDeadline);
      continue;
    }
    EXPECT_OK(connected.status());
    ends.emplace_back().Attach(r, *connected);
    EXPECT_FALSE(ends.back().connection->identity().listener.has_value());
    if (!beyond) co_await acceptors[listener]->WaitFor(ends.size() == 2 ? 2 : 1);
  }
  EXPECT_EQ(acceptors[0]->peers.size(), 2u);
  for (size_t i = 0; i < kinds.size(); ++i) {
    Connection* accepted = acceptors[i]->peers[0]->connection;
    EXPECT_EQ(accepted->identity().listener, kinds[i]);
    EXPECT_THAT(accepted->identity().address, HasSubstr(":"));
    EXPECT_EQ(accepted->identity().principal, "");
    accepted->SetPrincipal("node-7");
    EXPECT_EQ(accepted->identity().principal, "node-7");
    EXPECT_EQ(budgets.of(kinds[i]).in_use(), budgets.of(kinds[i]).limit());
  }
  for (auto& acceptor : acceptors) r.StopListening(acceptor.get());
  for (Peer& end : ends) end.connection->Close(true);
  for (Peer& end : ends) co_await end.WaitClosed();
  for (auto& acceptor : acceptors) co_await acceptor->WaitAllClosed();
  for (ListenerKind kind : kinds) {
    while (budgets.of(kind).in_use() > 0) co_await Sleep(r, kMillisecond);
  }
}
TYPED_TEST(ReactorConformance, KindsOfListeners) { this->harness_.Run(KindsOfListeners(this->harness_.reactor())); }

// S1: Close(false) first delivers everything that was queued before it. OnClosed comes from the
// loop, once on each side.
Task<void> CloseFlushes(Reactor& r) {
  Acceptor acceptor(r);
  acceptor.echo = false;
  auto port = r.Listen({}, &acceptor);
  auto connected = co_await r.Connect("localhost", *port, kSecond);
  EXPECT_OK(connected.status());
  Peer client;
  client.Attach(r, *connected);
  co_await acceptor.WaitFor(1);
  Peer& server = *acceptor.peers[0];
  const std::string payload = Bytes(1u << 20, 9);
  std::string copy = payload;
  client.connection->Send(&copy);
  Connection* connection = client.connection;
  connection->Close(false);
  connection->Close(false);  // a second call has no effect
  std::string late = "after close";
  connection->Send(&late);
  EXPECT_FALSE(client.closed) << "OnClosed from inside Close";
  co_await server.WaitClosed();
  EXPECT_TRUE(server.received == payload);
  EXPECT_EQ(server.reason.code(), Code::kAborted);
  co_await client.WaitClosed();
  r.StopListening(&acceptor);
}
TYPED_TEST(ReactorConformance, CloseFlushes) { this->harness_.Run(CloseFlushes(this->harness_.reactor())); }

Task<void> CloseNow(Reactor& r) {
  Acceptor acceptor(r);
  acceptor.echo = false;
  auto port = r.Listen({}, &acceptor);
  auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
  Peer client;
  client.Attach(r, *connected);
  co_await acceptor.WaitFor(1);
  Peer& server = *acceptor.peers[0];
  server.connection->PauseReceive();
  std::string flood(64u << 20, 'f');
  client.connection->Send(&flood);
  co_await Sleep(r, 10 * kMillisecond);  // until a send is stuck partway
  client.connection->Close(true);
  EXPECT_FALSE(client.closed);
  co_await client.WaitClosed();
  if (!server.closed) server.connection->ResumeReceive();
  co_await server.WaitClosed();
  EXPECT_LT(server.received.size(), 64u << 20);
  r.StopListening(&acceptor);
}
// A server that receives nothing for the time being still learns that its client has gone, whatever lies unread.
Task<void> PausedLearnsOfTheEnd(Reactor& r) {
  for (const size_t unread : {0, 1000}) {
    for (const bool resume : {false, true}) {
      Acceptor acceptor(r);
      acceptor.echo = false;
      auto port = r.Listen({}, &acceptor);
      auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
      Peer client;
      client.Attach(r, *connected);
      co_await acceptor.WaitFor(1);
      Peer& server = *acceptor.peers[0];
      server.connection->PauseReceive();
      if (resume) {
        co_await Sleep(r, kMillisecond);
        server.connection->ResumeReceive();
        co_await Sleep(r, kMillisecond);
        server.connection->PauseReceive();
      }
      co_await Sleep(r, kMillisecond);
      std::string bytes(unread, 'u');
      client.connection->Send(&bytes);
      client.connection->Close(false);
      co_await client.WaitClosed();
      co_await server.WaitClosed();
      EXPECT_EQ(server.received.size(), 0u);
      r.StopListening(&acceptor);
    }
  }
}
TYPED_TEST(ReactorConformance, PausedLearnsOfTheEnd) {
  this->harness_.Run(PausedLearnsOfTheEnd(this->harness_.reactor()));
}

// One that has opened the connection gets what was sent to it first: they are replies.
Task<void> PausedClientGetsAll(Reactor& r) {
  Acceptor acceptor(r);
  acceptor.echo = false;
  auto port = r.Listen({}, &acceptor);
  auto connected = co_await r.Connect("127.0.0.1", *port, kSecond);
  Peer client;
  client.Attach(r, *connected);
  co_await acceptor.WaitFor(1);
  client.connection->PauseReceive();
  co_await Sleep(r, kMillisecond);
  std::string bytes(1000, 'r');
  acceptor.peers[0]->connection->Send(&bytes);
  acceptor.peers[0]->connection->Close(false);
  co_await Sleep(r, 20 * kMillisecond);
  EXPECT_FALSE(client.closed);
  client.connection->ResumeReceive();
  co_await client.WaitClosed();
  EXPECT_EQ(client.received.size(), 1000u);
  co_await acceptor.WaitAllClosed();
  r.StopListening(&acceptor);
}
TYPED_TEST(ReactorConformance, PausedClientGetsAll) {
  this->harness_.Run(PausedClientGetsAll(this->harness_.reactor()));
}

TYPED_TEST(ReactorConformance, CloseNow) { this->harness_.Run(CloseNow(this->harness_.reactor())); }

// -- other reactors

struct Multiply {
  int a;
  std::string text;
  int* started;  // counts the calls; of the other reactor
  Task<Result<std::string>> operator()(Reactor& target) {
    EXPECT_EQ(target.index(), 1);
    EXPECT_EQ((*started)++, a) << "M2: the calls started in another order";
    if (a % 3 == 0) co_await Yield(target);
    if (a % 7 == 0) co_await Sleep(target, 10 * kMicrosecond);
    if (a == 13) co_return Error(Code::kNotFound, "unlucky {}", text);
    co_return fmt::format("{}*{}", text, a);
  }
};
Task<void> OneCall(Reactor& r, int i, int* started, int* finished) {
  Multiply call{i, std::string(100, 'x') + std::to_string(i), started};
  auto result = co_await CallOn(r, 1, std::move(call));
  EXPECT_EQ(r.index(), 0);
  if (i == 13) {
    EXPECT_EQ(result.code(), Code::kNotFound);
  } else {
    EXPECT_OK(result.status());
    EXPECT_EQ(*result, std::string(100, 'x') + fmt::format("{}*{}", i, i));
  }
  ++*finished;
}
// Several times more calls at the same time than one ring holds.
Task<bool> RemoteCalls(Reactor& r) {
  constexpr int kCalls = 5000;
  TaskGroup group;
  int started = 0, finished = 0;
  for (int i = 0; i < kCalls; ++i) group.Spawn(OneCall(r, i, &started, &finished));
  EXPECT_EQ(finished, 0);
  co_await group.Drain();
  EXPECT_EQ(finished, kCalls);
  co_return true;
}
TYPED_TEST(ReactorConformance, RemoteCalls) {
  EXPECT_TRUE(this->harness_.RunOnFirstOfTwo([](Reactor& r) { return RemoteCalls(r); }));
}

// Both reactors flood each other at the same time, each with several times more calls than a ring
// holds.
struct Leaf {
  int value;
  Task<int> operator()(Reactor& target) {
    if (value % 5 == 0) co_await Yield(target);
    co_return value + target.index();
  }
};
Task<void> OneLeafCall(Reactor& r, int i, int* sum) { *sum += co_await CallOn(r, 1 - r.index(), Leaf{i}); }
Task<int> FloodOther(Reactor& r) {
  TaskGroup group;
  int sum = 0;
  for (int i = 0; i < 4000; ++i) group.Spawn(OneLeafCall(r, i, &sum));
  co_await group.Drain();
  co_return sum;
}
struct FloodBack {
  Task<int> operator()(Reactor& target) { return FloodOther(target); }
};
Task<void> Await(Task<int> task, int* into) { *into = co_await task; }
Task<bool> CrossFlood(Reactor& r) {
  int mine = 0;
  TaskGroup group;
  group.Spawn(Await(FloodOther(r), &mine));
  const int theirs = co_await CallOn(r, 1, FloodBack{});
  co_await group.Drain();
  EXPECT_EQ(mine, 4000 * 3999 / 2 + 4000);
  EXPECT_EQ(theirs, 4000 * 3999 / 2);
  const int self = co_await CallOn(r, 0, Leaf{5});  // a call to the reactor itself
  EXPECT_EQ(self, 5);
  co_return true;
}
TYPED_TEST(ReactorConformance, CrossFlood) {
  EXPECT_TRUE(this->harness_.RunOnFirstOfTwo([](Reactor& r) { return CrossFlood(r); }));
}

// M1, M4: calls that run for long do not keep others of the same pair from being served. The sender
// sleeps while the ring is full, and is woken when it has room.
struct RunFor {
  Nanos duration_ns;
  Task<int> operator()(Reactor& target) {
    co_await Sleep(target, duration_ns);
    co_return 1;
  }
};
Task<void> OneLongCall(Reactor& r, Nanos duration_ns, int* finished) {
  *finished += co_await CallOn(r, 1 - r.index(), RunFor{duration_ns});
}
Task<bool> LongCalls(Reactor& r) {
  constexpr int kCalls = 3 * static_cast<int>(RemoteMesh::kDefaultCapacity);
  constexpr Nanos kLong = kSecond;
  TaskGroup group;
  int finished = 0;
  for (int i = 0; i < kCalls; ++i) group.Spawn(OneLongCall(r, kLong, &finished));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(co_await CallOn(r, 1, Leaf{1}), 2);
  EXPECT_LT(finished, static_cast<int>(RemoteMesh::kDefaultCapacity)) << "short calls waited for long ones";
  co_await group.Drain();
  EXPECT_EQ(finished, kCalls);
  co_return true;
}
TYPED_TEST(ReactorConformance, LongCallsHoldNoPlaceInARing) {
  EXPECT_TRUE(this->harness_.RunOnFirstOfTwo([](Reactor& r) { return LongCalls(r); }));
}

}  // namespace
}  // namespace pando
