// What the conformance suite of topology stores needs of each of them: a reactor, clients, and the
// actions of an operator.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "src/topology/file_topology.h"
#include "src/topology/topology.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/sim_topology.h"
#include "tests/unit/io/reactor_harness.h"

namespace pando::topology_test {

// A topology in memory, on the simulated kernel.
class SimWorld {
 public:
  SimWorld() : machine_(kernel_.AddMachine()) { machine_->Boot(); }
  static std::string Missing() { return ""; }
  Reactor& reactor() { return *machine_->reactor(); }
  Task<Result<std::unique_ptr<TopologyStore>>> Open() {
    co_return std::unique_ptr<TopologyStore>(new SimTopology(reactor(), &server_));
  }
  // Puts back what Backup has kept. False: this store cannot.
  bool Backup() {
    kept_ = server_.Backup();
    return true;
  }
  void Restore() { server_ = *kept_; }

 private:
  SimKernel kernel_{11};
  SimMachine* machine_;
  SimTopologyServer server_;
  std::optional<SimTopologyServer> kept_;
};

// A directory, on the simulated kernel.
class SimFileWorld {
 public:
  SimFileWorld() : machine_(kernel_.AddMachine()) {
    machine_->disk().WriteAll("/topology/.keep", "");
    machine_->Boot();
  }
  static std::string Missing() { return ""; }
  Reactor& reactor() { return *machine_->reactor(); }
  Task<Result<std::unique_ptr<TopologyStore>>> Open() { return FileTopology::Open(reactor(), "/topology"); }
  bool Backup() {
    for (const std::string& path : machine_->disk().AllFiles()) {
      if (path.starts_with("/topology/")) kept_[path] = machine_->disk().ReadAll(path);
    }
    return true;
  }
  void Restore() {
    machine_->disk().MoveDirectory("/topology", "/topology.damaged");
    for (const auto& [path, contents] : kept_) machine_->disk().WriteAll(path, contents);
  }

 private:
  SimKernel kernel_{12};
  SimMachine* machine_;
  std::map<std::string, std::string> kept_;
};

// A directory of this machine.
class FileWorld {
 public:
  FileWorld() {
    std::string pattern = (std::filesystem::current_path() / "topology_test_XXXXXX").string();
    CHECK(mkdtemp(pattern.data())) << pattern;
    root_ = pattern;
    std::filesystem::create_directory(root_ / "topology");
    auto made = MakeUringReactor({});
    CHECK(made.ok()) << made.status().ToString();
    reactor_ = *std::move(made);
  }
  ~FileWorld() {
    reactor_.reset();
    std::filesystem::remove_all(root_);
  }
  static std::string Missing() { return ""; }
  Reactor& reactor() { return *reactor_; }
  Task<Result<std::unique_ptr<TopologyStore>>> Open() { return FileTopology::Open(*reactor_, root_ / "topology"); }
  bool Backup() {
    std::filesystem::copy(root_ / "topology", root_ / "backup");
    return true;
  }
  void Restore() {
    std::filesystem::rename(root_ / "topology", root_ / "damaged");
    std::filesystem::rename(root_ / "backup", root_ / "topology");
  }

 private:
  std::filesystem::path root_;
  std::unique_ptr<Reactor> reactor_;
};

// Spawns tasks that are functions of their arguments, and waits for all.
class Together {
 public:
  void Add(Task<void> task) { group_.Spawn(std::move(task)); }
  auto Wait() { return group_.Drain(); }
  size_t running() const { return group_.running(); }

 private:
  TaskGroup group_;
};

}  // namespace pando::topology_test
