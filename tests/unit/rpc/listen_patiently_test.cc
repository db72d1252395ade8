#include "src/rpc/listen_patiently.h"

#include <gtest/gtest.h>

#include "tests/support/sim_kernel.h"

namespace pando {
namespace {

class ListenPatientlyTest : public testing::Test {
 protected:
  // A port that is taken until then.
  Result<uint16_t> ListenOn(Nanos taken_until_ns, Code why = Code::kAlreadyExists) {
    return *kernel_.RunTask(reactor_, ListenPatiently(reactor_, [this, taken_until_ns, why]() -> Result<uint16_t> {
                              if (kernel_.now_ns() < taken_until_ns) return Error(why, "it is taken");
                              return uint16_t{7420};
                            }));
  }

  SimKernel kernel_{1};
  SimReactor& reactor_ = *kernel_.AddMachine("10.0.0.1")->Boot();
};

TEST_F(ListenPatientlyTest, WaitsUntilThePortIsFreed) {
  const Nanos freed_ns = kernel_.now_ns() + 500 * kMillisecond;
  EXPECT_EQ(*ListenOn(freed_ns), 7420);
  EXPECT_GE(kernel_.now_ns(), freed_ns);
  EXPECT_LE(kernel_.now_ns(), freed_ns + 2 * kPortLookNs);
}

TEST_F(ListenPatientlyTest, GivesUpInTheEnd) {
  const Nanos began_ns = kernel_.now_ns();
  EXPECT_EQ(ListenOn(began_ns + 60 * kSecond).code(), Code::kAlreadyExists);
  EXPECT_LE(kernel_.now_ns(), began_ns + kPortFreedNs + 2 * kPortLookNs);
}

TEST_F(ListenPatientlyTest, DoesNotRepeatWhatCannotSucceed) {
  const Nanos began_ns = kernel_.now_ns();
  EXPECT_EQ(ListenOn(began_ns + 60 * kSecond, Code::kInvalidArgument).code(), Code::kInvalidArgument);
  EXPECT_LT(kernel_.now_ns(), began_ns + kPortLookNs);
}

}  // namespace
}  // namespace pando
