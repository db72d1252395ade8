// Client: one blocking connection to a server, with retries.
//
// In a cluster it goes where it is sent: to the master that a NOT_MASTER names, and to another of the
// addresses that it was given if a node cannot be reached.
//
// Threads: one.
//
// A call is retried, with growing pauses, as long as its budget lasts: when the server says that a
// retry helps, and, if the call may be repeated, when the connection broke. After a transport error
// the client drops the connection. If a write was sent and its answer did not come, the error says
// that it is unknown whether the write took effect. A client installs Interrupts: Ctrl-C ends the current call, or
// the pause before a retry, with kAborted. Later calls fail with kAborted at once.
#pragma once

#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gen-cpp/Admin.h"
#include "gen-cpp/Cluster.h"
#include "gen-cpp/Kv.h"
#include "src/base/address.h"
#include "src/base/result.h"
#include "tools/kvadmin/received_page.h"

namespace pando::admin {

struct Target {
  // host:port, with brackets around IPv6; of a cluster several nodes, separated by commas.
  std::string address = "127.0.0.1:7420";
  int64_t timeout_ms = 10'000;  // budget of a call, including retries
};

// The name of a KvError's code.
std::string ErrorName(int32_t code);
// The name that --json gives an error (docs/KVADMIN.md). Where the API has a name for it, it is that.
std::string_view ErrorName(Code code);

// Converts the server's exception to a Status. BAD_REQUEST, TOO_LARGE and BAD_CURSOR become
// kInvalidArgument, CORRUPT becomes kCorruption, and unknown codes become kUnavailable.
Status FromKvError(const api::KvError& error);

// A call of the service. Commands name it through KvIf and AdminIf, whose methods are not templates:
// naming it through KvClient would compile Thrift's codec for the call's types again in each file.
template <typename Reply, typename Request>
using KvMethod = void (api::KvIf::*)(Reply&, const api::Context&, const Request&);
template <typename Reply, typename... Request>
using AdminMethod = void (api::AdminIf::*)(Reply&, const api::Context&, const Request&...);

template <typename Reply, typename... Request>
using ClusterMethod = void (api::ClusterIf::*)(Reply&, const api::Context&, const Request&...);

class Client {
 public:
  // kSafe: a read, or a call of which nothing remains (a snapshot expires by itself).
  // kSafeWrite: a write that may be applied twice.
  // kUnsafe: a write for which applying it twice differs from applying it once (increment,
  // conditions).
  enum class Repeat { kSafe, kSafeWrite, kUnsafe };

  explicit Client(Target target);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // client.Call(Repeat::kSafe, &api::KvIf::get, request) returns the reply.
  template <typename Reply, typename Request>
  Result<Reply> Call(Repeat repeat, KvMethod<Reply, Request> method, const Request& request) {
    Reply reply;
    RETURN_IF_ERROR(Kv(repeat, [&](api::KvIf& kv, const api::Context& context) {
      reply = Reply();  // an attempt that failed may have filled it in part
      (kv.*method)(reply, context, request);
    }));
    return Result<Reply>(std::move(reply));
  }
  template <typename Reply, typename... Request>
  Result<Reply> Call(Repeat repeat, AdminMethod<Reply, Request...> method, const Request&... request) {
    Reply reply;
    RETURN_IF_ERROR(Admin(repeat, [&](api::AdminIf& admin, const api::Context& context) {
      reply = Reply();
      (admin.*method)(reply, context, request...);
    }));
    return Result<Reply>(std::move(reply));
  }

  template <typename Reply, typename... Request>
  Result<Reply> Call(Repeat repeat, ClusterMethod<Reply, Request...> method, const Request&... request) {
    Reply reply;
    RETURN_IF_ERROR(Cluster(repeat, [&](api::ClusterIf& cluster, const api::Context& context) {
      reply = Reply();
      (cluster.*method)(reply, context, request...);
    }));
    return Result<Reply>(std::move(reply));
  }

  // KvIf::scan, without copies of the rows. `page` has no rows of before, whatever comes of it.
  Status Scan(const api::ScanRequest& request, ReceivedPage* page);
  // Sends the request of the next call, so that its reply comes while the caller works. REQUIRES: that call is Scan,
  // with the same request. What fails here, Scan does again.
  void ScanAhead(const api::ScanRequest& request);

  // Runs `call(kv, context)` and converts the exceptions that it throws to a Status.
  using KvCall = std::function<void(api::KvIf&, const api::Context&)>;
  Status Kv(Repeat repeat, const KvCall& call);
  using AdminCall = std::function<void(api::AdminIf&, const api::Context&)>;
  Status Admin(Repeat repeat, const AdminCall& call);
  using ClusterCall = std::function<void(api::ClusterIf&, const api::Context&)>;
  Status Cluster(Repeat repeat, const ClusterCall& call);

  // For pipelining: one attempt without retries. After a transport error (kUnavailable, kDeadline)
  // the connection is dropped, and the next call opens a new one.
  using PipelineCall = std::function<void(api::KvClient&, const api::Context&)>;
  Status Once(const PipelineCall& call);
  const Target& target() const { return target_; }
  // Where the last call went: host:port.
  const std::string& at() const { return at_; }
  // Later calls go to this address, as NOT_MASTER has said, or, without one, to the next one that was given.
  // Drops the connection, and all that is outstanding on it.
  void Redirect(const std::string& master);
  // Shortens the budget of later calls. For cleanup, which must not take long.
  void LimitBudget(int64_t most_ms) { target_.timeout_ms = std::min(target_.timeout_ms, most_ms); }

 private:
  struct Wire;
  using Clock = std::chrono::steady_clock;
  struct Failure {
    Status status;
    bool retryable = false;   // the server says so, and that it applied nothing
    bool broken = false;      // the connection cannot be used any more
    bool foreign = false;     // the peer does not speak Thrift, so repeating the call does not help
    bool never_sent = false;  // the client could not connect
    bool no_answer = false;   // the request was sent, and the outcome is unknown
    bool elsewhere = false;   // NOT_MASTER
    int64_t pause_ms = 0;     // the pause that the server advises
  };
  api::Context ContextFor(int64_t budget_ms);
  Failure Attempt(const std::function<void(Wire&, const api::Context&)>& call, int64_t budget_ms);
  Status Retry(Repeat repeat, const std::function<void(Wire&, const api::Context&)>& call);
  Status FromTransport(const apache::thrift::transport::TTransportException& error, bool never_sent,
                       int64_t budget_ms) const;
  Status NotThrift(const std::string& begin) const;
  Status Resolve();
  void Open(int64_t budget_ms);
  void GoTo(HostPort address);

  Target target_;
  std::vector<HostPort> seeds_;  // what target_.address says; Resolve
  size_t next_seed_ = 0;
  bool redirected_ = false;  // not at a seed
  std::string at_;           // where the calls go now
  std::string host_;
  int port_ = 0;
  std::unique_ptr<Wire> wire_;
};

}  // namespace pando::admin
