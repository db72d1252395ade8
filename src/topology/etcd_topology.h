// EtcdTopology keeps the cluster map in etcd (3.4 or later), through its JSON gateway. No lease and
// no lock of etcd is used, only transactions.
//
// It knows several endpoints and uses the one that answered last. A request that fails goes to the
// next one. A compare-and-swap does so only if it certainly has not been sent; otherwise its outcome
// is unknown.
//
// ReadChanges asks for the revision of the store first. Only if that is another one does it ask for what has changed
// since, because etcd reads all keys for that. So it is cheap as long as nobody else writes to the same etcd.
//
// A wait for changes is one request that asks for everything after a revision, and ends with the
// first answer. So nothing is lost between two waits, whichever member answers them. When etcd has
// compacted the changes that are asked for, that is a gap.
//
// Threads: one reactor.
//
// Invariants
//   ET1  A compare-and-swap is sent at most once.
//   ET2  Reads, lists and compare-and-swaps are transactions that etcd's leader had agreed on.
//   ET3  All answers come from the same etcd cluster as the first one.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "src/io/http_client.h"
#include "src/topology/etcd_wire.h"
#include "src/topology/topology_store.h"

namespace pando {

struct EtcdOptions {
  std::vector<std::string> endpoints;  // host:port
  std::string name;                    // of the topology; its keys begin with /pando/NAME/
  // PEM files. With `ca_file`, endpoints are reached through TLS; the other two prove who we are.
  std::string ca_file, cert_file, key_file;
};

class EtcdTopology final : public TopologyStore {
 public:
  static constexpr Nanos kConnectTimeoutNs = kSecond;
  static constexpr Nanos kMinTryNs = 300 * kMillisecond;  // for one endpoint, if there is as much time left
  // Of a listing: base64, and about 200 bytes around each key. A wait's answer may hold each change.
  static constexpr size_t kMaxAnswerBytes = kMaxTopologyBytes * 2 + kMaxTopologyKeys * 256;

  // Nothing is connected to before the first call.
  EtcdTopology(Reactor& reactor, std::unique_ptr<HttpClient> http, EtcdOptions options);

  Task<Result<TopologyEntry>> Read(std::string key, Nanos deadline_ns) override;
  Task<Result<TopologyListing>> List(Nanos deadline_ns) override;
  Task<Result<TopologyChanges>> ReadChanges(Revision after, Nanos deadline_ns) override;
  Task<Result<CasOutcome>> CompareAndSwap(std::string key, Revision expected, std::string value,
                                          Nanos deadline_ns) override;
  Task<Result<TopologyChanges>> WaitForChange(Revision after, Nanos deadline_ns) override;
  void EndWaits() override { http_->EndWaits(); }
  Task<Status> Close() override;
  bool one_counter() const override { return true; }
  const std::string& name() const override { return name_; }

 private:
  struct Reply {
    Status failure;        // of all endpoints that were asked; or OK
    bool unknown = false;  // it failed, and etcd may have acted
  };
  using Take = std::function<Status(const std::string& body)>;
  HttpRequest MakeRequest(size_t endpoint, const char* path, std::string body) const;
  // Asks one endpoint after the other.
  Task<Reply> Ask(std::string body, bool once, Nanos deadline_ns, const Take& take);
  Task<Result<EtcdRangeAnswer>> AskRange(std::string body, Nanos deadline_ns);
  Result<MemoryGrant> CheckEntries(const EtcdRangeAnswer& answer) const;
  Result<TopologyChanges> DecodeChanges(Revision after, const HttpAnswer& answer);
  Status CheckCluster(const EtcdHeader& header);
  std::string Describe(size_t endpoint, const HttpAnswer& answer) const;

  Reactor& reactor_;
  std::unique_ptr<HttpClient> http_;
  const EtcdOptions options_;
  const EtcdKeys keys_;
  std::string name_;
  size_t preferred_ = 0;     // of the endpoints
  uint64_t cluster_id_ = 0;  // of etcd; 0: not known yet
};

}  // namespace pando
