// BlockingClient: puts and gets, one at a time, at a group of servers of which one serves a key. It asks the server
// that answered last. If that is gone, or refuses, the next attempt goes to the next one.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "tools/kvbench/process.h"
#include "tools/kvbench/protocol.h"

namespace pando::bench {

class BlockingClient {
 public:
  // `first`: the server to begin with. An attempt fails when there is no answer within `timeout_ms`.
  BlockingClient(const Protocol& protocol, RecordShape shape, std::vector<uint16_t> ports, size_t first,
                 int64_t timeout_ms);

  // One attempt each. Record `index` has the key MakeKey(index) and a value that CheckValue accepts.
  Status Put(uint64_t index);
  Status Get(uint64_t index);  // kNotFound: it is not there. kCorruption: it has another value
  // True if each server has been tried since one succeeded: time for a pause.
  bool TriedAll() const { return tried_ > 0 && tried_ % ports_.size() == 0; }

 private:
  Result<std::string_view> Exchange(const std::string& request);
  Status Failed(Status status);

  const Protocol& protocol_;
  const RecordShape shape_;
  const std::vector<uint16_t> ports_;
  const int64_t timeout_ms_;
  std::vector<Socket> sockets_;  // by port; closed ones are opened when they are needed
  size_t at_;
  size_t tried_ = 0;
  std::string request_, answer_;
};

}  // namespace pando::bench
