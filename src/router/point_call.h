// PointCall: one request that names one key, from its arrival at a router until it is answered.
//
// Threads: one reactor.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/pando_types.h"
#include "src/base/memory_budget.h"
#include "src/router/read_cache.h"
#include "src/router/route_keeper.h"
#include "src/rpc/rpc_server.h"

namespace pando {

struct PointMethod {
  std::string_view name;
  bool is_write = false;
  // Decodes arguments of any form and encodes them in the usual one. An error: they cannot be decoded.
  Status (*normalize)(ThriftCodec* codec, WireProtocol protocol, std::string_view body, MemoryGrant* memory,
                      std::string* usual) = nullptr;
  // The answer to a write, without the value of the record that was there. Nothing: it has none, or cannot be decoded.
  std::optional<std::string> (*leave_value_out)(ThriftCodec* codec, std::string_view body) = nullptr;
  // Answers a request of another protocol with a reply in the binary one.
  void (*translate)(RpcServer* server, const RequestId& id, std::string_view name, std::string_view body) = nullptr;
};
// Null: not a method with one key.
const PointMethod* FindPointMethod(std::string_view name);

struct PointCall final : RpcExchange, InFlight {
  RpcServer* server = nullptr;
  const PointMethod* method = nullptr;
  RequestId id;
  MemoryGrant memory;
  api::Context context;
  std::string rest;      // the arguments without the context
  std::string_view key;  // in `rest`
  uint64_t hash = 0;
  Nanos received_ns = 0, deadline_ns = 0;
  int32_t budget_ms = 0;
  bool answered = false;
  api::KvError error;            // of the last try
  int64_t hlc = 0;               // of the answer
  bool maybe_applied = false;    // a write: an earlier try was sent, and its answer was lost
  bool has_error = false;        // the try that runs was answered with `error`
  bool only_master = true;       // no other replica may answer
  bool may_ask_another = false;  // in this try: another can, so this one is not waited for to the end
  NodeId asked = 0, avoid = 0;   // in this try; in the last one, if it did not answer
  uint64_t seen = 0;             // of the keeper's news, when this try began
  int too_stale = 0;             // so often the master has said that it is

  // Whose share of the calls that may wait it takes (UP3), and whether it may: the node looks whether it has what a
  // session has seen, or what is not too old.
  uint64_t client = 0;
  bool may_wait = false;

  ReadCache::Fill fill;           // a get whose answer may be kept
  WriteStamps* stamps = nullptr;  // a write: counts it (CA2)

  // -- for GetSharing
  bool shareable = false;
  PointCall* lead = nullptr;                        // it is in one of the lists of that call
  PointCall** slot = nullptr;                       // where others find it while it is in flight
  std::vector<std::unique_ptr<PointCall>> waiting;  // equal ones that came after it was sent
  std::vector<std::unique_ptr<PointCall>> sharers;  // equal ones that came before, and get the same answer

  bool may_repeat() const { return !method->is_write || !context.client_id.empty(); }
  bool Outdated(const RouteMap& map) const override {
    return only_master && map.complete() && map.RouteOfHash(hash).master != asked;
  }
  void Fail(const Status& why);

  Status OnReply(const MessageHeader& header, std::string_view body, ThriftCodec* codec) override;
  // Its budget is over while it waits for `lead`: it is answered, and destroyed.
  void AnswerLate();
  // Answers it with an error.
  void Refuse(api::KvError why);
  void End();  // it was answered, and takes nothing any more
  bool ended = false;

 private:
  // Passes the answer on to the client and to the sharers.
  void Pass(const MessageHeader& header, std::string_view body);
};

}  // namespace pando
