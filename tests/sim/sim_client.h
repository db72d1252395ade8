// SimClient: a client of a simulated node. It runs on a machine of its own, speaks Thrift over the
// simulated network, and records in a History what it asked for and what it learned.
//
// When a call gets no answer, or an error that does not say that nothing happened, the client does
// not know the outcome: the operation stays open in the history, and the client connects again
// before its next one. It never sends an operation twice.
//
// Threads: that of the simulation.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "src/rpc/rpc_client.h"
#include "tests/support/history.h"
#include "tests/support/sim_kernel.h"

namespace pando {

class SimClient {
 public:
  enum class Outcome {
    kDone,     // it took effect; a read returned
    kRefused,  // the condition of a swap did not hold
    kFailed,   // it had no effect
    kUnknown,
  };
  // What random work consists of.
  struct Work {
    int keys = 1;
    Nanos most_think_ns = 20 * kMillisecond;
  };

  SimClient(int id, SimReactor* reactor, History* history, uint64_t seed)
      : id_(id), reactor_(*reactor), history_(*history), random_(seed) {}

  // The node that the client talks to from its next connection on.
  void SetServer(std::string host, uint16_t port) { host_ = std::move(host), port_ = port; }

  // Does the operation and returns its outcome. `answer`, if it is not null, gets the operation with
  // its answer; `error` says why it failed.
  Task<Outcome> Do(Operation operation, Operation* answer = nullptr, std::string* error = nullptr);
  // Random operations until StopWork. The keys are k1, k2, ... for registers and n1, n2, ... for
  // counters.
  Task<void> RandomWork(Work work);
  void StopWork() { stopping_ = true; }
  bool working() const { return working_; }
  // Closes the connection.
  Task<void> Close();

  SimReactor& reactor() { return reactor_; }
  int id() const { return id_; }

 private:
  struct Answer {
    Outcome outcome = Outcome::kUnknown;
    std::string error;
  };
  Task<bool> Connected();
  Task<Answer> Send(Operation* op);
  template <typename Reply>
  Answer Judge(const Status& status, const Reply& reply, bool is_read);
  Operation RandomOperation(const Work& work);

  const int id_;
  SimReactor& reactor_;
  History& history_;
  SimRandom random_;
  std::string host_;
  uint16_t port_ = 0;
  std::unique_ptr<RpcClient> client_;
  bool busy_ = false;    // an operation runs; others wait
  bool broken_ = false;  // connect again before the next operation
  std::optional<std::string> last_seen_;
  uint64_t writes_ = 0;
  bool stopping_ = false, working_ = false;
};

}  // namespace pando
