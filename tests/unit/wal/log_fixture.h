// The fixture for tests of a single Log: a machine, and a way to open a log, run a body on it, and
// close it.
#pragma once

#include <gtest/gtest.h>

#include "tests/support/log_harness.h"

namespace pando::log_test {

class LogTest : public testing::Test {
 protected:
  LogTest() : kernel_(Seed()), machine_(kernel_.AddMachine()) {}
  static uint64_t Seed() { return 20; }

  SimReactor& Boot() { return *machine_->Boot(); }
  void Reboot(bool power_loss) {
    if (power_loss) {
      machine_->PowerLoss(7);
    } else {
      machine_->ProcessCrash(7);
    }
  }
  // Runs `body(reactor, log, recovered)` on an open log and closes the log. At the end of the body,
  // everything must be announced to the streams that live in it.
  template <typename Body>
  Status Use(LogOptions options, Body body) {
    SimReactor& reactor = machine_->running() ? *machine_->reactor() : Boot();
    auto status = kernel_.RunTask(reactor, Run(&reactor, std::move(options), std::move(body)));
    CHECK(status.has_value());
    return *status;
  }
  template <typename Body>
  static Task<Status> Run(Reactor* reactor, LogOptions options, Body body) {
    Recovered recovered;
    Status status;
    std::unique_ptr<Log> log = co_await OpenLog(*reactor, std::move(options), &recovered, &status);
    if (!log) co_return status;
    EXPECT_EQ(recovered.bad, "");
    co_await body(*reactor, *log, recovered);
    co_return co_await log->Close();
  }

  SimKernel kernel_;
  SimMachine* machine_;
};

}  // namespace pando::log_test
