// StoryRunner carries out a story (tests/support/story.h) on a simulated cluster, and judges what
// its clients saw.
//
//   StoryRunner runner(seed);
//   std::string problem = runner.Run(story);   // "" if all is well
//
// A machine that the story names for the first time is added with an empty disk. `machine a starts`
// begins a node there. Client N runs on machine clientN, whose clock and reactor are its own, and
// talks to the machine that the story started first. `clients` stands for the machines of all
// clients that the story has used so far. A statement that finds everything as it should become has
// no effect (a crash of a machine that does not run).
//
// After the last statement all faults end, the node starts if it does not run, and one client reads
// every key. The history must then be linearizable: no acknowledged write was lost, no read was
// stale, no write happened twice.
//
// Threads: that of the simulation. Crashed nodes stay allocated for ever, so tests run their
// stories in child processes.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/sim/sim_client.h"
#include "tests/sim/sim_node.h"
#include "tests/support/history.h"
#include "tests/support/sim_kernel.h"
#include "tests/support/story.h"

namespace pando {

class StoryRunner {
 public:
  explicit StoryRunner(uint64_t seed);
  ~StoryRunner();

  // Returns what went wrong, or "". May be called once.
  std::string Run(const std::vector<Statement>& story);

  History& history() { return history_; }
  SimKernel& kernel() { return kernel_; }
  // One line on what happened: events, operations, crashes.
  std::string Summary() const;

 private:
  struct Machine {
    SimMachine* sim = nullptr;
    SimNode* node = nullptr;  // null: not started
    uint32_t reactors = 1;
    std::map<std::string, SimDisk> images;
  };

  void Fail(const Statement& statement, const std::string& what);
  void Carry(const Statement& statement);
  bool CarryNetwork(const Statement& statement);
  bool CarryMachine(const Statement& statement);
  bool CarryDisk(const Statement& statement);
  bool CarryOperation(const Statement& statement);
  void WaitUntil(Nanos time_ns);
  void Start(const Statement& statement, Machine* machine);
  void Stop(const Statement& statement, Machine* machine);
  void Crash(Machine* machine, bool power);
  void Rollback(const Statement& statement, Machine* machine);
  void Work(const Statement& statement);
  void StopClients(const Statement& statement);
  void Finish(const Statement& last);
  Machine& MachineOf(const std::string& name);
  SimClient& ClientOf(int id);
  // The hosts that a name in a statement on the network stands for.
  std::vector<std::string> Hosts(const std::string& name);
  Operation OperationOf(const Statement& statement) const;
  void Judge(const Statement& statement, SimClient::Outcome outcome, const Operation& answer, const std::string& error);

  SimKernel kernel_;
  SimRandom random_;
  History history_;
  Nanos begun_ns_ = 0;
  std::map<std::string, Machine> machines_;
  std::map<int, std::unique_ptr<SimClient>> clients_;
  std::string first_machine_;
  std::string problem_;
  int crashes_ = 0;
};

}  // namespace pando
