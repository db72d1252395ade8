// A log that finds no free descriptor waits, as on a full disk, since that is not a device failure.
#include <gtest/gtest.h>

#include <cerrno>

#include "src/wal/log_impl.h"
#include "tests/support/log_harness.h"

namespace pando {
namespace {

using log_test::OpenLog;
using log_test::PartitionUuid;
using log_test::Recovered;
using log_test::SmallLog;
using log_test::Stream;

// Writes and releases until segments have been created and recycled many times, while some opens
// are refused.
Task<Status> WriteWhileOpensAreRefused(Reactor* reactor, SimMachine* machine, int error_number, uint64_t refusals) {
  Recovered recovered;
  Status opened;
  std::unique_ptr<Log> log = co_await OpenLog(*reactor, SmallLog(), &recovered, &opened);
  if (!log) co_return opened;
  {
    Stream a(log.get(), PartitionUuid(0));
    for (int round = 0; round < 20; ++round) {
      DiskFault fault;
      fault.kind = IoOp::Kind::kOpen;
      fault.error_number = error_number;
      fault.skip = static_cast<uint64_t>(round % 3);
      fault.count = refusals;
      machine->AddFault(fault);
      for (int i = 0; i < 30; ++i) a.Append(5000);
      while (a.durable() < a.last() && a.failure().ok()) co_await Sleep(*reactor, kMillisecond);
      EXPECT_TRUE(a.failure().ok()) << a.failure().ToString();
      if (!a.failure().ok()) break;
      a.Release(a.durable());
      machine->ClearFaults();
    }
    EXPECT_EQ(a.durable(), 600u);
  }
  co_return co_await log->Close();
}

class RefusedOpens : public testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Errors, RefusedOpens, testing::Values(EMFILE, ENFILE, ENOMEM));

TEST_P(RefusedOpens, AreWaitedOut) {
  for (uint64_t refusals : {1u, 2u, 5u}) {
    SimKernel kernel(20);
    SimMachine* machine = kernel.AddMachine();
    SimReactor* reactor = machine->Boot();
    const Nanos start_ns = reactor->NowNs();
    auto status = kernel.RunTask(*reactor, WriteWhileOpensAreRefused(reactor, machine, GetParam(), refusals));
    ASSERT_TRUE(status.has_value());
    EXPECT_TRUE(status->ok()) << status->ToString();
    EXPECT_GE(reactor->NowNs() - start_ns, kSecond) << "no open was refused";
  }
}

// Other open errors make the log fail.
TEST(RefusedOpen, WithAnotherErrorFailsTheLog) {
  SimKernel kernel(20);
  SimMachine* machine = kernel.AddMachine();
  SimReactor* reactor = machine->Boot();
  struct Body {
    static Task<void> Run(Reactor* r, SimMachine* m) {
      Recovered recovered;
      Status opened;
      std::unique_ptr<Log> log = co_await OpenLog(*r, SmallLog(), &recovered, &opened);
      CHECK(log) << opened.ToString();
      {
        Stream a(log.get(), PartitionUuid(0));
        DiskFault fault;
        fault.kind = IoOp::Kind::kOpen;
        fault.error_number = EIO;
        m->AddFault(fault);
        for (int i = 0; i < 200; ++i) a.Append(5000);
        while (a.failure().ok()) co_await Sleep(*r, kMillisecond);
        EXPECT_EQ(a.failure().code(), Code::kIoError);
      }
      Status closed = co_await log->Close();
      EXPECT_FALSE(closed.ok());
    }
  };
  ASSERT_TRUE(kernel.RunTask(*reactor, Body::Run(reactor, machine)));
}

}  // namespace
}  // namespace pando
