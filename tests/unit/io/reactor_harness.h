// What the conformance suites need from a reactor implementation: one reactor with a scratch
// directory, and a pair of connected reactors.
#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <string>

#include "src/io/reactor_group.h"
#include "tests/support/sim_kernel.h"

namespace pando {

class UringHarness {
 public:
  UringHarness() {
    std::string pattern = (std::filesystem::current_path() / "reactor_test_XXXXXX").string();
    CHECK(mkdtemp(pattern.data())) << pattern;
    directory_ = pattern;
  }
  ~UringHarness() {
    reactor_.reset();
    std::filesystem::remove_all(directory_);
  }
  const std::string& directory() const { return directory_; }
  // Returns a function that moves a directory, as an operator would.
  std::function<void(std::string, std::string)> mover() {
    return [](const std::string& from, const std::string& to) { std::filesystem::rename(from, to); };
  }

  Reactor& reactor() {
    if (!reactor_) {
      auto made = MakeUringReactor({});
      CHECK(made.ok()) << made.status().ToString();
      reactor_ = *std::move(made);
    }
    return *reactor_;
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }

  // Runs fn(reactor) on reactor 0 of a pair.
  template <typename Fn>
  auto RunOnFirstOfTwo(Fn fn) {
    ReactorGroupOptions options;
    options.reactors = 2;
    auto group = ReactorGroup::Start(options, nullptr);
    CHECK(group.ok()) << group.status().ToString();
    return (*group)->RunOn(0, std::move(fn));
  }

 private:
  std::string directory_;
  std::unique_ptr<Reactor> reactor_;
};

class SimHarness {
 public:
  SimHarness() : kernel_(kSeed), machine_(kernel_.AddMachine()) { machine_->disk().WriteAll("/scratch/.keep", ""); }
  std::string directory() const { return "/scratch"; }
  std::function<void(std::string, std::string)> mover() {
    return [this](const std::string& from, const std::string& to) { machine_->disk().MoveDirectory(from, to); };
  }
  Reactor& reactor() {
    if (!machine_->running()) machine_->Boot();
    return *machine_->reactor();
  }
  template <typename T>
  T Run(Task<T> task) {
    return RunBlocking(reactor(), std::move(task));
  }
  template <typename Fn>
  auto RunOnFirstOfTwo(Fn fn) {
    CHECK(!machine_->running());
    machine_->Boot(2);
    return RunBlocking(*machine_->reactor(), fn(*machine_->reactor()));
  }

 private:
  static constexpr uint64_t kSeed = 20240521;
  SimKernel kernel_;
  SimMachine* machine_;
};

// For TYPED_TEST_SUITE.
using ReactorImplementations = ::testing::Types<UringHarness, SimHarness>;
struct ReactorNames {
  template <typename T>
  static std::string GetName(int) {
    return std::is_same_v<T, UringHarness> ? "Uring" : "Sim";
  }
};

#define EXPECT_OK(expr)                                                  \
  do {                                                                   \
    const Status pando_test_status = (expr);                             \
    EXPECT_TRUE(pando_test_status.ok()) << pando_test_status.ToString(); \
  } while (0)

}  // namespace pando
