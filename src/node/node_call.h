// CallNode: one call of the Cluster service of another node, over a connection of its own.
//
// Threads: one reactor.
#pragma once

#include <string>

#include "src/base/address.h"
#include "src/io/reactor.h"
#include "src/rpc/rpc_client.h"

namespace pando {

inline constexpr Nanos kNodeConnectNs = kSecond;

// `address`: where the node serves clients. `args` and `reply` are the generated Cluster_xxx_args and
// Cluster_xxx_result, and outlive the call. kUnavailable: the node refused it, with its reason, or could not be asked.
template <typename Args, typename Reply>
Task<Status> CallNode(Reactor& reactor, std::string address, const char* method, Args* args, Reply* reply,
                      Nanos timeout_ns) {
  CO_ASSIGN_OR_RETURN(const HostPort at, ParseHostPort(address));
  RpcClient client(reactor);
  Status status = co_await client.Connect(at.host, at.port, kNodeConnectNs);
  if (status.ok()) status = co_await client.Call(method, args, reply, timeout_ns);
  co_await client.Close();
  CO_RETURN_IF_ERROR(status);
  if (reply->__isset.success) co_return Status();
  co_return Error(Code::kUnavailable, "{}", reply->__isset.error ? reply->error.message : "the answer has no result");
}

}  // namespace pando
