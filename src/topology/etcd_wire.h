// The requests that Pando sends to etcd's JSON gateway (v3), and the answers that it understands.
//
// What etcd does that is easy to get wrong, and that these functions take care of: fields that are
// false, zero or empty are left out of answers; 64-bit numbers are strings; keys and values are
// base64; a field whose name etcd does not know is ignored without an error, so the requests are
// tested against golden text and against real servers.
//
// Threads: pure functions.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "src/topology/topology_store.h"

namespace pando {

// The keys of one topology all begin with its prefix, "/pando/NAME/". Requests add it, and answers
// must have it.
struct EtcdKeys {
  std::string prefix;
};

// Writes if the key's revision is the expected one.
std::string EtcdSwapRequest(const EtcdKeys& keys, const std::string& key, Revision expected, const std::string& value);
// Reads are transactions too, with a condition that is never true, and a put that is never done. For
// etcd they are writes, which only the present leader can have agreed on; a mere read can be stale
// after a change of leader.
std::string EtcdReadRequest(const EtcdKeys& keys, const std::string& key);
// At most `limit` keys.
std::string EtcdListRequest(const EtcdKeys& keys, size_t limit);
// Only what tells the revision of the store.
std::string EtcdRevisionRequest(const EtcdKeys& keys);
// At most `limit` keys, of those whose newest revision is `from` or more.
std::string EtcdChangedRequest(const EtcdKeys& keys, Revision from, size_t limit);
// All changes from the revision `from` on.
std::string EtcdWatchRequest(const EtcdKeys& keys, Revision from);

struct EtcdHeader {
  uint64_t cluster_id = 0;
  Revision revision = 0;  // of the store
};
struct EtcdSwapAnswer {
  EtcdHeader header;
  bool succeeded = false;
};
struct EtcdRangeAnswer {
  EtcdHeader header;
  std::vector<TopologyEntry> entries;  // without the prefix
  bool more = false;                   // than the limit
  uint64_t count = 0;                  // of all keys in the range, whatever their revisions
};
// All return kCorruption for an answer that etcd does not give.
Result<EtcdSwapAnswer> DecodeEtcdSwap(std::string_view body);
Result<EtcdRangeAnswer> DecodeEtcdRange(const EtcdKeys& keys, std::string_view body);

// One line of the answer to a watch.
struct EtcdWatchLine {
  EtcdHeader header;
  bool created = false, canceled = false;
  Revision compacted = 0;  // if it was cancelled because older changes are no longer there
  std::string reason;      // if it was cancelled, or failed
  bool deleted = false;    // a key was removed
  std::vector<TopologyEntry> entries;
};
Result<EtcdWatchLine> DecodeEtcdWatch(const EtcdKeys& keys, std::string_view line);

// What an answer with an HTTP status other than 200 says.
struct EtcdError {
  int code = 0;  // of gRPC; 0: the answer is not etcd's
  std::string message;
  // The request was refused before it could have an effect.
  bool IsRefusal() const;
};
EtcdError DecodeEtcdError(std::string_view body);

}  // namespace pando
