// LevelAudit: judges what clients of a simulated cluster were told at the levels ONE, ALL, BOUNDED and SESSION.
// Its keys are only put, each time with another value, so that the versions of a key say which write is newer.
//
//   BOUNDED   a read shows a write that was acknowledged at QUORUM or ALL its bound before it began, or a newer one
//   SESSION   a read shows what its session has seen of the key, or something newer
//   ONE       may be lost; but whatever is read was written, and has the version that its writer was told
//   ALL       is no older than QUORUM anywhere; ClusterWorld looks at the replicas themselves
//
// Threads: one.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "src/kvapi/session_token.h"
#include "src/model/types.h"

namespace pando {

struct LevelRequest {
  enum class Kind { kWrite, kBounded, kSession };
  Kind kind = Kind::kWrite;
  std::string key, value;
  WriteLevel level = WriteLevel::kQuorum;
  Nanos max_staleness_ns = 0;
  std::optional<SessionPoint> after;  // what the session has seen of the partition
  Version floor = 0;                  // and of the key
  Nanos invoked_ns = 0;
  // -- the answer
  std::optional<std::string> found;
  Version version = 0;
  std::optional<SessionPoint> end;
  bool carried_is_lost = false;
};

struct LevelSession {
  SessionToken token;
  std::map<std::string, Version> seen;
};

class LevelAudit {
 public:
  void Begin(const LevelRequest& request);
  // Return what is wrong, or "".
  std::string Written(const LevelRequest& request, Nanos now_ns);
  std::string Read(const LevelRequest& request) const;
  // What the key must have in the end.
  std::string Final(const std::string& key, const std::optional<std::string>& found, Version version) const;
  std::vector<std::string> Keys() const;

 private:
  struct Acknowledged {
    Version version = 0;
    Nanos at_ns = 0;
  };
  struct Key {
    std::map<std::string, Version> values;  // 0: what came of it is not known
    std::vector<Acknowledged> kept;         // at QUORUM or ALL
  };
  std::string JudgeValue(const Key& key, const LevelRequest& request) const;
  std::map<std::string, Key> keys_;
};

}  // namespace pando
