// Tests of what the simulated kernel offers for several machines: clocks of their own, pauses,
// connections that outlive their ends, and disks that hang, lie, or go back in time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fcntl.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "src/io/file.h"
#include "src/io/offload.h"
#include "src/io/sync.h"
#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

using ::testing::ElementsAre;
using ::testing::UnorderedElementsAre;

// Notes what happens, and when in true time.
struct Notes {
  SimKernel* kernel;
  std::vector<std::string> what;
  std::vector<Nanos> when;
  void Add(std::string text) {
    what.push_back(std::move(text));
    when.push_back(kernel->now_ns());
  }
};

// One end of a connection; notes the bytes that arrive.
struct End final : ConnectionHandler {
  Notes* notes;
  std::string name;
  Connection* connection = nullptr;
  End(Notes* n, std::string called) : notes(n), name(std::move(called)) {}
  void Say(std::string bytes) { connection->Send(&bytes); }
  void OnData(std::span<const char> bytes) override {
    notes->Add(name + ": " + std::string(bytes.data(), bytes.size()));
  }
  void OnSent() override {}
  void OnClosed(const Status&) override {
    connection = nullptr;
    notes->Add(name + ": closed");
  }
};
// Names the accepted ends 1, 2, ...
struct Door final : AcceptHandler {
  Notes* notes;
  std::string prefix;
  std::vector<std::unique_ptr<End>> ends;
  Door(Notes* n, std::string p) : notes(n), prefix(std::move(p)) {}
  void OnAccept(Connection* connection) override {
    ends.push_back(std::make_unique<End>(notes, prefix + std::to_string(ends.size() + 1)));
    ends.back()->connection = connection;
    connection->SetHandler(ends.back().get());
  }
};

constexpr uint16_t kPort = 4000;

struct Machines : ::testing::Test {
  SimOptions options = [] {
    SimOptions o;
    o.random_chunks = false;
    return o;
  }();
  SimKernel kernel{7, options};
  SimMachine* a = kernel.AddMachine("10.0.0.1");
  SimMachine* b = kernel.AddMachine("10.0.0.2");
  SimReactor* ra = a->Boot();
  SimReactor* rb = b->Boot();
  Notes notes{&kernel, {}, {}};
  std::vector<std::unique_ptr<Door>> doors;
  std::vector<std::unique_ptr<End>> ends;

  void Listen(SimReactor* reactor, const std::string& prefix) {
    ListenOptions listen;
    listen.host = reactor->machine().host();
    listen.port = kPort;
    doors.push_back(std::make_unique<Door>(&notes, prefix));
    ASSERT_TRUE(reactor->Listen(listen, doors.back().get()).ok());
  }
  // Connects from `from` to the listener of the other machine.
  End* Connect(SimReactor* from, const std::string& name) {
    auto connection = kernel.RunTask(*from, from->Connect(from == ra ? b->host() : a->host(), kPort, kSecond));
    CHECK(connection && connection->ok());
    ends.push_back(std::make_unique<End>(&notes, name));
    ends.back()->connection = **connection;
    (**connection)->SetHandler(ends.back().get());
    return ends.back().get();
  }
};

// -- clocks

Task<void> SleepAndNote(Reactor* reactor, Nanos duration, Notes* notes, std::string what) {
  co_await Sleep(*reactor, duration);
  notes->Add(std::move(what));
}

