// Spawned: a server process of kvbench's own, with a directory of its own.
//
// Threads: the main thread.
#pragma once

#include <signal.h>

#include <string>
#include <utility>
#include <vector>

#include "tools/kvbench/process.h"
#include "tools/kvbench/server.h"

namespace pando::bench {

class Spawned final : public Server {
 public:
  Spawned(std::string system, uint16_t port, ScratchDirectory directory)
      : Server(std::move(system), "127.0.0.1", port), directory_(std::move(directory)) {}

  Status Start(const std::vector<std::string>& args, int core) {
    return process_.StartListening(args, directory_.path() + "/server.log", core, port_);
  }
  double CpuSeconds() const override { return process_.CpuSeconds(); }
  void Pause() override { process_.Signal(SIGSTOP); }
  void Resume() override { process_.Signal(SIGCONT); }

 private:
  ScratchDirectory directory_;  // goes after the process
  Process process_;
};

}  // namespace pando::bench