TEST_F(Machines, ClocksRunAtTheirOwnRates) {
  const Nanos begun = kernel.now_ns();
  a->SetClockRate(250'000);  // a quarter faster
  b->SetClockRate(-500'000);
  TaskGroup tasks;
  tasks.Spawn(SleepAndNote(ra, kSecond, &notes, "a"));
  tasks.Spawn(SleepAndNote(rb, kSecond, &notes, "b"));
  const Nanos a_before = a->BootNs(), b_before = b->BootNs();
  kernel.RunFor(3 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("a", "b"));
  EXPECT_EQ(notes.when[0] - begun, 800 * kMillisecond);
  EXPECT_EQ(notes.when[1] - begun, 2 * kSecond);
  EXPECT_EQ(a->BootNs() - a_before, 3750 * kMillisecond);
  EXPECT_EQ(b->BootNs() - b_before, 1500 * kMillisecond);
  EXPECT_EQ(ra->NowNs(), a->BootNs());
}

TEST_F(Machines, ATimerFollowsAClockThatChangesItsRate) {
  const Nanos begun = kernel.now_ns();
  TaskGroup tasks;
  tasks.Spawn(SleepAndNote(ra, kSecond, &notes, "a"));
  kernel.RunFor(500 * kMillisecond);
  a->SetClockRate(1'000'000);
  kernel.RunFor(kSecond);
  EXPECT_EQ(notes.when.at(0) - begun, 750 * kMillisecond);
}

TEST_F(Machines, OnlyTheWallClockJumps) {
  const Nanos boot = a->BootNs();
  const int64_t wall = a->WallMs();
  a->JumpWallClock(-3000);
  EXPECT_EQ(a->WallMs(), wall - 3000);
  EXPECT_EQ(a->BootNs(), boot);
  EXPECT_EQ(b->WallMs(), wall);
}

TEST(SimClock, FindsTheTimeAtWhichItShowsAValue) {
  for (int64_t ppm : {-900'000, -333'333, -1, 0, 1, 7, 200'003, 1'000'000}) {
    SimClock clock;
    clock.SetRate(1000, ppm);
    clock.StandStill(5000, 9000);
    clock.Reboot(20'000, 100);
    for (Nanos shown : {101, 102, 5000, 999'983}) {
      const Nanos at = clock.TrueTimeOf(shown);
      EXPECT_GE(clock.BootNs(at), shown) << ppm;
      EXPECT_LT(clock.BootNs(at - 1), shown) << ppm;
    }
  }
}

TEST_F(Machines, TheBootClockRestartsAfterALossOfPower) {
  kernel.options().boot_clock_restarts = true;
  const int64_t wall = a->WallMs();
  a->ProcessCrash(1);
  a->Boot();
  EXPECT_GT(a->BootNs(), 1000 * kSecond);
  a->PowerLoss(1);
  a->Boot();
  EXPECT_LT(a->BootNs(), 100 * kSecond);
  EXPECT_EQ(a->WallMs(), wall);
}

// -- pauses (K4)

TEST_F(Machines, APauseStopsOneMachineAndNotItsClock) {
  const Nanos begun = kernel.now_ns(), clock = a->BootNs();
  TaskGroup tasks;
  tasks.Spawn(SleepAndNote(ra, 100 * kMillisecond, &notes, "a"));
  tasks.Spawn(SleepAndNote(rb, 200 * kMillisecond, &notes, "b"));
  a->Pause(kSecond);
  kernel.RunFor(2 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("b", "a"));
  EXPECT_EQ(notes.when[1] - begun, kSecond);
  EXPECT_EQ(a->BootNs() - clock, 2 * kSecond);
}

TEST_F(Machines, AFrozenMachineDoesNotNotice) {
  const Nanos begun = kernel.now_ns(), clock = a->BootNs();
  TaskGroup tasks;
  tasks.Spawn(SleepAndNote(ra, 100 * kMillisecond, &notes, "a"));
  kernel.RunFor(40 * kMillisecond);
  a->Freeze(kSecond);
  kernel.RunFor(3 * kSecond);
  EXPECT_EQ(notes.when.at(0) - begun, 1100 * kMillisecond);
  EXPECT_EQ(a->BootNs() - clock, 2040 * kMillisecond);
}

struct NoteWork {
  bool* worked;
  void operator()() const { *worked = true; }
};
Task<void> OffloadAndNote(SimReactor* reactor, bool* worked, Notes* notes) {
  co_await Offload(*reactor, NoteWork{worked});
  notes->Add("back");
}

TEST_F(Machines, APauseStopsTheThreadsForOffloadedWork) {
  const Nanos begun = kernel.now_ns();
  bool worked = false;
  TaskGroup tasks;
  tasks.Spawn(OffloadAndNote(ra, &worked, &notes));
  a->Pause(kSecond);
  kernel.RunFor(900 * kMillisecond);
  EXPECT_FALSE(worked);
  kernel.RunFor(kSecond);
  EXPECT_TRUE(worked);
  EXPECT_THAT(notes.what, ElementsAre("back"));
  EXPECT_GE(notes.when[0] - begun, kSecond);
}

// In one turn: reads the clock, decides by it, and acts.
Task<void> DecideAndAct(SimReactor* reactor, End* end, File* file, char* block, Nanos* read, Nanos* fresh) {
  co_await Yield(*reactor);
  *read = reactor->NowNs();
  *fresh = reactor->FreshNowNs();
  end->Say("acted");
  Status status = co_await file->Write(block, 4096, 0);
  end->notes->Add(status.ok() ? "written" : status.ToString());
}

struct PauseInTurn : Machines {
  AlignedBuffer block{4096};
  End* end = nullptr;
  Nanos read = 0, fresh = 0;
  // What a machine that stops abandons must not be destroyed.
  template <typename T>
  static T* Forever(T* thing) {
    static auto* things = new std::vector<T*>();
    things->push_back(thing);
    return thing;
  }
  File& file = *Forever(new File());
  TaskGroup& tasks = *Forever(new TaskGroup());
  void SetUp() override {
    Listen(rb, "b");
    end = Connect(ra, "a");
    auto opened = kernel.RunTask(*ra, File::Open(*ra, "/file", File::Mode::kCreate, true));
    ASSERT_TRUE(opened && opened->ok());
    file = **std::move(opened);
    std::memset(block.data(), 'x', 4096);
    kernel.RunFor(10 * kMillisecond);
    notes.what.clear();
    notes.when.clear();
  }
  // Runs the turn with the pause at its n-th call into the reactor.
  void Act(uint64_t calls) {
    a->PauseInTurn(kSecond, calls);
    tasks.Spawn(DecideAndAct(ra, end, &file, block.data(), &read, &fresh));
    tasks.Spawn(SleepAndNote(rb, 500 * kMillisecond, &notes, "b goes on"));
  }
  void TearDown() override {
    if (!a->running()) return;
    ASSERT_TRUE(kernel.RunTask(*ra, file.Close()));
  }
};

TEST_F(PauseInTurn, ComesBetweenLookingAtTheClockAndActing) {
  const Nanos begun = kernel.now_ns();
  Act(1);  // at the fresh look, after the first one
  kernel.RunFor(3 * kSecond);
  EXPECT_FALSE(a->pause_in_turn_due());
  EXPECT_EQ(fresh - read, kSecond);
  EXPECT_THAT(notes.what, UnorderedElementsAre("b goes on", "b1: acted", "written"));
  EXPECT_EQ(notes.what.at(0), "b goes on");
  EXPECT_GE(notes.when[1] - begun, kSecond);
}

TEST_F(PauseInTurn, MayComeAfterTheLastLookAtTheClock) {
  const Nanos begun = kernel.now_ns();
  Act(2);  // at the disk write; the sent bytes have not left yet
  kernel.RunFor(3 * kSecond);
  EXPECT_EQ(fresh, read);
  EXPECT_THAT(notes.what, UnorderedElementsAre("b goes on", "b1: acted", "written"));
  EXPECT_EQ(notes.what.at(0), "b goes on");
  EXPECT_GE(notes.when[1] - begun, kSecond);
}

TEST_F(PauseInTurn, WhatFollowsItDoesNotHappenIfTheMachineStops) {
  Act(1);
  kernel.RunFor(100 * kMillisecond);
  a->PowerLoss(3);
  kernel.RunFor(3 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("b goes on"));
  EXPECT_EQ(a->disk().ReadAll("/file"), "");
}

// -- connections (K5)

TEST_F(Machines, BytesOfAnOldConnectionArriveLateAndAtTheOldSocket) {
  Listen(rb, "b");
  End* old_end = Connect(ra, "old");
  old_end->Say("first");
  kernel.RunFor(kMillisecond);
  kernel.network().Hold(a->host(), b->host(), kernel.now_ns() + kSecond);
  old_end->Say("second");
  kernel.RunFor(kMillisecond);
  old_end->connection->Close(/*now=*/false);
  End* new_end = Connect(ra, "new");
  new_end->Say("third");
  kernel.RunFor(2 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("b1: first", "old: closed", "b2: third", "b1: second", "b1: closed"));
}

TEST_F(Machines, BytesOfADeadProcessArriveAfterThoseOfTheNextOne) {
  Listen(rb, "b");
  End* old_end = Connect(ra, "old");
  kernel.network().Hold(a->host(), b->host(), kernel.now_ns() + kSecond);
  old_end->Say("from the dead");
  kernel.RunFor(kMillisecond);
  a->ProcessCrash(1);
  ra = a->Boot();
  Connect(ra, "new")->Say("alive");
  kernel.RunFor(2 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("b2: alive", "b1: from the dead", "b1: closed"));
}

TEST_F(Machines, BytesNeverReachALaterProcessOfTheReceiver) {
  Listen(rb, "b");
  End* end = Connect(ra, "a");
  kernel.network().Hold(a->host(), b->host(), kernel.now_ns() + kSecond);
  end->Say("to the dead");
  kernel.RunFor(kMillisecond);
  b->PowerLoss(1);
  rb = b->Boot();
  Listen(rb, "new b");
  Connect(ra, "again")->Say("hello");
  kernel.RunFor(2 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("new b1: hello", "a: closed"));
}

TEST_F(Machines, AHalfOpenConnectionTellsNothing) {
  Listen(rb, "b");
  End* end = Connect(ra, "a");
  end->Say("one");
  kernel.RunFor(kMillisecond);
  kernel.network().Forget(b->host(), a->host());
  kernel.RunFor(kMillisecond);
  end->Say("two");
  kernel.RunFor(100 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("b1: one", "b1: closed"));
  ASSERT_NE(end->connection, nullptr);
  EXPECT_EQ(end->connection->acknowledged_bytes(), 3u);
}

TEST_F(Machines, ADelayIsThatOfOneDirection) {
  Listen(rb, "b");
  End* end = Connect(ra, "a");
  kernel.network().SetLatency(a->host(), b->host(), kSecond, kSecond);
  const Nanos begun = kernel.now_ns();
  end->Say("slow");
  doors[0]->ends[0]->Say("fast");
  kernel.RunFor(2 * kSecond);
  EXPECT_THAT(notes.what, ElementsAre("a: fast", "b1: slow"));
  EXPECT_LT(notes.when[0] - begun, kMillisecond);
  EXPECT_GE(notes.when[1] - begun, kSecond);
  kernel.network().HealAll();
  end->Say("again");
  kernel.RunFor(kMillisecond);
  EXPECT_EQ(notes.what.back(), "b1: again");
}

// -- disks

Task<Status> WriteOnce(SimReactor* reactor, char fill, bool data_sync, Notes* notes) {
  CO_ASSIGN_OR_RETURN(File file, co_await File::Open(*reactor, "/file", File::Mode::kCreate, true));
  CO_RETURN_IF_ERROR(co_await SyncDirectory(*reactor, "/"));
  AlignedBuffer block(4096);
  std::memset(block.data(), fill, 4096);
  Status status = co_await file.Write(block.data(), 4096, 0, kNoBuffer, data_sync);
  notes->Add(status.ok() ? "written" : "failed");
  if (status.ok() && !data_sync) {
    status = co_await file.Sync();
    notes->Add(status.ok() ? "synced" : "sync failed");
  }
  CO_RETURN_IF_ERROR(co_await file.Close());
  co_return status;
}
Task<void> WriteInBackground(SimReactor* reactor, char fill, bool data_sync, Notes* notes) {
  Status status = co_await WriteOnce(reactor, fill, data_sync, notes);
  notes->Add(status.ok() ? "ok" : "error");
}

TEST_F(Machines, ADiskHangsUntilItIsReleased) {
  a->HangDisk(SimMachine::DiskHang::kAll);
  TaskGroup tasks;
  tasks.Spawn(WriteInBackground(ra, 'x', true, &notes));
  kernel.RunFor(10 * kSecond);
  EXPECT_TRUE(notes.what.empty());
  a->ReleaseDisk();
  kernel.RunFor(kSecond);
  EXPECT_THAT(notes.what, ElementsAre("written", "ok"));
}

TEST_F(Machines, SyncsHangAlone) {
  ASSERT_TRUE(kernel.RunTask(*ra, WriteOnce(ra, 'x', false, &notes)));
  notes.what.clear();
  a->HangDisk(SimMachine::DiskHang::kSyncs);
  a->disk().WriteAll("/other", "1");
  auto size = kernel.RunTask(*ra, File::Open(*ra, "/other", File::Mode::kRead, false));
  ASSERT_TRUE(size && size->ok());
  TaskGroup tasks;
  tasks.Spawn(WriteInBackground(ra, 'y', true, &notes));
  kernel.RunFor(10 * kSecond);
  EXPECT_TRUE(notes.what.empty());  // the directory's sync hangs
  a->ReleaseDisk();
  kernel.RunFor(kSecond);
  EXPECT_THAT(notes.what, ElementsAre("written", "ok"));
  ASSERT_TRUE(kernel.RunTask(*ra, (*size)->Close()));
}

TEST_F(Machines, ADiskThatLiesLosesWhatItSynced) {
  a->LieAboutSyncs(true);
  for (bool data_sync : {true, false}) {
    auto status = kernel.RunTask(*ra, WriteOnce(ra, 'x', data_sync, &notes));
    ASSERT_TRUE(status && status->ok());
    int lost = 0;
    const SimDisk before = a->disk();
    for (uint64_t seed = 0; seed < 20; ++seed) {
      SimDisk disk = before;
      disk.PowerLoss(seed);
      lost += disk.ReadAll("/file") != std::string(4096, 'x');
    }
    EXPECT_GT(lost, 5);
  }
}

TEST_F(Machines, SyncsAndDurableWritesFail) {
  for (bool data_sync : {true, false}) {
    ASSERT_TRUE(kernel.RunTask(*ra, WriteOnce(ra, 'x', false, &notes)));
    a->AddFault(SyncFault(1, 1));  // after the directory's
    auto status = kernel.RunTask(*ra, WriteOnce(ra, 'y', data_sync, &notes));
    ASSERT_TRUE(status);
    EXPECT_EQ(status->code(), Code::kIoError);
    a->ClearFaults();
  }
}

TEST_F(Machines, AFullDiskTakesNoMore) {
  ASSERT_TRUE(kernel.RunTask(*ra, WriteOnce(ra, 'x', true, &notes)));
  a->FillDisk();
  auto again = kernel.RunTask(*ra, WriteOnce(ra, 'y', true, &notes));
  EXPECT_TRUE(again && again->ok());  // a rewrite needs no space
  a->disk().RemoveTree("/file");
  a->FillDisk();
  auto full = kernel.RunTask(*ra, WriteOnce(ra, 'z', true, &notes));
  ASSERT_TRUE(full);
  EXPECT_EQ(full->code(), Code::kDiskFull);
  a->EmptyDisk();
  auto roomy = kernel.RunTask(*ra, WriteOnce(ra, 'z', true, &notes));
  EXPECT_TRUE(roomy && roomy->ok());
}

TEST_F(Machines, AnImageHoldsWhatWasDurable) {
  ASSERT_TRUE(kernel.RunTask(*ra, WriteOnce(ra, '1', true, &notes)));
  const SimDisk image = a->Image(5);  // of a machine that runs
  ASSERT_TRUE(kernel.RunTask(*ra, WriteOnce(ra, '2', true, &notes)));
  a->PowerLoss(1);
  EXPECT_EQ(a->disk().ReadAll("/file"), std::string(4096, '2'));
  a->disk() = image;
  a->Boot();
  EXPECT_EQ(a->disk().ReadAll("/file"), std::string(4096, '1'));
}

TEST_F(Machines, EachDiskHasItsOwnSpeed) {
  a->SetDiskLatency(100 * kMillisecond, 100 * kMillisecond);
  TaskGroup tasks;
  tasks.Spawn(WriteInBackground(ra, 'x', true, &notes));
  tasks.Spawn(WriteInBackground(rb, 'x', true, &notes));
  const Nanos begun = kernel.now_ns();
  kernel.RunFor(2 * kSecond);
  ASSERT_EQ(notes.when.size(), 4u);
  EXPECT_LT(notes.when[1] - begun, 10 * kMillisecond);
  EXPECT_GE(notes.when[2] - begun, 300 * kMillisecond);  // open, sync, write
}

}  // namespace
}  // namespace pando
